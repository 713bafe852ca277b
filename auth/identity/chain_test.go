package identity_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/identity"
)

// mesh is an edge, the service users behind it, and the service orders behind
// that, over real connections.
type mesh struct {
	edge, edgeTLS *httptest.Server
	users, orders seen
	verifier      *identity.Verifier
}

// seen is what reached a service last, before any layer of it ran.
type seen struct {
	mu      sync.Mutex
	header  http.Header
	trailer http.Header
}

func (s *seen) take() (header, trailer http.Header) {
	s.mu.Lock()
	defer s.mu.Unlock()
	header, trailer = s.header, s.trailer
	s.header, s.trailer = nil, nil
	return header, trailer
}

func (s *seen) record(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := r.Header.Clone()
		next.ServeHTTP(w, r)
		_, _ = io.Copy(io.Discard, r.Body) // trailers come after the body
		s.mu.Lock()
		defer s.mu.Unlock()
		s.header, s.trailer = header, r.Trailer.Clone()
	})
}

// users are the credentials that the edge of the tests knows.
var users = map[string]*gatemesh.Principal{
	"Bearer alice": alice(),
	"Bearer bob":   gatemesh.NewPrincipal(gatemesh.PrincipalInfo{Issuer: "https://idp.example", Subject: "bob", Method: "jwt"}),
}

// authenticate stands for package auth. It lets anonymous callers pass.
func authenticate(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
	if p := users[c.Header().Get("Authorization")]; p != nil {
		return gatemesh.Admission{Principal: p, Lane: "v2", Consumed: []string{"Authorization"}}, nil
	}
	return gatemesh.Admission{}, nil
}

func newMesh(t *testing.T) *mesh {
	t.Helper()
	m := &mesh{}
	minter := newMinter(t, nil)
	m.verifier = newVerifier(t, minter, nil)
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	base := &http.Transport{}
	t.Cleanup(base.CloseIdleConnections)
	serve := func(h http.Handler) *httptest.Server {
		s := httptest.NewServer(h)
		t.Cleanup(s.Close)
		return s
	}
	// proxy forwards to target with the fields of gate. On the way out it does
	// what a careless middleware could.
	proxy := func(target string, gate gatemesh.Layer) http.Handler {
		u, err := url.Parse(target)
		require.NoError(t, err)
		out := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{
			Mesh:   gatemesh.MeshHosts(map[string]gatemesh.Destination{u.Host: {Service: "next"}}),
			Layers: []gatemesh.Layer{gate},
		}))
		return &httputil.ReverseProxy{
			Rewrite: func(pr *httputil.ProxyRequest) {
				pr.SetURL(u)
				if pr.In.Header.Get("X-Careless") != "" {
					pr.Out.Header["x-gatemesh-identity"] = []string{"evil"}
					pr.Out.Header["X_Gatemesh_Identity"] = []string{"evil"}
					pr.Out.Header.Set("Connection", "X-Gatemesh-Identity")
				}
			},
			Transport: out.Transport(base),
			ErrorLog:  log.New(io.Discard, "", 0),
		}
	}
	layer := gatemesh.Layer{Name: "auth", Gate: gatemesh.GateFunc(authenticate), Gives: []gatemesh.Fact{gatemesh.FactPrincipal}}
	edgeChain := gatemesh.Must(gatemesh.NewChain(entry, layer))
	serviceChain := gatemesh.Must(gatemesh.NewChain(entry, m.verifier.Layer()))

	orders := serve(m.orders.record(serviceChain.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := gatemesh.FromContext(r.Context())
		fmt.Fprintf(w, "%s %s %s", c.Principal().Subject(), c.Principal().Method(), c.Lane())
	}))))
	usersSrv := serve(m.users.record(serviceChain.Handler(proxy(orders.URL, identity.Forward()))))
	edge := edgeChain.Handler(proxy(usersSrv.URL, minter.Layer()))
	raw := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Raw") != "" { // a middleware in front of Entry
			r.Header["x-gatemesh-identity"] = []string{"evil"}
			r.Header["X-GATEMESH-IDENTITY"] = []string{"evil", "evil"}
			r.Header["x_gatemesh-Identity"] = []string{"evil"}
		}
		edge.ServeHTTP(w, r)
	})
	m.edge = serve(raw)
	m.edgeTLS = httptest.NewUnstartedServer(raw)
	m.edgeTLS.EnableHTTP2 = true
	m.edgeTLS.StartTLS()
	t.Cleanup(m.edgeTLS.Close)
	return m
}

