package mtls_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
)

// knock makes a handshake, sends what a client of the negotiated protocol would
// send first, and returns how many bytes came back until the server closed.
func knock(t *testing.T, addr string, cfg *tls.Config) (int64, error) {
	t.Helper()
	raw, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
	require.NoError(t, err)
	defer func() { _ = raw.Close() }()
	require.NoError(t, raw.SetDeadline(time.Now().Add(30*time.Second)))
	c := tls.Client(raw, cfg)
	if err := c.HandshakeContext(t.Context()); err != nil {
		return 0, err
	}
	// With TLS 1.3 the client is done before the server has judged it, so the
	// write may work.
	_, _ = io.WriteString(c, firstBytes[cfg.NextProtos[0]])
	return io.Copy(io.Discard, c)
}

// firstBytes are what a client of the protocol sends first.
var firstBytes = map[string]string{
	"http/1.1": "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
	"h2":       "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
}

// echo serves "ok" to whom the handshake lets in.
func echo(t *testing.T, cfg *tls.Config) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer func() { _ = raw.Close() }()
				c := tls.Server(raw, cfg)
				if c.HandshakeContext(context.Background()) == nil {
					_, _ = io.WriteString(c, "ok")
					_ = c.Close()
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

func visit(t *testing.T, addr string, cfg *tls.Config) (resumed bool, err error) {
	t.Helper()
	d := tls.Dialer{Config: cfg}
	c, err := d.DialContext(t.Context(), "tcp", addr)
	if err != nil {
		return false, err
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return false, err
	}
	b, err := io.ReadAll(c)
	if err == nil && string(b) != "ok" {
		err = fmt.Errorf("got %q", b)
	}
	return c.(*tls.Conn).ConnectionState().DidResume, err
}

func TestMTLS05_Resumption(t *testing.T) {
	t.Parallel()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, keys := range []bool{false, true} {
			for _, change := range []string{"authorizer denies", "root removed"} {
				t.Run(fmt.Sprintf("%s/keys=%t/%s", tls.VersionName(version), keys, change), func(t *testing.T) {
					t.Parallel()
					_, server, client, serverSource, _ := pair(t)
					cfg := server.ServerConfig()
					// As shipped nothing is resumed. What must hold is that a
					// resumed session is judged where somebody allows them.
					cfg.SessionTicketsDisabled = false
					cfg.MinVersion, cfg.MaxVersion = version, version
					if keys {
						cfg.SetSessionTicketKeys([][32]byte{{1}})
					}
					addr := echo(t, cfg)
					ours, err := client.ClientConfig(exactly(t, callee))
					require.NoError(t, err)
					ours.MinVersion = tls.VersionTLS12
					ours.ClientSessionCache = tls.NewLRUClientSessionCache(8)
					ours.ServerName = "callee"

					_, err = visit(t, addr, ours)
					require.NoError(t, err)
					resumed, err := visit(t, addr, ours)
					require.NoError(t, err)
					require.True(t, resumed, "the test shows nothing unless sessions are resumed")

					if change == "root removed" {
						serverSource.trust(t, bundles(t, newAuthority(t)))
					} else {
						require.NoError(t, server.Update(mtls.Config{Source: serverSource, Authorize: deny}))
					}
					_, err = visit(t, addr, ours)
					require.Error(t, err)
				})
			}
		}
	}
}

func TestMTLS05_NoTickets(t *testing.T) {
	t.Parallel()
	_, server, client, _, _ := pair(t)
	addr := echo(t, server.ServerConfig())
	cfg, err := client.ClientConfig(exactly(t, callee))
	require.NoError(t, err)
	cfg.ClientSessionCache, cfg.ServerName = tls.NewLRUClientSessionCache(8), "callee"
	for range 3 {
		resumed, err := visit(t, addr, cfg)
		require.NoError(t, err)
		assert.False(t, resumed)
	}
}

// The client's side of the same: a resumed session with a server that has lost
// its trust.
func TestMTLS05_ResumedServer(t *testing.T) {
	t.Parallel()
	_, server, client, _, clientSource := pair(t)
	cfg := server.ServerConfig()
	cfg.SessionTicketsDisabled = false
	addr := echo(t, cfg)
	ours, err := client.ClientConfig(exactly(t, callee))
	require.NoError(t, err)
	ours.ClientSessionCache, ours.ServerName = tls.NewLRUClientSessionCache(8), "callee"
	_, err = visit(t, addr, ours)
	require.NoError(t, err)
	resumed, err := visit(t, addr, ours)
	require.NoError(t, err)
	require.True(t, resumed)
	clientSource.trust(t, bundles(t, newAuthority(t)))
	_, err = visit(t, addr, ours)
	require.Error(t, err)
}

