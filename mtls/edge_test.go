package mtls_test

import (
	"crypto/tls"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
)

func TestEdge(t *testing.T) {
	t.Parallel()
	ca := gatemesh.Must(devca.New(domain))
	cert, err := ca.ServerCertificate("shop.example", "127.0.0.1")
	require.NoError(t, err)
	dir := t.TempDir()
	pems(t, cert, nil).write(t, dir)
	loaded, err := mtls.LoadEdge(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"))
	require.NoError(t, err)
	given, err := mtls.Edge(mtls.EdgeConfig{Certificates: []tls.Certificate{cert}})
	require.NoError(t, err)
	chosen, err := mtls.Edge(mtls.EdgeConfig{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil }})
	require.NoError(t, err)

	for name, cfg := range map[string]*tls.Config{"loaded": loaded, "given": given, "chosen": chosen} {
		addr, _ := serve(t, cfg, true, http.NotFoundHandler())
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
}

func TestEdge_Invalid(t *testing.T) {
	t.Parallel()
	_, err := mtls.Edge(mtls.EdgeConfig{})
	assert.ErrorContains(t, err, "required")
	_, err = mtls.Edge(mtls.EdgeConfig{Certificates: []tls.Certificate{{}}, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil }})
	assert.ErrorContains(t, err, "required")
	assert.ErrorContains(t, err, "Certificates[0]")
	_, err = mtls.LoadEdge("absent", "absent")
	assert.Error(t, err)
}
