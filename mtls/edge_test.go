package mtls_test

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
)

var versions = []uint16{tls.VersionTLS12, tls.VersionTLS13}

func TestEdge(t *testing.T) {
	t.Parallel()
	ca := gatemesh.Must(devca.New(domain))
	cert, err := ca.ServerCertificate("shop.example", "127.0.0.1")
	require.NoError(t, err)
	dir := t.TempDir()
	for name, cfg := range map[string]mtls.EdgeConfig{
		"files":  {Pairs: []mtls.EdgePair{store(t, dir, cert)}},
		"folder": {Folder: dir},
		"memory": {Certificates: []tls.Certificate{cert}},
	} {
		e := newEdge(t, cfg)
		addr, _ := serve(t, e.TLSConfig(), true, http.NotFoundHandler())
		for _, c := range []struct {
			version uint16
			proto   string
		}{{tls.VersionTLS12, "h2"}, {tls.VersionTLS12, "http/1.1"}, {tls.VersionTLS13, "h2"}, {tls.VersionTLS13, "http/1.1"}} {
			ours := &tls.Config{
				RootCAs: ca.Pool(), ServerName: "shop.example", MaxVersion: c.version, NextProtos: []string{c.proto},
				ClientSessionCache: tls.NewLRUClientSessionCache(1),
			}
			for visit := range 2 {
				conn, err := (&tls.Dialer{Config: ours}).DialContext(t.Context(), "tcp", addr)
				require.NoError(t, err, name)
				_, err = conn.Write([]byte(firstBytes[c.proto]))
				require.NoError(t, err)
				_, err = conn.Read(make([]byte, 1)) // TLS 1.3 sends tickets after the handshake
				require.NoError(t, err)
				state := conn.(*tls.Conn).ConnectionState()
				assert.Equal(t, c.proto, state.NegotiatedProtocol)
				assert.Equal(t, visit == 1, state.DidResume, "%s: %s", name, tls.VersionName(c.version))
				require.NoError(t, conn.Close())
			}
		}
		old := &tls.Config{RootCAs: ca.Pool(), ServerName: "shop.example", MinVersion: tls.VersionTLS11, MaxVersion: tls.VersionTLS11}
		_, err = (&tls.Dialer{Config: old}).DialContext(t.Context(), "tcp", addr)
		require.ErrorContains(t, err, "version", name)
	}

	// A server that speaks HTTP/1.1 only.
	e := newEdge(t, mtls.EdgeConfig{Folder: dir, DisableHTTP2: true})
	_, theirs, err := shake(t, e.TLSConfig(), &tls.Config{RootCAs: ca.Pool(), ServerName: "shop.example", NextProtos: []string{"h2", "http/1.1"}})
	require.NoError(t, err)
	assert.Equal(t, "http/1.1", theirs.NegotiatedProtocol)
}

func TestEdge_Names(t *testing.T) {
	t.Parallel()
	root := newAuthority(t)
	cfg := mtls.EdgeConfig{
		Pairs: []mtls.EdgePair{
			pairOf(t, root.site(t, "*.shop.example", "shop.example")),
			pairOf(t, root.site(t, "API.shop.example")),
		},
		Certificates: []tls.Certificate{root.site(t, "10.0.0.1", "10.0.0.2")},
	}
	e := newEdge(t, cfg)
	seen := func(name string) (first string) {
		_, theirs, err := shake(t, e.TLSConfig(), &tls.Config{InsecureSkipVerify: true, ServerName: name})
		if err != nil {
			assert.ErrorContains(t, err, "unrecognized name")
			return "refused"
		}
		leaf := theirs.PeerCertificates[0]
		if len(leaf.DNSNames) == 0 {
			return leaf.IPAddresses[0].String()
		}
		return leaf.DNSNames[0]
	}
	names := map[string]string{
		"shop.example": "*.shop.example", "www.shop.example": "*.shop.example", "WWW.Shop.Example": "*.shop.example",
		"api.shop.example": "API.shop.example", "a.api.shop.example": "refused", "a.www.shop.example": "refused",
		"example": "refused", "": "refused", "other.example": "refused", "10.0.0.1": "refused", // sent without SNI
	}
	for name, want := range names {
		assert.Equal(t, want, seen(name), name)
	}
	for def, want := range map[string]string{"Api.Shop.Example": "API.shop.example", "any.shop.example": "*.shop.example", "10.0.0.2": "10.0.0.1"} {
		cfg.Default = def
		require.NoError(t, e.Update(cfg))
		for name, own := range names {
			if own == "refused" {
				own = want
			}
			assert.Equal(t, own, seen(name), "%s, default %s", name, def)
		}
	}
	cfg.Default = "other.example"
	require.ErrorContains(t, e.Update(cfg), `EdgeConfig.Default: no certificate is for "other.example"`)

	// The only certificate is for everybody.
	cfg.Default, cfg.Pairs, cfg.Certificates = "", cfg.Pairs[1:], nil
	require.NoError(t, e.Update(cfg))
	for name := range names {
		assert.Equal(t, "API.shop.example", seen(name), name)
	}
}

