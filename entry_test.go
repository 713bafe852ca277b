package gatemesh_test

import (
	"context"
	"crypto/tls"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

func TestNewEntryReportsAllFaults(t *testing.T) {
	t.Parallel()
	e, err := gatemesh.NewEntry(gatemesh.EntryConfig{
		TrustedProxies: []netip.Prefix{{}, netip.MustParsePrefix("10.0.0.0/8")},
		Reserved:       []string{"X A", "Host", "connection", "X-Request-ID", "A", "B", "C", "D"},
	})
	assert.Nil(t, e)
	require.EqualError(t, err, strings.Join([]string{
		`gatemesh: EntryConfig.TrustedProxies[0] is not a valid prefix`,
		`gatemesh: EntryConfig.Reserved: "X A" is not a header name of at most 64 letters, digits and hyphens`,
		`gatemesh: EntryConfig.Reserved: Host is read by Entry itself`,
		`gatemesh: EntryConfig.Reserved: connection is read by Entry itself`,
		`gatemesh: EntryConfig.Reserved: X-Request-ID is read by Entry itself`,
		`gatemesh: EntryConfig.Reserved has more than 3 names`,
	}, "\n"))
}

func TestEntryUpdate(t *testing.T) {
	t.Parallel()
	e := entry(gatemesh.EntryConfig{})
	host := func() string {
		w := httptest.NewRecorder()
		e.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Client", gatemesh.FromContext(r.Context()).Client().String())
		})).ServeHTTP(w, request("/", "X-Forwarded-For", "203.0.113.9"))
		return w.Header().Get("Client")
	}
	assert.Equal(t, "192.0.2.1", host())
	cfg := trusting
	cfg.TrustedProxies = slices.Clone(cfg.TrustedProxies)
	require.NoError(t, e.Update(cfg))
	clear(cfg.TrustedProxies) // it was copied
	assert.Equal(t, "203.0.113.9", host())
	require.Error(t, e.Update(gatemesh.EntryConfig{Reserved: []string{""}}))
	assert.Equal(t, "203.0.113.9", host(), "a bad configuration leaves the old one")
}

func TestID01_IdentitySlots(t *testing.T) {
	t.Parallel()
	cfg := gatemesh.EntryConfig{Reserved: []string{"X-Txn-Token", "x-txn-token", "X-Gatemesh-Identity"}}
	for _, test := range []struct {
		name   string
		header http.Header
		want   gatemesh.Slot
	}{
		{"none", http.Header{}, gatemesh.Slot{}},
		{"one", http.Header{"X-Gatemesh-Identity": {"evil"}}, gatemesh.Slot{Value: "evil", Count: 1}},
		{"three", http.Header{"X-Gatemesh-Identity": {"a", "b", "c"}}, gatemesh.Slot{Count: 3}},
		{"lower case", http.Header{"x-gatemesh-identity": {"evil"}}, gatemesh.Slot{Value: "evil", Count: 1}},
		{"two spellings", http.Header{"x-gatemesh-identity": {"a"}, "X-Gatemesh-Identity": {"a"}}, gatemesh.Slot{Count: 2}},
		{"folded", http.Header{"X.Gatemesh~Identity": {"a"}}, gatemesh.Slot{Value: "a", Count: 1}},
		{"many spellings", http.Header{"X.Gatemesh~Identity": {"a", "b"}, "X_GATEMESH_IDENTITY": {"c"}, "X-GATEMESH-IDENTITY": {}}, gatemesh.Slot{Count: 3}},
		{"empty", http.Header{"X-Gatemesh-Identity": {""}}, gatemesh.Slot{Count: 1}},
	} {
		for _, cfg := range []gatemesh.EntryConfig{{}, cfg, trusting} {
			r := request("/")
			r.Header = maps.Clone(test.header)
			call, seen, _ := judge(cfg, r)
			slot, ok := call.Reserved("x-gatemesh-identity")
			assert.True(t, ok)
			assert.Equal(t, test.want, slot, test.name)
			assert.Empty(t, seen.Header, test.name)
			assert.Equal(t, test.header, r.Header, "the request is copied on write")
		}
	}

	r := request("/", "X-Txn-Token", "t", "X-Gatemesh-Identity-Bin", "x", "X-Gatemesh-Debug", "x", "X-Gatemesh-"+strings.Repeat("a", 100), "x", "X-Gatemeshx", "kept")
	call, seen, _ := judge(cfg, r)
	slot, ok := call.Reserved("x-txn-token")
	assert.True(t, ok)
	assert.Equal(t, gatemesh.Slot{Value: "t", Count: 1}, slot, "a name listed twice has one slot")
	_, ok = call.Reserved("X-Other")
	assert.False(t, ok)
	assert.Equal(t, http.Header{"X-Gatemeshx": {"kept"}}, seen.Header, "the whole x-gatemesh- family is ours")
}

