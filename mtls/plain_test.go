package mtls_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/policy"
	"github.com/gatemesh-go/gatemesh/mtls"
)

// modes gives m one mode for all ports.
func modes(t testing.TB, m *mtls.TLS, s mtls.Source, mode mtls.Mode, o gatemesh.Observer) {
	t.Helper()
	require.NoError(t, m.Update(mtls.Config{Source: s, Authorize: member(t), Modes: mtls.Modes{Default: mode}, Observer: o}))
}

// serveBoth serves TLS and plain text on one port, as m says.
func serveBoth(t testing.TB, m *mtls.TLS, h http.Handler) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	srv := &http.Server{Handler: h, Protocols: protocols, ErrorLog: log.New(io.Discard, "", 0)}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(m.Listener(l, nil)) })
	t.Cleanup(func() {
		_ = srv.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

// plainClient is a client in plain text, HTTP/2 by prior knowledge or HTTP/1.
func plainClient(t testing.TB, http2 bool) *http.Transport {
	t.Helper()
	tr := &http.Transport{Protocols: &http.Protocols{}}
	tr.Protocols.SetUnencryptedHTTP2(http2)
	tr.Protocols.SetHTTP1(!http2)
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

// getPlain is get in plain text.
func getPlain(t testing.TB, rt http.RoundTripper, addr string, header http.Header) (status int, proto, body string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/", nil)
	require.NoError(t, err)
	maps.Copy(r.Header, header)
	resp, err := rt.RoundTrip(r)
	if err != nil {
		return 0, "", "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Proto, string(b), err
}

// whoami answers with the caller.
func whoami(w http.ResponseWriter, r *http.Request) {
	who := "nobody"
	if p := gatemesh.FromContext(r.Context()).Peer(); p != nil {
		who = p.ServiceAccount()
	}
	_, _ = io.WriteString(w, who)
}

// One port takes both, in both versions of HTTP, and tells them apart.
func TestPermissive(t *testing.T) {
	t.Parallel()
	_, server, client, s, _ := pair(t)
	seen := &events{}
	modes(t, server, s, mtls.ModePermissive, seen)
	h := mesh(t, server, whoami)
	addr := serveBoth(t, server, h)

	status, proto, body, err := get(t, transport(t, client, exactly(t, callee)), addr)
	require.NoError(t, err)
	assert.Equal(t, "200 HTTP/2.0 caller", fmt.Sprint(status, " ", proto, " ", body))

	cfg, err := client.ClientConfig(exactly(t, callee))
	require.NoError(t, err)
	http1 := &http.Transport{TLSClientConfig: cfg}
	t.Cleanup(http1.CloseIdleConnections)
	status, proto, body, err = get(t, http1, addr)
	require.NoError(t, err)
	assert.Equal(t, "200 HTTP/1.1 caller", fmt.Sprint(status, " ", proto, " ", body))
	assert.Zero(t, server.Status().PlainText)
	assert.Empty(t, seen.take())

	for i, http2 := range []bool{false, true} {
		status, proto, body, err = getPlain(t, plainClient(t, http2), addr, nil)
		require.NoError(t, err)
		assert.Equal(t, "200 nobody", fmt.Sprint(status, " ", body))
		assert.Equal(t, http2, proto == "HTTP/2.0")
		assert.EqualValues(t, i+1, server.Status().PlainText)
	}
	all := seen.take()
	require.Len(t, all, 1, "said once, not for each call")
	assert.Equal(t, gatemesh.EventNotice, all[0].Kind)
	assert.Contains(t, all[0].Message, "plain text")
	assert.NotNil(t, all[0].Call)
}

// Whoever speaks TLS has to be somebody, in every mode.
func TestPermissive_TLSWithoutIdentity(t *testing.T) {
	t.Parallel()
	for _, mode := range []mtls.Mode{mtls.ModePermissive, mtls.ModeStrict} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			root, server, _, s, _ := pair(t)
			modes(t, server, s, mode, nil)
			addr := serveBoth(t, server, mesh(t, server, func(http.ResponseWriter, *http.Request) { t.Error("called") }))
			evil := newAuthority(t)
			for name, certs := range map[string][]tls.Certificate{
				"none": nil, "stranger": {evil.leaf(t, caller)}, "two ids": {root.leaf(t, caller, callee)},
			} {
				for _, proto := range []string{"h2", "http/1.1"} {
					n, _ := knock(t, addr, &tls.Config{InsecureSkipVerify: true, Certificates: certs, NextProtos: []string{proto}})
					assert.Zero(t, n, "%s over %s: not a byte", name, proto)
				}
			}
			assert.Equal(t, uint64(0), server.Status().PlainText)
		})
	}
}

// The gate does not believe that TLS is plain text, whatever is in front says.
func TestPermissive_Gate(t *testing.T) {
	t.Parallel()
	_, m, _, s, _ := pair(t)
	modes(t, m, s, mtls.ModePermissive, nil)
	entry, err := gatemesh.NewEntry(gatemesh.EntryConfig{
		Peer: m.Peer, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
	})
	require.NoError(t, err)
	chain, err := gatemesh.NewChain(entry, m.Layer())
	require.NoError(t, err)
	for _, tt := range []struct {
		tls  *tls.ConnectionState
		says string
		code gatemesh.Code
	}{
		{nil, "http", gatemesh.OK},
		{nil, "https", gatemesh.OK},
		{&tls.ConnectionState{HandshakeComplete: true}, "http", gatemesh.Unauthenticated},
		{&tls.ConnectionState{HandshakeComplete: true}, "https", gatemesh.Unauthenticated},
	} {
		x, d := chain.Start(t.Context(), gatemesh.Inbound{
			Protocol: gatemesh.HTTP, Method: "GET", Path: "/", Authority: "callee", TLS: tt.tls,
			Header:     http.Header{"X-Forwarded-Proto": {tt.says}},
			RemoteAddr: netip.MustParseAddrPort("127.0.0.1:1"), LocalAddr: netip.MustParseAddrPort("127.0.0.1:2"),
		})
		require.Nil(t, d)
		require.Equal(t, tt.says, x.Call().Scheme())
		_, d = x.Admit(x.Context())
		if tt.code == gatemesh.OK {
			assert.Nil(t, d, "%+v", tt)
		} else if assert.NotNil(t, d, "%+v", tt) {
			assert.Equal(t, tt.code, d.Code)
		}
		x.Finish(gatemesh.Outcome{})
	}
}

// A caller in plain text is nobody: no rule about principals knows it, it is
// never trusted, and what it says about itself does not reach the handler.
func TestPermissive_Trust(t *testing.T) {
	t.Parallel()
	_, m, client, s, _ := pair(t)
	modes(t, m, s, mtls.ModePermissive, nil)
	entry, err := gatemesh.NewEntry(gatemesh.EntryConfig{Peer: m.Peer, TrustPeer: gatemesh.AnyPeer, TrustRequestID: gatemesh.AnyPeer})
	require.NoError(t, err)
	principals := func(p policy.Source) policy.Policy {
		return policy.Policy{Name: "p", Namespace: "prod", Action: policy.ActionAllow, Rules: []policy.Rule{{From: []policy.Source{p}}}}
	}
	for name, tt := range map[string]struct {
		source      policy.Source
		plain, mtls int
	}{
		"anybody with a name": {policy.Source{Principals: []string{"*"}}, 403, 200},
		"namespace":           {policy.Source{Namespaces: []string{"prod"}}, 403, 200},
		"anybody but":         {policy.Source{NotPrincipals: []string{"td.example/ns/prod/sa/caller"}}, 200, 403},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			engine, err := policy.New(policy.Config{
				Workload:   gatemesh.Workload{Name: "callee", TrustDomain: domain, Namespace: "prod", ServiceAccount: "callee"},
				Unselected: policy.Deny, Policies: []policy.Policy{principals(tt.source)},
			})
			require.NoError(t, err)
			chain, err := gatemesh.NewChain(entry, m.Layer(), engine.Layer())
			require.NoError(t, err)
			addr := serveBoth(t, m, chain.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				c := gatemesh.FromContext(r.Context())
				_, _ = fmt.Fprint(w, c.Trusted(), c.Client(), c.RequestID() == "mine", r.Header["X-Forwarded-For"], r.Header[gatemesh.IdentityHeader])
			})))
			header := func() http.Header {
				return http.Header{
					"X-Forwarded-For": {"192.0.2.1"}, "X-Request-Id": {"mine"}, gatemesh.IdentityHeader: {"forged"},
					"Forwarded": {"for=192.0.2.1"}, "X-Forwarded-Client-Cert": {"URI=" + caller},
				}
			}
			for _, http2 := range []bool{false, true} {
				status, _, body, err := getPlain(t, plainClient(t, http2), addr, header())
				require.NoError(t, err)
				assert.Equal(t, tt.plain, status)
				if status == 200 {
					assert.Equal(t, "false127.0.0.1false[][]", strings.ReplaceAll(body, " ", ""))
				}
			}
			status, _, _, err := get(t, transport(t, client, exactly(t, callee)), addr)
			require.NoError(t, err)
			assert.Equal(t, tt.mtls, status)
		})
	}
}