// Several certificates for one name: what the client supports, then what is valid.
func TestEdge_SameName(t *testing.T) {
	t.Parallel()
	root := newAuthority(t)
	expired := root.siteWith(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, "a.example")
	good := root.site(t, "a.example")
	rsaCert := rsaSite(t, root, "a.example")
	e := newEdge(t, mtls.EdgeConfig{Certificates: []tls.Certificate{expired, rsaCert, good}})
	got := func(suites ...uint16) []byte {
		_, theirs, err := shake(t, e.TLSConfig(), &tls.Config{InsecureSkipVerify: true, ServerName: "a.example", MaxVersion: tls.VersionTLS12, CipherSuites: suites})
		require.NoError(t, err)
		return theirs.PeerCertificates[0].Raw
	}
	assert.Equal(t, good.Certificate[0], got(tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256))
	assert.Equal(t, rsaCert.Certificate[0], got(tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256))
	require.NoError(t, e.Update(mtls.EdgeConfig{Certificates: []tls.Certificate{rsaCert, expired}}))
	assert.Equal(t, expired.Certificate[0], got(tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256), "rather than none")
}

func TestEdge_Invalid(t *testing.T) {
	t.Parallel()
	root := newAuthority(t)
	good := root.site(t, "a.example")
	valid := mtls.EdgeConfig{Certificates: []tls.Certificate{good}}
	e := newEdge(t, valid)
	ca := filepath.Join(t.TempDir(), "ca.crt")
	put(t, ca, root.pem(t))
	leafCA := filepath.Join(t.TempDir(), "ca.crt")
	put(t, leafCA, pems(t, good, nil).cert)
	for name, c := range map[string]struct {
		change func(*mtls.EdgeConfig)
		want   []string
	}{
		"nothing": {func(c *mtls.EdgeConfig) { *c = mtls.EdgeConfig{} }, []string{"one of EdgeConfig.Pairs"}},
		"many": {func(c *mtls.EdgeConfig) {
			*c = mtls.EdgeConfig{Pairs: []mtls.EdgePair{{}, {Cert: "a"}, {Key: "a"}}, Clients: 9, TicketRotation: -1, Interval: -1}
		}, []string{"Pairs[0]", "Pairs[1]", "Pairs[2]", "Clients has no value 9", "TicketRotation", "Interval"}},
		"CA for nothing":   {func(c *mtls.EdgeConfig) { c.ClientCA = ca }, []string{"ClientCA is for"}},
		"no CA":            {func(c *mtls.EdgeConfig) { c.Clients = mtls.EdgeClientsOptional }, []string{"ClientCA is required"}},
		"no CA, required":  {func(c *mtls.EdgeConfig) { c.Clients = mtls.EdgeClientsRequired }, []string{"ClientCA is required"}},
		"CA is a leaf":     {func(c *mtls.EdgeConfig) { c.Clients, c.ClientCA = mtls.EdgeClientsOptional, leafCA }, []string{leafCA, "no CA"}},
		"empty":            {func(c *mtls.EdgeConfig) { c.Certificates = []tls.Certificate{{}, {}} }, []string{"Certificates[0]", "Certificates[1]"}},
		"no key":           {func(c *mtls.EdgeConfig) { c.Certificates[0].PrivateKey = nil }, []string{"private key"}},
		"another key":      {func(c *mtls.EdgeConfig) { c.Certificates[0].PrivateKey = root.key }, []string{"private key"}},
		"not DER":          {func(c *mtls.EdgeConfig) { c.Certificates[0].Certificate = [][]byte{{1}} }, []string{"Certificates[0]"}},
		"no name":          {func(c *mtls.EdgeConfig) { c.Certificates[0] = root.site(t) }, []string{"no DNS name"}},
		"for clients":      {func(c *mtls.EdgeConfig) { c.Certificates[0] = customer(t, root) }, []string{"not for servers"}},
		"files not there":  {func(c *mtls.EdgeConfig) { c.Pairs = []mtls.EdgePair{{Cert: "/absent/a", Key: "/absent/b"}} }, []string{"/absent/a", "/absent/b"}},
		"folder not there": {func(c *mtls.EdgeConfig) { c.Folder = "/absent" }, []string{"EdgeConfig.Folder"}},
		"folder is a file": {func(c *mtls.EdgeConfig) { c.Folder = ca }, []string{"not a folder"}},
		"folder is empty":  {func(c *mtls.EdgeConfig) { *c = mtls.EdgeConfig{Folder: t.TempDir()} }, []string{"no certificate"}},
	} {
		cfg := valid
		cfg.Certificates = slices.Clone(valid.Certificates)
		c.change(&cfg)
		none, err := mtls.NewEdge(cfg)
		assert.Nil(t, none, name)
		for _, want := range c.want {
			assert.ErrorContains(t, err, want, name)
			assert.ErrorContains(t, e.Update(cfg), want, name)
		}
		_, _, err = shake(t, e.TLSConfig(), &tls.Config{RootCAs: root.pool(), ServerName: "a.example"})
		assert.NoError(t, err, "%s: the old one stays", name)
	}

	require.NoError(t, e.Close())
	require.NoError(t, e.Close())
	require.ErrorContains(t, e.Update(valid), "closed")
	_, _, err := shake(t, e.TLSConfig(), &tls.Config{RootCAs: root.pool(), ServerName: "a.example"})
	require.NoError(t, err, "goes on")
	assert.Len(t, e.Status(), 1)

	var zero mtls.Edge
	require.ErrorContains(t, zero.Update(valid), "NewEdge")
	require.NoError(t, zero.Close())
	_, _, err = shake(t, zero.TLSConfig(), &tls.Config{RootCAs: root.pool(), ServerName: "a.example"})
	require.Error(t, err)
	_, err = zero.Client(&tls.ConnectionState{HandshakeComplete: true})
	require.ErrorContains(t, err, "NewEdge")
	assert.Empty(t, zero.Status())
}

