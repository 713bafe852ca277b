package main

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh/mtls/devca"
)

// site writes a new certificate into a folder, key first, as one should not.
func site(t *testing.T, ca *devca.CA, dir, host string) (leaf []byte) {
	t.Helper()
	cert, err := ca.ServerCertificate(host)
	require.NoError(t, err)
	certPEM, keyPEM, err := devca.EncodePEM(cert)
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(dir, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tls.key"), keyPEM, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tls.crt"), certPEM, 0o600))
	return cert.Certificate[0]
}

// partner returns an authority in PEM form and a client certificate of it.
func partner(t *testing.T) (roots string, cert tls.Certificate) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "partners"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	ca, err := x509.CreateCertificate(nil, root, root, key.Public(), key)
	require.NoError(t, err)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "partner"}, NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(nil, leaf, root, key.Public(), key)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca})), tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func tlsClient(t *testing.T, ca *devca.CA, addr net.Addr, change func(*http.Transport)) *http.Client {
	t.Helper()
	tr := &http.Transport{
		ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: ca.Pool(), MinVersion: tls.VersionTLS12},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, addr.String())
		},
	}
	change(tr)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// Certificates are renewed under load: new connections see the new one, live
// ones go on, and no request fails.
func TestTLSRenewal(t *testing.T) {
	ca, err := devca.New("public.example")
	require.NoError(t, err)
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	site(t, ca, a, "a.example")
	site(t, ca, b, "b.example")
	addr := startWith(t, func(o *options) { o.reread = 10 * time.Millisecond }, "-upstream", "default="+upstream(t),
		"-tls-cert", filepath.Join(a, "tls.crt"), "-tls-key", filepath.Join(a, "tls.key"),
		"-tls-cert", filepath.Join(b, "tls.crt"), "-tls-key", filepath.Join(b, "tls.key"))["public"]
	seen := func(host string) []byte {
		conn, err := tls.Dial("tcp", addr.String(), &tls.Config{RootCAs: ca.Pool(), ServerName: host})
		require.NoError(t, err)
		defer func() { _ = conn.Close() }()
		return conn.ConnectionState().PeerCertificates[0].Raw
	}

	ctx, stop := context.WithCancel(t.Context())
	var load sync.WaitGroup
	defer load.Wait()
	defer stop()
	var requests [3]atomic.Int64
	for i, change := range []func(*http.Transport){
		func(tr *http.Transport) {}, // HTTP/2
		func(tr *http.Transport) { tr.ForceAttemptHTTP2 = false },
		func(tr *http.Transport) { // a resumed session for each request
			tr.DisableKeepAlives, tr.ForceAttemptHTTP2 = true, false
			tr.TLSClientConfig.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		},
	} {
		client := tlsClient(t, ca, addr, change)
		load.Go(func() {
			for ctx.Err() == nil {
				resp, err := client.Get("https://a.example/")
				if !assert.NoError(t, err) {
					return
				}
				_ = resp.Body.Close()
				if !assert.Equal(t, http.StatusOK, resp.StatusCode) {
					return
				}
				requests[i].Add(1)
			}
		})
	}
	answered := func() (n [3]int64) {
		for i := range requests {
			n[i] = requests[i].Load()
		}
		return n
	}
	for range 5 {
		before := answered()
		leaf, other := site(t, ca, a, "a.example"), seen("b.example")
		require.Eventually(t, func() bool { return string(seen("a.example")) == string(leaf) }, 10*time.Second, time.Millisecond)
		assert.Equal(t, other, seen("b.example"))
		after := answered()
		require.Eventually(t, func() bool {
			now := answered()
			return now[0] > after[0] && now[1] > after[1] && now[2] > after[2]
		}, 10*time.Second, time.Millisecond, "all go on; before: %v", before)
	}
}

// A folder of certificates, a default and certificates of clients.
func TestTLSFolder(t *testing.T) {
	ca, err := devca.New("public.example")
	require.NoError(t, err)
	partners, partner := partner(t)
	stranger, err := ca.Issue("spiffe://public.example/a", time.Hour)
	require.NoError(t, err)
	dir := t.TempDir()
	first := site(t, ca, filepath.Join(dir, "a"), "a.example")
	site(t, ca, filepath.Join(dir, "b"), "b.example")
	clientCA := file(t, "ca.crt", partners)
	args := []string{"-upstream", "default=" + upstream(t), "-tls-dir", dir, "-tls-default", "a.example"}
	addr := startWith(t, func(o *options) { o.reread = 10 * time.Millisecond }, args...)["public"]
	seen := func(host string) []byte {
		conn, err := tls.Dial("tcp", addr.String(), &tls.Config{InsecureSkipVerify: true, ServerName: host})
		require.NoError(t, err)
		defer func() { _ = conn.Close() }()
		return conn.ConnectionState().PeerCertificates[0].Raw
	}
	assert.Equal(t, first, seen("c.example"), "the default")
	leaf := site(t, ca, filepath.Join(dir, "c"), "c.example")
	require.Eventually(t, func() bool { return string(seen("c.example")) == string(leaf) }, 10*time.Second, time.Millisecond)

	for _, optional := range []bool{false, true} {
		more := append(args, "-tls-client-ca", clientCA)
		if optional {
			more = append(more, "-tls-client-auth", "optional")
		}
		addr := startGateway(t, more...)["public"]
		get := func(certs ...tls.Certificate) error {
			resp, err := tlsClient(t, ca, addr, func(tr *http.Transport) {
				tr.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
					if len(certs) == 0 {
						return &tls.Certificate{}, nil
					}
					return &certs[0], nil // whether the server would take it or not
				}
			}).Get("https://a.example/")
			if err == nil {
				assert.Equal(t, http.StatusOK, resp.StatusCode)
				_ = resp.Body.Close()
			}
			return err
		}
		if err := get(); optional {
			assert.NoError(t, err)
		} else {
			assert.Error(t, err)
		}
		assert.NoError(t, get(partner))
		assert.Error(t, get(stranger))
	}
}