func TestID02_Underscores(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"X_Gatemesh_Identity", "X_GATEMESH_IDENTITY", "X-Gatemesh_Identity", "X_Gatemesh_Anything", "X_Forwarded_For", "X_Request_Id"} {
		for _, cfg := range []gatemesh.EntryConfig{{}, trusting, {KeepUnderscores: true}} {
			call, seen, _ := judge(cfg, request("/", name, "evil"))
			assert.Empty(t, seen.Header, name)
			assert.NotEqual(t, "evil", call.RequestID())
		}
	}
	_, seen, _ := judge(gatemesh.EntryConfig{}, request("/", "X_Role", "admin"))
	assert.Empty(t, seen.Header)
	_, seen, _ = judge(gatemesh.EntryConfig{KeepUnderscores: true}, request("/", "X_Role", "admin"))
	assert.NotEmpty(t, seen.Header)
}

// TestID03_ConnectionNominated asks a proxy to drop the identity that we add.
func TestID03_ConnectionNominated(t *testing.T) {
	t.Parallel()
	received := make(chan *http.Request, 1)
	upstream := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = r.Body.Read(make([]byte, 10))
		_, _ = r.Body.Read(make([]byte, 10))
		received <- r
	}))
	to, err := url.Parse(upstream.URL)
	require.NoError(t, err)
	outbound := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{
		Mesh: gatemesh.MeshHosts(map[string]gatemesh.Destination{to.Host: {Service: "upstream"}}),
		Layers: []gatemesh.Layer{admits("identity", gatemesh.Admission{
			Header: []gatemesh.Field{{Name: gatemesh.IdentityHeader, Value: "ours"}},
		})},
	}))
	base := &http.Transport{}
	t.Cleanup(base.CloseIdleConnections)
	front := serve(t, chain(gatemesh.EntryConfig{}).Handler(&httputil.ReverseProxy{
		Transport: outbound.Transport(base),
		Rewrite:   func(p *httputil.ProxyRequest) { p.SetURL(to) },
	}))
	for _, fields := range []string{
		"Connection: close, X-Gatemesh-Identity\r\n",
		"Connection: x-gatemesh-identity\r\nConnection: close\r\n",
		"Connection: \r\nConnection: ,,X-Gatemesh-Identity , X-Request-Id\r\n",
		"X-Gatemesh-Identity: evil\r\nX_Gatemesh_Identity: evil\r\nConnection: X-Gatemesh-Identity, X_Gatemesh_Identity\r\n",
		"Trailer: X-Gatemesh-Identity\r\n",
	} {
		resp := rawHTTP(t, front, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n"+fields+
			"\r\n1\r\nx\r\n0\r\nX-Gatemesh-Identity: evil\r\n\r\n")
		require.Equal(t, http.StatusOK, resp.StatusCode, fields)
		r := <-received
		assert.Equal(t, []string{"ours"}, r.Header.Values(gatemesh.IdentityHeader), fields)
		assert.Equal(t, resp.Header.Get("X-Request-Id"), r.Header.Get("X-Request-Id"))
		assert.Empty(t, r.Trailer, fields)
		for name := range r.Header {
			assert.NotContains(t, name, "_")
		}
	}
}