func TestServerConfig_Protocols(t *testing.T) {
	t.Parallel()
	_, server, client, _, _ := pair(t)
	cfg := server.ServerConfig()
	assert.Equal(t, tls.RequireAnyClientCert, cfg.ClientAuth)
	assert.EqualValues(t, tls.VersionTLS13, cfg.MinVersion)
	ours, err := client.ClientConfig(exactly(t, callee))
	require.NoError(t, err)
	assert.EqualValues(t, tls.VersionTLS13, ours.MinVersion)
	h := mesh(t, server, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, gatemesh.FromContext(r.Context()).Peer().ID())
	})
	for _, http2 := range []bool{false, true} {
		addr, _ := serve(t, server.ServerConfig(), http2, h)
		status, proto, body, err := get(t, transport(t, client, exactly(t, callee)), addr)
		require.NoError(t, err)
		assert.Equal(t, 200, status)
		assert.Equal(t, http2, proto == "HTTP/2.0")
		assert.Equal(t, caller, body)
	}
}

// A workload that was welcome and is not any more meets the gate on its live
// connection, and then loses the connection.
func TestLiveConnection_Authorizer(t *testing.T) {
	t.Parallel()
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("http2=%t", http2), func(t *testing.T) {
			t.Parallel()
			_, server, client, serverSource, _ := pair(t)
			addr, conns := serve(t, server.ServerConfig(), http2, mesh(t, server, func(http.ResponseWriter, *http.Request) {}))
			tr := transport(t, client, exactly(t, callee))
			for range 2 {
				status, _, _, err := get(t, tr, addr)
				require.NoError(t, err)
				require.Equal(t, 200, status)
			}
			require.EqualValues(t, 1, conns.Load())

			seen := &events{}
			require.NoError(t, server.Update(mtls.Config{Source: serverSource, Authorize: deny, Observer: seen}))
			status, _, body, err := get(t, tr, addr)
			require.NoError(t, err)
			assert.Equal(t, 403, status)
			assert.Contains(t, body, "peer_not_allowed")
			assert.NotContains(t, body, "not today", "the cause is for the log")
			assert.EqualValues(t, 1, conns.Load(), "answered on the old connection")

			// HTTP/2 may carry a few more requests until the GOAWAY arrives.
			for patience := time.Now().Add(20 * time.Second); err == nil && time.Now().Before(patience); {
				if status, _, _, err = get(t, tr, addr); err == nil {
					require.Equal(t, 403, status)
				}
			}
			require.Error(t, err)
			assert.Greater(t, conns.Load(), int64(1), "the connection was closed and the handshake refused")
			all := seen.take()
			require.NotEmpty(t, all)
			assert.Equal(t, gatemesh.EventNotice, all[0].Kind)
			assert.ErrorContains(t, all[0].Err, "not today")
		})
	}
}

func TestLiveConnection_Trust(t *testing.T) {
	t.Parallel()
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("http2=%t", http2), func(t *testing.T) {
			t.Parallel()
			_, server, client, serverSource, _ := pair(t)
			addr, conns := serve(t, server.ServerConfig(), http2, mesh(t, server, func(http.ResponseWriter, *http.Request) {}))
			tr := transport(t, client, exactly(t, callee))
			status, _, _, err := get(t, tr, addr)
			require.NoError(t, err)
			require.Equal(t, 200, status)
			serverSource.trust(t, bundles(t, newAuthority(t)))
			status, _, body, err := get(t, tr, addr)
			require.NoError(t, err)
			assert.Equal(t, 401, status)
			assert.Contains(t, body, "peer_invalid")
			assert.EqualValues(t, 1, conns.Load(), "answered on the old connection")
		})
	}
}