// sendRaw writes a request to the edge byte by byte and returns the answer.
func (m *mesh) sendRaw(t *testing.T, lines ...string) (status int, body string) {
	t.Helper()
	conn, err := net.Dial("tcp", m.edge.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	_, err = io.WriteString(conn, strings.Join(lines, "\r\n"))
	require.NoError(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(b)
}

// identities returns every value in h under a name that some server would take
// for the identity field.
func identities(h http.Header) (values []string) {
	for name, v := range h {
		if strings.EqualFold(strings.ReplaceAll(name, "_", "-"), gatemesh.IdentityHeader) {
			values = append(values, v...)
		}
	}
	return values
}

// requireOurs asserts that both services received exactly one identity, the
// same, written by the edge, and no credential.
func (m *mesh) requireOurs(t *testing.T, want string) {
	t.Helper()
	var tokens []string
	for _, s := range []*seen{&m.users, &m.orders} {
		header, trailer := s.take()
		got := identities(header)
		require.Len(t, got, 1, "%v", header)
		assert.Equal(t, got, header.Values(gatemesh.IdentityHeader), "in its one spelling")
		assert.Empty(t, identities(trailer))
		assert.Empty(t, header.Get("Authorization"))
		tokens = append(tokens, got...)
	}
	assert.Equal(t, tokens[0], tokens[1], "forwarded unchanged")
	adm, err := verify(t, m.verifier, tokens[0])
	require.NoError(t, err)
	assert.Equal(t, want, adm.Principal.Subject())
}

// requireNone asserts that the first service received no identity and let
// nobody pass.
func (m *mesh) requireNone(t *testing.T, status int, body string) {
	t.Helper()
	assert.Equal(t, http.StatusUnauthorized, status)
	assert.Contains(t, body, "identity_missing")
	header, trailer := m.users.take()
	assert.NotNil(t, header)
	assert.Empty(t, identities(header))
	assert.Empty(t, identities(trailer))
	header, _ = m.orders.take()
	assert.Nil(t, header)
}

func TestID01_ID02_ID03_EvilIdentities(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	bobs := func() string { // a good token, of somebody else
		status, body := m.sendRaw(t, "GET / HTTP/1.1", "Host: edge", "Authorization: Bearer bob", "", "")
		require.Equal(t, 200, status, body)
		header, _ := m.users.take()
		m.orders.take()
		return header.Get(gatemesh.IdentityHeader)
	}()
	require.NotEmpty(t, bobs)
	for name, lines := range map[string][]string{
		"ID-01 nothing evil":        nil,
		"ID-01 once":                {"X-Gatemesh-Identity: evil"},
		"ID-01 another's good one":  {"X-Gatemesh-Identity: " + bobs},
		"ID-01 three times":         {"X-Gatemesh-Identity: evil", "x-gatemesh-identity: evil", "X-GATEMESH-IDENTITY: " + bobs},
		"ID-01 list":                {"X-Gatemesh-Identity: evil, " + bobs},
		"ID-01 empty":               {"X-Gatemesh-Identity:"},
		"ID-01 raw map keys":        {"X-Raw: 1", "X-Gatemesh-Identity: evil"},
		"ID-01 set on the way out":  {"X-Careless: 1"},
		"ID-01 both":                {"X-Careless: 1", "X-Raw: 1", "X-Gatemesh-Identity: " + bobs},
		"ID-02 underscores":         {"X_Gatemesh_Identity: " + bobs},
		"ID-02 upper underscores":   {"X_GATEMESH_IDENTITY: evil"},
		"ID-02 mixed":               {"X-Gatemesh_Identity: evil", "x_gatemesh-identity: evil"},
		"ID-03 nominated":           {"Connection: close, X-Gatemesh-Identity", "X-Gatemesh-Identity: evil"},
		"ID-03 nominated, lower":    {"Connection: x-gatemesh-identity, close"},
		"ID-03 several fields":      {"Connection:", "Connection: close", "connection: X-GATEMESH-IDENTITY"},
		"ID-03 nominated spellings": {"Connection: X_Gatemesh_Identity, X-Gatemesh-Identity", "X_Gatemesh_Identity: evil"},
		"ID-03 with all of it":      {"Connection: close, X-Gatemesh-Identity, Authorization-Not", "X-Careless: 1", "X-Raw: 1"},
	} {
		for _, user := range []string{"alice", ""} {
			t.Run(name+" as "+user, func(t *testing.T) {
				request := append([]string{"GET /me HTTP/1.1", "Host: edge"}, lines...)
				if user != "" {
					request = append(request, "Authorization: Bearer "+user)
				}
				status, body := m.sendRaw(t, append(request, "", "")...)
				if user == "" {
					m.requireNone(t, status, body)
					return
				}
				assert.Equal(t, 200, status, body)
				assert.Equal(t, "alice identity v2", body)
				m.requireOurs(t, user)
			})
		}
	}
}

func TestID01_Trailer(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	for _, user := range []string{"alice", ""} {
		for _, announced := range []string{"Trailer: X-Gatemesh-Identity, X_Gatemesh_Identity", "X-Nothing: 1"} {
			status, body := m.sendRaw(t, "POST /me HTTP/1.1", "Host: edge", "Authorization: Bearer "+user, announced,
				"Transfer-Encoding: chunked", "", "2", "hi", "0", "X-Gatemesh-Identity: evil", "X_Gatemesh_Identity: evil", "", "")
			if user == "" {
				m.requireNone(t, status, body)
				continue
			}
			assert.Equal(t, "alice identity v2", body)
			m.requireOurs(t, user)
		}
	}
}

func TestID01_HTTP2(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	for name, evil := range map[string]http.Header{
		"ID-01":                {"X-Gatemesh-Identity": {"evil", "evil"}, "x-gatemesh-identity": {"evil"}},
		"ID-02":                {"X_gatemesh_Identity": {"evil"}, "x_gatemesh-identity": {"evil"}},
		"raw":                  {"X-Raw": {"1"}},
		"on the way out":       {"X-Careless": {"1"}},
		"nothing evil at all ": {},
	} {
		for _, user := range []string{"alice", ""} {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, m.edgeTLS.URL, io.NopCloser(strings.NewReader("hi")))
			require.NoError(t, err)
			maps.Copy(r.Header, evil)
			r.Trailer = http.Header{"X-Gatemesh-Identity": {"evil"}}
			if user != "" {
				r.Header.Set("Authorization", "Bearer "+user)
			}
			resp, err := m.edgeTLS.Client().Do(r)
			require.NoError(t, err, name)
			body, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, 2, resp.ProtoMajor)
			if user == "" {
				m.requireNone(t, resp.StatusCode, string(body))
				continue
			}
			assert.Equal(t, "alice identity v2", string(body), name)
			m.requireOurs(t, user)
		}
	}
}