func TestConnectionEndsTheClientsOwnFields(t *testing.T) {
	t.Parallel()
	_, seen, _ := judge(gatemesh.EntryConfig{}, request("/",
		"Connection", "close, X-Role,upgrade", "Connection", "x-other", "Upgrade", "websocket", "X-Role", "a", "X-Other", "b", "X-Kept", "c"))
	assert.Equal(t, http.Header{
		"Connection": {"close, X-Role,upgrade", "x-other"}, "Upgrade": {"websocket"}, "X-Kept": {"c"},
	}, seen.Header)
}

// connectionTokens nominates n fields that are not there, beside n that are.
func connectionTokens(n int) (r *http.Request, size int) {
	r = request("/", "Connection", strings.Repeat("A,", n))
	for i := range n {
		r.Header["X-"+strconv.Itoa(i)] = []string{""}
	}
	return r, n * len("A,X-1234: \r\n")
}

func TestF10_ConnectionTokens(t *testing.T) {
	e := entry(gatemesh.EntryConfig{}).Handler(noContent)
	r, size := connectionTokens(4000)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	e.ServeHTTP(httptest.NewRecorder(), r)
	runtime.ReadMemStats(&after)
	assert.LessOrEqual(t, after.TotalAlloc-before.TotalAlloc, uint64(16*size+64<<10))
}

// BenchmarkConnectionTokens shows that the time for one request grows with the
// sum of tokens and fields, and not with their product.
func BenchmarkConnectionTokens(b *testing.B) {
	for _, n := range []int{100, 1000, 10_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			e := entry(gatemesh.EntryConfig{}).Handler(noContent)
			r, _ := connectionTokens(n)
			b.ReportAllocs()
			for b.Loop() {
				e.ServeHTTP(httptest.NewRecorder(), r)
			}
		})
	}
}

func TestAZ08_ClaimsAboutTheOriginalRequest(t *testing.T) {
	t.Parallel()
	fields := []string{
		"X-Original-Url", "X-Rewrite-Url", "X-Forwarded-Uri", "X-Envoy-Original-Path", "X-Forwarded-Prefix",
		"X-Original-Method", "X-Host", "X-Original-Forwarded-For", "X-Forwarded-Method", "X-Http-Host-Override",
	}
	for _, name := range fields {
		call, seen, _ := judge(gatemesh.EntryConfig{}, request("/admin?/public/x", name, "/public/x", "User-Agent", "kube-probe/1.30"))
		assert.Equal(t, "/admin", call.Path(), name)
		assert.Equal(t, "/admin", call.MatchPath(), name)
		assert.Equal(t, "/public/x", call.RawQuery())
		assert.Equal(t, http.Header{"User-Agent": {"kube-probe/1.30"}}, seen.Header, name)
		assert.Zero(t, call.Header().Count(name))
	}
	call, _, _ := judge(gatemesh.EntryConfig{}, request("/foo/secret?/bar"))
	assert.Equal(t, "/foo/secret", call.MatchPath())
}

func TestPX05_ForwardingFieldsDropped(t *testing.T) {
	t.Parallel()
	names := []string{
		"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Forwarded-Prefix",
		"X-Forwarded-Server", "X-Forwarded-Anything", "X-Forwarded", "Forwarded-For", "X-Real-Ip", "X-Client-Ip", "True-Client-Ip",
		"Cf-Connecting-Ip",
	}
	for _, cfg := range []gatemesh.EntryConfig{{}, trusting} {
		_, seen, _ := judge(cfg, request("/", "X-Forwarded-"+strings.Repeat("a", 100), "x"))
		assert.Empty(t, seen.Header, "longer than any that is known")
	}
	for _, name := range names {
		_, seen, _ := judge(gatemesh.EntryConfig{}, request("/", name, "1.2.3.4"))
		assert.Empty(t, seen.Header, name)
		_, seen, _ = judge(trusting, request("/", name, "1.2.3.4"))
		assert.Len(t, seen.Header, 1, "a trusted proxy's %s stays", name)
		for _, spelled := range []string{strings.ReplaceAll(name, "-", "_"), strings.ReplaceAll(name, "-", ".")} {
			if spelled != name {
				_, seen, _ = judge(trusting, request("/", spelled, "1.2.3.4"))
				assert.Empty(t, seen.Header, spelled)
			}
		}
	}
	for proto, scheme := range map[string]string{"https": "https", "http": "http", "HTTPS": "http", "ftp": "http", "": "http"} {
		call, _, _ := judge(trusting, request("/", "X-Forwarded-Proto", proto))
		assert.Equal(t, scheme, call.Scheme())
		call, _, _ = judge(gatemesh.EntryConfig{}, request("/", "X-Forwarded-Proto", proto))
		assert.Equal(t, "http", call.Scheme())
	}
	call, _, _ := judge(trusting, request("/", "X-Forwarded-Proto", "https", "X-Forwarded-Proto", "https"))
	assert.Equal(t, "http", call.Scheme(), "two values are none")
}