// Somebody else's tls.Config asks for a certificate and does not look at it.
func TestPeer_ForeignConfig(t *testing.T) {
	t.Parallel()
	root, server, client, serverSource, _ := pair(t)
	var peers []string
	h := mesh(t, server, func(_ http.ResponseWriter, r *http.Request) {
		peers = append(peers, gatemesh.FromContext(r.Context()).Peer().ID())
	})
	cfg := &tls.Config{Certificates: []tls.Certificate{serverSource.Load().Certificate}, ClientAuth: tls.RequestClientCert}
	addr, _ := serve(t, cfg, false, h)

	status, _, _, err := get(t, transport(t, client, exactly(t, callee)), addr)
	require.NoError(t, err)
	assert.Equal(t, 200, status)
	assert.Equal(t, []string{caller}, peers)

	evil := newAuthority(t)
	stranger := newTLS(t, newSource(t, evil.leaf(t, caller), bundles(t, evil, root)))
	status, _, body, err := get(t, transport(t, stranger, exactly(t, callee)), addr)
	require.NoError(t, err)
	assert.Equal(t, 401, status)
	assert.Contains(t, body, "peer_invalid")

	plain := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	t.Cleanup(plain.CloseIdleConnections)
	status, _, body, err = get(t, plain, addr)
	require.NoError(t, err)
	assert.Equal(t, 401, status)
	assert.Contains(t, body, "peer_missing")
	assert.Len(t, peers, 1)
}

// Every combination of old and new certificates and roots that a fleet goes
// through during a rotation works.
func TestMTLS06_Rotation(t *testing.T) {
	t.Parallel()
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("http2=%t", http2), func(t *testing.T) {
			t.Parallel()
			ca := gatemesh.Must(devca.New(domain))
			us := gatemesh.Must(ca.Source(devca.WorkloadConfig{ID: callee}))
			them := gatemesh.Must(ca.Source(devca.WorkloadConfig{ID: caller}))
			server, client := newTLS(t, us), newTLS(t, them)
			addr, _ := serve(t, server.ServerConfig(), http2, mesh(t, server, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.WriteString(w, r.TLS.PeerCertificates[0].SerialNumber.String())
			}))
			keep := transport(t, client, exactly(t, callee))
			check := func() {
				t.Helper()
				for _, tr := range []*mtls.Transport{keep, transport(t, client, exactly(t, callee))} {
					status, _, serial, err := get(t, tr, addr)
					require.NoError(t, err)
					require.Equal(t, 200, status)
					require.Equal(t, them.Credentials().Certificate.Leaf.SerialNumber.String(), serial, "the newest certificate is in use")
				}
			}
			check()
			for range 5 {
				for _, step := range []func() error{ca.Rotate, us.Renew, them.Renew, ca.Retire, them.Renew, us.Renew} {
					require.NoError(t, step())
					check()
				}
			}
		})
	}
}

func TestNew_Invalid(t *testing.T) {
	t.Parallel()
	_, err := mtls.New(mtls.Config{Recheck: -1})
	require.Error(t, err)
	for _, field := range []string{"Config.Source is required", "Config.Authorize is required", "Config.Recheck"} {
		assert.ErrorContains(t, err, field)
	}
	_, err = mtls.New(mtls.Config{Source: &source{}, Authorize: deny})
	assert.ErrorContains(t, err, "no credentials")

	_, server, _, serverSource, _ := pair(t)
	require.Error(t, server.Update(mtls.Config{Source: serverSource}))
	_, err = server.Peer(received(serverSource.Load().Certificate))
	assert.NoError(t, err, "the old configuration stays")
	_, err = server.ClientConfig(nil)
	assert.Error(t, err)
	_, err = server.Transport(nil)
	assert.Error(t, err)
}

// A source that breaks its promise refuses everybody.
func TestSource_Nil(t *testing.T) {
	t.Parallel()
	_, server, client, serverSource, clientSource := pair(t)
	addr, _ := serve(t, server.ServerConfig(), true, http.NotFoundHandler())
	cs := received(clientSource.Load().Certificate)
	call := callFrom(t, server, cs)
	tr := transport(t, client, exactly(t, callee))
	serverSource.Store(nil)
	_, err := server.Peer(cs)
	assert.Error(t, err)
	_, err = server.Admit(t.Context(), call)
	assert.Error(t, err)
	_, _, _, err = get(t, tr, addr)
	assert.Error(t, err)
	clientSource.Store(nil)
	_, _, _, err = get(t, tr, addr)
	assert.ErrorContains(t, err, "no credentials")
}

func TestFormat(t *testing.T) {
	t.Parallel()
	ca := gatemesh.Must(devca.New(domain))
	s := gatemesh.Must(ca.Source(devca.WorkloadConfig{ID: caller}))
	m := newTLS(t, s)
	for _, v := range []any{s, *s.Credentials(), s.Credentials(), ca, mtls.Config{Source: s, Authorize: deny}, m} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
			out := fmt.Sprintf(verb, v)
			assert.NotContains(t, out, "PrivateKey")
			assert.Less(t, len(out), 500, out)
			assert.False(t, strings.Contains(out, "big.Int"), out)
		}
	}
}