func TestForward(t *testing.T) {
	t.Parallel()
	m := newMinter(t, nil)
	v := newVerifier(t, m, nil)
	token := mint(t, m, alice(), "")
	verified, err := verify(t, v, token)
	require.NoError(t, err)
	for _, c := range []struct {
		name   string
		parent *gatemesh.CallInfo
		want   []gatemesh.Field
	}{
		{"verified", &gatemesh.CallInfo{Principal: verified.Principal, Reserved: map[string]string{gatemesh.IdentityHeader: token}},
			[]gatemesh.Field{{Name: gatemesh.IdentityHeader, Value: token}}},
		{"no parent", nil, nil},
		{"nobody", &gatemesh.CallInfo{}, nil},
		{"not verified", &gatemesh.CallInfo{Reserved: map[string]string{gatemesh.IdentityHeader: token}}, nil},
		{"another way in", &gatemesh.CallInfo{Principal: alice(), Reserved: map[string]string{gatemesh.IdentityHeader: token}}, nil},
		{"no token", &gatemesh.CallInfo{Principal: verified.Principal}, nil},
	} {
		in := gatemesh.CallInfo{}
		if c.parent != nil {
			in.Parent = gatemesh.Must(gatemesh.NewCall(*c.parent))
		}
		adm, err := identity.Forward().Gate.Admit(t.Context(), gatemesh.Must(gatemesh.NewCall(in)))
		require.NoError(t, err, c.name)
		assert.Equal(t, c.want, adm.Header, c.name)
	}
}