func TestTR01_RequestID(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 128)
	for _, test := range []struct {
		name   string
		values []string
		keep   bool // from a trusted caller
	}{
		{"plain", []string{"req-1_a.B"}, true},
		{"128 bytes", []string{long}, true},
		{"129 bytes", []string{long + "a"}, false},
		{"control", []string{"a\x01b"}, false},
		{"line break", []string{"a\r\nb"}, false},
		{"non-ASCII", []string{"é"}, false},
		{"empty", []string{""}, false},
		{"space", []string{"a b"}, false},
		{"two", []string{"a", "b"}, false},
		{"two alike", []string{"a", "a"}, false},
		{"none", nil, false},
		{"quote injection", []string{`a","level":"error`}, false},
	} {
		for _, trusted := range []bool{false, true} {
			cfg := gatemesh.EntryConfig{}
			if trusted {
				cfg = trusting
			}
			r := request("/")
			if test.values != nil {
				r.Header["X-Request-Id"] = test.values
			}
			call, seen, w := judge(cfg, r)
			id := call.RequestID()
			assert.Equal(t, []string{id}, w.Header()["X-Request-Id"], test.name)
			if test.keep && trusted {
				assert.Equal(t, test.values[0], id)
				continue
			}
			assert.Regexp(t, "^[0-9a-f]{32}$", id, test.name)
			assert.NotContains(t, seen.Header, "X-Request-Id", "%s: what was not accepted does not go upstream", test.name)
		}
	}
}

func TestTR01_RequestIDGoesEverywhere(t *testing.T) {
	t.Parallel()
	ids := make(chan string, 2)
	upstream := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ids <- r.Header.Get("X-Request-Id")
		w.Header().Add("X-Request-Id", "the upstream's own")
		w.Header().Add("X-Request-Id", "twice")
	}))
	to, err := url.Parse(upstream.URL)
	require.NoError(t, err)
	outbound := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{
		Mesh: gatemesh.MeshHosts(map[string]gatemesh.Destination{to.Host: {Service: "upstream"}}),
	}))
	base := &http.Transport{}
	t.Cleanup(base.CloseIdleConnections)
	observer := &recorder{}
	front := serve(t, chain(gatemesh.EntryConfig{Observer: observer}).Handler(&httputil.ReverseProxy{
		Transport: outbound.Transport(base),
		Rewrite:   func(p *httputil.ProxyRequest) { p.SetURL(to) },
	}))
	resp := rawHTTP(t, front, "GET / HTTP/1.1\r\nHost: h\r\nX-Request-Id: mine\r\nConnection: close\r\n\r\n")
	_ = bodyOf(t, resp)
	id := <-ids
	assert.Equal(t, []string{id}, resp.Header["X-Request-Id"])
	front.Close() // the handler has returned
	assert.Equal(t, id, observer.of(gatemesh.EventFinished)[0].Call.RequestID())
	assert.NotEqual(t, "mine", id)
}