// STRICT from now on: the next call on an open plain-text connection is refused
// and loses it, and there is no new one.
func TestPermissive_ToStrict(t *testing.T) {
	t.Parallel()
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("http2=%t", http2), func(t *testing.T) {
			t.Parallel()
			_, server, client, s, _ := pair(t)
			modes(t, server, s, mtls.ModePermissive, nil)
			addr := serveBoth(t, server, mesh(t, server, whoami))
			plain := plainClient(t, http2)
			dials := 0
			plain.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				dials++
				return (&net.Dialer{}).DialContext(ctx, network, addr)
			}
			for range 2 {
				status, _, _, err := getPlain(t, plain, addr, nil)
				require.NoError(t, err)
				require.Equal(t, 200, status)
			}
			require.Equal(t, 1, dials)
			modes(t, server, s, mtls.ModeStrict, nil)
			status, _, body, err := getPlain(t, plain, addr, nil)
			require.NoError(t, err)
			assert.Equal(t, 401, status)
			assert.Contains(t, body, "peer_missing")
			assert.Equal(t, 1, dials, "answered on the old connection")
			assert.EqualValues(t, 1, server.Status().Missing)
			assert.EqualValues(t, 2, server.Status().PlainText)

			// HTTP/2 may carry a few more until the GOAWAY arrives. What is dialled
			// then meets TLS: net/http answers HTTP/1 with 400 and closes.
			for patience := time.Now().Add(20 * time.Second); dials == 1 && time.Now().Before(patience); {
				status, _, _, err = getPlain(t, plain, addr, nil)
				require.True(t, err != nil || status == 401 || status == 400, "%d", status)
			}
			assert.Greater(t, dials, 1, "the connection was closed")
			status, _, _, err = get(t, transport(t, client, exactly(t, callee)), addr)
			require.NoError(t, err)
			assert.Equal(t, 200, status)
		})
	}
}

