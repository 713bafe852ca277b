package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh/mtls/devca"
)

// The conformance tests ask the gateway what the conformance suite of the
// Gateway API (kubernetes-sigs/gateway-api, conformance/tests) asks: each test
// has the name that the suite has for it, manifests with the meaning of the
// suite's, and the suite's requests. What the suite has besides is not a matter
// of one process with a folder of manifests:
//
//   - Conditions in the status of objects (observed generations, attached routes,
//     supported kinds, addresses, GatewayClass), which nobody writes here.
//   - Routes that the suite applies with faults in them and of which it wants the
//     rest served, with 500 for the rules at fault (HTTPRouteInvalid…,
//     HTTPRouteDisallowedKind, HTTPRoutePartiallyInvalidViaInvalidReferenceGrant,
//     HTTPRouteReferenceGrant without the grant, …AllBackendsWeightZero of both
//     kinds, and a rule without backends). Here a folder with a fault does not
//     load, and what was served before goes on; TestConformanceRefused has them.
//     So it is with Gateways at fault (GatewayInvalid…, GatewaySecret…,
//     GatewayListenerUnsupportedProtocol), and with a Service that is not there:
//     HTTPRouteRuleOrder has such a rule, too.
//   - BackendTLSPolicy, ListenerSet, TLSRoute, TCPRoute and UDPRoute, Passthrough,
//     Service as a parent (GAMMA): other kinds of resources. Client certificates
//     (GatewayFrontend…, GatewayTLSBackend…) are a matter of flags.
//   - HTTPRouteServiceTypes: where a Service is, is said by DNS or by flags.
//   - Filters that the specification has for experiments, or not yet: ExternalAuth,
//     DirectResponse, RequestRedirect of a backend, session persistence.

// backends are the services of the suite: each says who it is and what it got.
type backends struct {
	urls map[string]string // with blanks between them
	// What each service got, by service and path.
	got chan string
	// How often a path was asked for, for retries.
	asked [12]atomic.Int64
}

// seen is what a backend tells of a request.
type seen struct {
	Backend, Method, Host, Path string
	Proto                       string
	Header                      http.Header
}

var services = []string{"infra-v1", "infra-v2", "infra-v3", "web", "h2c"}

func newBackends(t *testing.T) *backends {
	b := &backends{urls: map[string]string{}, got: make(chan string, 1000)}
	for _, name := range services {
		s := httptest.NewUnstartedServer(b.echo(name))
		scheme := "http"
		if name == "h2c" {
			s.Config.Protocols = new(http.Protocols)
			s.Config.Protocols.SetUnencryptedHTTP2(true)
			scheme = "h2c"
		}
		s.Start()
		t.Cleanup(s.Close)
		b.urls[name] = scheme + "://" + s.Listener.Addr().String()
	}
	return b
}

func (b *backends) echo(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case b.got <- name + " " + r.URL.Path:
		default: // nobody reads these
		}
		query := r.URL.Query()
		if d, err := time.ParseDuration(query.Get("delay")); err == nil {
			select {
			case <-time.After(d):
			case <-r.Context().Done():
				return
			}
		}
		for _, f := range query["answer"] { // the suite has a field of the request for this
			k, v, _ := strings.Cut(f, ":")
			w.Header().Add(k, v)
		}
		if i, err := strconv.Atoi(query.Get("retry")); err == nil {
			n, _ := strconv.ParseInt(query.Get("succeedAfter"), 10, 64)
			if code, err := strconv.Atoi(query.Get("code")); err == nil && b.asked[i].Add(1) <= n {
				if d, err := time.ParseDuration(query.Get("delayRetry")); err == nil {
					select {
					case <-time.After(d):
					case <-r.Context().Done():
					}
				}
				w.WriteHeader(code)
				return
			}
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(seen{name, r.Method, r.Host, r.RequestURI, r.Proto, r.Header})
	})
}