func TestRL01_ClientAddress(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, remote string
		xff          []string
		want         string
	}{
		{"untrusted", "203.0.113.5:1", []string{"1.1.1.1"}, "203.0.113.5"},
		{"nothing", "10.0.0.1:1", nil, "10.0.0.1"},
		{"one", "10.0.0.1:1", []string{"1.1.1.1"}, "1.1.1.1"},
		{"spoofed", "10.0.0.1:1", []string{"6.6.6.6, 1.1.1.1"}, "1.1.1.1"},
		{"two lines", "10.0.0.1:1", []string{"6.6.6.6", "1.1.1.1"}, "1.1.1.1"},
		{"through two proxies", "10.0.0.1:1", []string{"6.6.6.6, 1.1.1.1, 10.0.0.2"}, "1.1.1.1"},
		{"through two proxies, lines", "10.0.0.1:1", []string{"6.6.6.6, 1.1.1.1", "10.0.0.2"}, "1.1.1.1"},
		{"proxies alone", "10.0.0.1:1", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
		{"junk", "10.0.0.1:1", []string{"1.1.1.1, junk"}, "10.0.0.1"},
		{"junk behind a proxy", "10.0.0.1:1", []string{"1.1.1.1, unknown, 10.0.0.2"}, "10.0.0.2"},
		{"empty element", "10.0.0.1:1", []string{"1.1.1.1,"}, "10.0.0.1"},
		{"empty line", "10.0.0.1:1", []string{"1.1.1.1", ""}, "10.0.0.1"},
		{"port", "10.0.0.1:1", []string{"1.1.1.1:8080"}, "1.1.1.1"},
		{"IPv6", "10.0.0.1:1", []string{"2001:DB9::0:1"}, "2001:db9::1"},
		{"IPv6 in brackets", "10.0.0.1:1", []string{"[2001:db9::1]"}, "2001:db9::1"},
		{"IPv6 with port", "10.0.0.1:1", []string{"[2001:db9::1]:443"}, "2001:db9::1"},
		{"mapped", "10.0.0.1:1", []string{"::ffff:1.1.1.1"}, "1.1.1.1"},
		{"zone", "10.0.0.1:1", []string{"fe80::1%eth0"}, "fe80::1"},
		{"name", "10.0.0.1:1", []string{"example.com"}, "10.0.0.1"},
		{"leading zeros", "10.0.0.1:1", []string{"01.1.1.1"}, "10.0.0.1"},
		{"mapped remote", "[::ffff:10.0.0.1]:1", []string{"1.1.1.1"}, "1.1.1.1"},
		{"IPv6 remote", "[2001:db8::7]:1", []string{"1.1.1.1"}, "1.1.1.1"},
		{"no remote", "@", []string{"1.1.1.1"}, "invalid IP"},
	} {
		cfg := gatemesh.EntryConfig{TrustedProxies: proxies}
		r := request("/", "X-Real-Ip", "6.6.6.6", "Forwarded", "for=6.6.6.6")
		r.RemoteAddr = test.remote
		r.Header["X-Forwarded-For"] = test.xff
		call, _, _ := judge(cfg, r)
		assert.Equal(t, test.want, call.Client().String(), test.name)
	}
}

func FuzzForwardedAddr(f *testing.F) {
	for _, s := range []string{"1.1.1.1", "6.6.6.6, 1.1.1.1", "a,1.1.1.1,10.0.0.2", "[::1]:80,10.0.0.1", ",", "::ffff:1.2.3.4", "10.0.0.1,junk,10.0.0.2", "fe80::1%eth0"} {
		f.Add(s, "10.9.9.9")
	}
	parse := func(s string) (netip.Addr, bool) {
		s = strings.Trim(s, " \t")
		a, err := netip.ParseAddr(s)
		if err != nil {
			ap, aperr := netip.ParseAddrPort(s)
			a, err = ap.Addr(), aperr
		}
		if err != nil && strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
			a, err = netip.ParseAddr(strings.Trim(s, "[]"))
		}
		return a.Unmap().WithZone(""), err == nil
	}
	remote := netip.MustParseAddr("10.0.0.1")
	f.Fuzz(func(t *testing.T, first, second string) {
		r := request("/", "X-Forwarded-For", first, "X-Forwarded-For", second)
		r.RemoteAddr = "10.0.0.1:1"
		call, _, _ := judge(gatemesh.EntryConfig{TrustedProxies: proxies}, r)
		client := call.Client()
		require.True(t, client.IsValid() && !client.Is4In6())
		if client == remote {
			return
		}
		// Right of what was believed, everything can be read and is a proxy.
		elements := strings.Split(first+","+second, ",")
		for _, e := range slices.Backward(elements) {
			a, ok := parse(e)
			require.True(t, ok, "%q is left of junk", client)
			if a == client {
				return
			}
			require.True(t, slices.ContainsFunc(proxies, func(p netip.Prefix) bool { return p.Contains(a) }))
		}
		t.Fatalf("%s is no element of %q", client, elements)
	})
}