// The consent to a stream in plain text ends with the mode.
func TestPermissive_Revalidate(t *testing.T) {
	t.Parallel()
	_, m, _, s, _ := pair(t)
	modes(t, m, s, mtls.ModePermissive, nil)
	c, err := gatemesh.NewCall(gatemesh.CallInfo{Host: "callee", Scheme: "http", LocalAddr: netip.MustParseAddrPort("127.0.0.1:80")})
	require.NoError(t, err)
	adm, err := m.Admit(t.Context(), c)
	require.NoError(t, err)
	assert.Equal(t, gatemesh.Admission{Until: c.Received().Add(time.Minute)}, adm)
	_, err = m.Revalidate(t.Context(), c)
	require.NoError(t, err)
	modes(t, m, s, mtls.ModeStrict, nil)
	_, err = m.Revalidate(t.Context(), c)
	requireDenial(t, err, gatemesh.Unauthenticated, "peer_missing", true)
	require.NoError(t, m.Update(mtls.Config{Source: s, Authorize: member(t), Modes: mtls.Modes{
		Default: mtls.ModeStrict, Ports: map[uint16]mtls.Mode{80: mtls.ModePermissive},
	}}))
	_, err = m.Revalidate(t.Context(), c)
	require.NoError(t, err, "the mode of the port")
}

// The operator hears of it once a minute, and not from a config without Observer.
func TestPermissive_Notice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, m, _, s, _ := pair(t)
		seen := &events{}
		call := func() {
			t.Helper()
			c, err := gatemesh.NewCall(gatemesh.CallInfo{Host: "callee", Scheme: "http"})
			require.NoError(t, err)
			_, err = m.Admit(t.Context(), c)
			require.NoError(t, err)
		}
		modes(t, m, s, mtls.ModePermissive, nil)
		call()
		modes(t, m, s, mtls.ModePermissive, seen)
		for range 3 {
			call()
		}
		require.Len(t, seen.take(), 1)
		time.Sleep(time.Minute - 1)
		call()
		require.Empty(t, seen.take())
		time.Sleep(time.Nanosecond)
		call()
		require.Len(t, seen.take(), 1)
		assert.EqualValues(t, 6, m.Status().PlainText)
	})
}

func TestDisable(t *testing.T) {
	t.Parallel()
	_, server, client, s, _ := pair(t)
	modes(t, server, s, mtls.ModeDisable, nil)
	addr := serveBoth(t, server, mesh(t, server, whoami))
	status, _, body, err := getPlain(t, plainClient(t, false), addr, nil)
	require.NoError(t, err)
	assert.Equal(t, "200 nobody", fmt.Sprint(status, " ", body))
	_, _, _, err = get(t, transport(t, client, exactly(t, callee)), addr)
	assert.Error(t, err)
}