// conformance is a gateway with the manifests of a test of the suite.
type conformance struct {
	t     *testing.T
	plain *http.Client
	ca    *devca.CA
	addrs map[string]net.Addr
	hosts []string // that there are certificates for
}

const suiteNamespace = "gateway-conformance-infra"

// sameNamespace is the Gateway that most tests of the suite use.
const sameNamespace = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: same-namespace, namespace: gateway-conformance-infra}
spec:
  gatewayClassName: gatemesh
  listeners: [{name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Same}}}]
`

// anybody lets everybody in, as the suite does.
const anybody = `---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: anybody, namespace: gateway-conformance-infra}
spec: {rules: [{}]}
`

// httpRoute is an HTTPRoute for a Gateway, with the rest of its spec.
func httpRoute(name, gateway, spec string) string {
	return routeOf("HTTPRoute", name, suiteNamespace, gateway, spec)
}

func routeOf(kind, name, namespace, gateway, spec string) string {
	if !strings.HasPrefix(gateway, "{") {
		gateway = "{name: " + gateway + ", namespace: " + suiteNamespace + "}"
	}
	return fmt.Sprintf("---\napiVersion: gateway.networking.k8s.io/v1\nkind: %s\nmetadata: {name: %s, namespace: %s}\nspec:\n  parentRefs: [%s]\n%s\n",
		kind, name, namespace, gateway, strings.Trim(spec, "\n"))
}

var (
	portPattern     = regexp.MustCompile(`port: (\d+), protocol`)
	hostnamePattern = regexp.MustCompile(`hostname: "?([a-z0-9.*-]+)"?, port`)
)

// serves starts a gateway with manifests.
func (b *backends) serves(t *testing.T, manifests string, args ...string) *conformance {
	t.Helper()
	c := &conformance{t: t, plain: plainClient(t)}
	args = append(args, "-manifests", folderOf(t, manifests+anybody), "-workload", "gateway."+suiteNamespace)
	ports := map[string]bool{}
	for _, m := range portPattern.FindAllStringSubmatch(manifests, -1) {
		ports[m[1]] = true
	}
	for p := range ports {
		args = append(args, "-listen", p+"=127.0.0.1:0")
	}
	for name, to := range b.urls {
		if strings.Contains(manifests, "{name: "+name+",") {
			for one := range strings.SplitSeq(to, " ") {
				args = append(args, "-upstream", name+"="+one)
			}
		}
	}
	if strings.Contains(manifests, "protocol: HTTPS") {
		var err error
		c.ca, err = devca.New("public.test")
		require.NoError(t, err)
		certs := t.TempDir()
		c.hosts = append(c.hosts, "example.org")
		for _, m := range hostnamePattern.FindAllStringSubmatch(manifests, -1) {
			c.hosts = append(c.hosts, m[1])
		}
		for i, h := range c.hosts {
			site(t, c.ca, filepath.Join(certs, strconv.Itoa(i)), h)
		}
		args = append(args, "-tls-dir", certs, "-tls-default", "example.org")
	}
	o, err := parseFlags(args, io.Discard)
	require.NoError(t, err)
	c.addrs = serveWith(t, o, io.Discard)
	return c
}

// ask is a request of the suite, and what comes of it.
type ask struct {
	method, host, path string // GET, the address and / by default
	header             string // "A: 1|B: 2"
	port               int    // of the Gateway; 80 by default
	sni                string // "" on a port for HTTP

	to               string // the service, or ""
	status           int    // 200 by default
	gotPath, gotHost string // what the service got; "" is what was asked for
	got              string // fields that it got, as in header
	lost             string // names of fields that it did not get
	answer           string // fields of the answer; several values are alternatives: "A: 1 or 2"
	lacks            string // names of fields that the answer has not
}

func fields(s string) map[string]string {
	out := map[string]string{}
	for f := range strings.SplitSeq(s, "|") {
		if name, value, ok := strings.Cut(f, ": "); ok {
			out[name] = value
		}
	}
	return out
}

// name is what a failure is found by.
func (a *ask) name() string {
	return strings.TrimSpace(fmt.Sprintf("%s %s%s%s %s", a.method, a.sni, a.host, a.path, a.header))
}

// asks sends requests and compares.
func (c *conformance) asks(list ...ask) {
	c.t.Helper()
	for i := range list {
		c.ask(&list[i])
	}
}

func (c *conformance) ask(a *ask) {
	t := c.t
	t.Helper()
	port, status, method, path := a.port, a.status, a.method, a.path
	if method == "" {
		method = http.MethodGet
	}
	if path == "" {
		path = "/"
	}
	if port == 0 {
		port = 80
	}
	if status == 0 {
		status = 200
	}
	resp, body := c.send(a, port, method, path)
	if !assert.Equal(t, status, resp.StatusCode, "%s: %s", a.name(), body) {
		return
	}
	for name, want := range fields(a.answer) {
		got := strings.Join(resp.Header.Values(name), ",")
		if !slices.Contains(strings.Split(strings.ReplaceAll(want, ", ", ","), " or "), strings.ReplaceAll(got, ", ", ",")) {
			assert.Equal(t, want, got, "%s: %s", a.name(), name)
		}
	}
	for name := range strings.SplitSeq(a.lacks, "|") {
		assert.Empty(t, resp.Header.Values(name), "%s: %s", a.name(), name)
	}
	if a.to == "" {
		return
	}
	var got seen
	if !assert.NoError(t, json.Unmarshal(body, &got), "%s: %s", a.name(), body) {
		return
	}
	assert.Equal(t, a.to, got.Backend, a.name())
	if a.gotPath != "" {
		path = a.gotPath
	}
	assert.Equal(t, path, got.Path, a.name())
	if a.gotHost != "" || a.host != "" {
		want := a.gotHost
		if want == "" {
			want = a.host
		}
		assert.Equal(t, want, got.Host, a.name())
	}
	for name, want := range fields(a.got) {
		assert.Equal(t, want, strings.Join(got.Header.Values(name), ","), "%s: %s", a.name(), name)
	}
	for name := range strings.SplitSeq(a.lost, "|") {
		assert.Empty(t, got.Header.Values(name), "%s: %s", a.name(), name)
	}
}

func (c *conformance) send(a *ask, port int, method, path string) (*http.Response, []byte) {
	t := c.t
	t.Helper()
	addr := c.addrs["public "+strconv.Itoa(port)]
	require.NotNil(t, addr, "port %d: %v", port, slices.Collect(maps.Keys(c.addrs)))
	scheme, client := "http", *c.plain
	if a.sni != "" {
		scheme, client = "https", *tlsClient(t, c.ca, addr, func(tr *http.Transport) {
			tr.TLSClientConfig.ServerName = a.sni
			tr.TLSClientConfig.InsecureSkipVerify = true // some of these names have no certificate
		})
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, scheme+"://"+addr.String()+path, http.NoBody)
	require.NoError(t, err)
	if a.host != "" {
		r.Host = a.host
	}
	for name, value := range fields(a.header) {
		r.Header.Set(name, value)
	}
	resp, err := client.Do(r)
	require.NoError(t, err, a.name())
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err, a.name())
	require.NoError(t, resp.Body.Close())
	return resp, bytes.TrimSpace(body)
}

// location is where an answer redirects to.
func (c *conformance) location(a ask) *url.URL {
	c.t.Helper()
	resp, body := c.send(&a, max(a.port, 80), http.MethodGet, a.path)
	require.Equal(c.t, a.status, resp.StatusCode, "%s: %s", a.name(), body)
	to, err := url.Parse(resp.Header.Get("Location"))
	require.NoError(c.t, err)
	return to
}

// folderOf is a folder with manifests.
func folderOf(t *testing.T, manifests string) string {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "all.yaml"), []byte(manifests), 0o600))
	return dir
}