func TestEntryPeer(t *testing.T) {
	t.Parallel()
	peer := gatemesh.Must(gatemesh.NewPeer("cluster.local", "/ns/prod/sa/orders", nil))
	var answer func() (*gatemesh.Peer, error)
	observer := &recorder{}
	cfg := gatemesh.EntryConfig{
		Peer:      func(*tls.ConnectionState) (*gatemesh.Peer, error) { return answer() },
		TrustPeer: gatemesh.AnyPeer, Observer: observer,
	}
	ask := func() (*gatemesh.Call, *httptest.ResponseRecorder) {
		r := request("/", "X-Request-Id", "from-the-mesh")
		r.TLS = &tls.ConnectionState{ServerName: "sni.example.com"}
		call, _, w := judge(cfg, r)
		return call, w
	}
	answer = func() (*gatemesh.Peer, error) { return peer, nil }
	call, _ := ask()
	assert.Same(t, peer, call.Peer())
	assert.True(t, call.Trusted())
	assert.Equal(t, "from-the-mesh", call.RequestID())
	assert.Equal(t, "https", call.Scheme())
	assert.Equal(t, "sni.example.com", call.SNI())

	answer = func() (*gatemesh.Peer, error) { return nil, nil }
	call, _ = ask()
	assert.Nil(t, call.Peer())
	assert.False(t, call.Trusted())

	answer = func() (*gatemesh.Peer, error) { return peer, errors.New("SECRET-cause") }
	call, w := ask()
	assert.Nil(t, call)
	assert.Equal(t, http.StatusUnauthorized, w.Code)
	assert.NotContains(t, w.Body.String(), "SECRET")
	assert.NotEqual(t, "from-the-mesh", w.Header().Get("X-Request-Id"), "a refused peer is not believed")

	answer = func() (*gatemesh.Peer, error) { panic("SECRET-panic") }
	call, w = ask()
	assert.Nil(t, call)
	assert.Equal(t, http.StatusInternalServerError, w.Code)
	assert.NotContains(t, w.Body.String(), "SECRET")
	assert.NotEmpty(t, w.Header().Get("X-Request-Id"))
	assert.Len(t, observer.of(gatemesh.EventPanic), 1)
}

// TestHostileRequests are requests that no server of net/http makes, but
// middleware in front of a chain may.
func TestHostileRequests(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*http.Request){
		"no URL":        func(r *http.Request) { r.URL = nil },
		"no method":     func(r *http.Request) { r.Method = "" },
		"opaque":        func(r *http.Request) { r.URL = &url.URL{Scheme: "x", Opaque: "admin"} },
		"empty path":    func(r *http.Request) { r.URL = &url.URL{} },
		"query with #":  func(r *http.Request) { r.URL.RawQuery = "a#b" },
		"relative path": func(r *http.Request) { r.URL.Path = "admin" },
		"CONNECT":       func(r *http.Request) { r.Method, r.URL = "CONNECT", &url.URL{Host: "a:443"} },
	} {
		r := request("/")
		change(r)
		call, _, w := judge(gatemesh.EntryConfig{}, r)
		assert.Nil(t, call, name)
		assert.Equal(t, http.StatusBadRequest, w.Code, name)
	}
	for name, change := range map[string]func(*http.Request){
		"no header":       func(r *http.Request) { r.Header = nil },
		"no address":      func(r *http.Request) { r.RemoteAddr = "" },
		"junk address":    func(r *http.Request) { r.RemoteAddr = "unix:/run/x" },
		"empty name":      func(r *http.Request) { r.Header[""] = []string{"x"} },
		"nil values":      func(r *http.Request) { r.Header["X-Gatemesh-Identity"] = nil },
		"huge name":       func(r *http.Request) { r.Header["X-"+strings.Repeat("a", 1<<20)] = []string{"x"} },
		"binary name":     func(r *http.Request) { r.Header["\x00\xff"] = []string{"\x00"} },
		"no values":       func(r *http.Request) { r.Header["Connection"], r.Header["Host"] = nil, []string{} },
		"stale RawPath":   func(r *http.Request) { r.URL.Path, r.URL.RawPath = "/a", "/admin" },
		"invalid RawPath": func(r *http.Request) { r.URL.Path, r.URL.RawPath = "/a", "/%zz" },
	} {
		r := request("/")
		change(r)
		call, seen, w := judge(trusting, r)
		require.NotNil(t, call, name)
		assert.Equal(t, http.StatusOK, w.Code, name)
		assert.Equal(t, call.Path(), seen.URL.EscapedPath(), name)
	}
}