// Sessions are resumed with tickets of this period and the one before it, in
// whatever configuration, and with no older ones.
func TestEdge_TicketRotation(t *testing.T) {
	t.Parallel()
	for _, version := range versions {
		synctest.Test(t, func(t *testing.T) {
			root := newAuthority(t)
			year := func(c *x509.Certificate) { c.NotAfter = time.Now().AddDate(1, 0, 0) }
			pair := pairOf(t, root.siteWith(t, year, "a.example"))
			cfg := mtls.EdgeConfig{Pairs: []mtls.EdgePair{pair}, TicketRotation: time.Hour}
			e := newEdge(t, cfg)
			other := newEdge(t, cfg)
			client := func() *tls.Config { return visitor(root, version, "a.example") }

			c := client()
			assert.False(t, resumes(t, e, c))
			assert.True(t, resumes(t, e, c))
			assert.True(t, resumes(t, e, c))
			assert.False(t, resumes(t, other, c), "the keys are its own")

			// A ticket of the end of its period is good until the end of the next.
			late := client()
			assert.False(t, resumes(t, e, late))
			time.Sleep(2*time.Hour - time.Nanosecond) // nobody has called in the second
			ticket := &once{cache: late.ClientSessionCache}
			late.ClientSessionCache = ticket
			assert.True(t, resumes(t, e, late))
			time.Sleep(time.Nanosecond)
			assert.False(t, resumes(t, e, late), "the same ticket")

			// A renewed certificate, with the same names, resumes; and so does another configuration.
			c = client()
			assert.False(t, resumes(t, e, c))
			store(t, filepath.Dir(pair.Cert), root.siteWith(t, year, "a.example"))
			time.Sleep(11 * time.Second)
			assert.True(t, resumes(t, e, c))
			cfg.Certificates = []tls.Certificate{root.site(t, "b.example")}
			cfg.TicketRotation = 30 * time.Minute
			require.NoError(t, e.Update(cfg))
			assert.True(t, resumes(t, e, c))
			time.Sleep(29 * time.Minute)
			ticket = &once{cache: c.ClientSessionCache}
			c.ClientSessionCache = ticket
			assert.True(t, resumes(t, e, c))
			time.Sleep(31 * time.Minute)
			assert.False(t, resumes(t, e, c), "the period is shorter now")

			c = client()
			assert.False(t, resumes(t, e, c))
			cfg.DisableTickets = true
			require.NoError(t, e.Update(cfg))
			assert.False(t, resumes(t, e, c))
			assert.False(t, resumes(t, e, c))
		})
	}
}

// No session is resumed at a certificate for other names.
func TestEdge_TicketNames(t *testing.T) {
	t.Parallel()
	root := newAuthority(t)
	e := newEdge(t, mtls.EdgeConfig{Certificates: []tls.Certificate{
		root.site(t, "a.example", "b.example"), root.site(t, "c.example", "d.example"), root.site(t, "b.example", "a.example"),
	}})
	for _, version := range versions {
		for name, want := range map[string]bool{"a.example": true, "b.example": true, "c.example": false} {
			c := visitor(root, version, "a.example")
			c.InsecureSkipVerify, c.ClientSessionCache = true, &anywhere{}
			assert.False(t, resumes(t, e, c))
			c.ServerName = name
			assert.Equal(t, want, resumes(t, e, c), "%s %s", name, tls.VersionName(version))
		}
	}
}