// TestOuterMiddlewareChangesURL checks that what counts is the URL that Entry
// got, and that nothing of the original request line survives.
func TestOuterMiddlewareChangesURL(t *testing.T) {
	t.Parallel()
	var seen *http.Request
	h := http.StripPrefix("/api", chain(gatemesh.EntryConfig{}).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen = r })))
	r := request("/api/%61")
	h.ServeHTTP(httptest.NewRecorder(), r)
	assert.Equal(t, "/a", seen.URL.EscapedPath())
	assert.Equal(t, "/a", gatemesh.FromContext(seen.Context()).Path())
}

func TestNewCall(t *testing.T) {
	t.Parallel()
	c, err := gatemesh.NewCall(gatemesh.CallInfo{
		Host: "A.Example.", Path: "/%61", Header: http.Header{"X-A": {"1", "2"}}, RemoteAddr: netip.MustParseAddrPort("[::ffff:1.2.3.4]:5"),
		Reserved: map[string]string{"x-gatemesh-identity": "token", "X-Txn": "other"},
	})
	require.NoError(t, err)
	assert.Equal(t, "a.example /a https GET http", strings.Join([]string{c.Host(), c.Path(), c.Scheme(), c.Method(), c.Protocol().String()}, " "))
	assert.Equal(t, "1.2.3.4", c.Client().String())
	assert.Equal(t, []string{"1", "2"}, c.Header().Values("x-a"))
	assert.Equal(t, "1", c.Header().Get("x-a"))
	assert.Equal(t, 2, c.Header().Count("x-a"))
	assert.Equal(t, []string{"", c.Header().Values("x-a")[0], c.Header().Values("x-a")[1], "", ""},
		[]string{c.Header().At("x-a", -1), c.Header().At("x-a", 0), c.Header().At("x-A", 1), c.Header().At("x-a", 2), c.Header().At("x-none", 0)})
	_, only := c.Header().Only("x-a")
	assert.False(t, only)
	slot, ok := c.Reserved(gatemesh.IdentityHeader)
	assert.True(t, ok)
	assert.Equal(t, "token", slot.Value)
	_, ok = c.Reserved("X-Txn")
	assert.True(t, ok)
	assert.Nil(t, gatemesh.FromContext(context.Background()))

	for name, in := range map[string]gatemesh.CallInfo{
		"path": {Path: "/../a"}, "host": {Host: "a b"}, "method": {Method: "get"},
		"reserved": {Reserved: map[string]string{"a": "", "b": "", "c": "", "d": ""}},
	} {
		_, err := gatemesh.NewCall(in)
		assert.Error(t, err, name)
	}
	out, err := gatemesh.NewCall(gatemesh.CallInfo{Parent: c, Protocol: gatemesh.GRPC})
	require.NoError(t, err)
	assert.True(t, out.Outbound())
	assert.Equal(t, 1, out.Attempt())
	assert.Equal(t, "POST", out.Method())
}
