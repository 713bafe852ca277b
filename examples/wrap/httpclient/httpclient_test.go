package httpclient

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/examples/wrap/internal/harness"
	"github.com/gatemesh-go/gatemesh/meshtest"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
	"github.com/gatemesh-go/gatemesh/routing/pool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// callee answers as its path says, and remembers what it got last.
type callee struct {
	mu    sync.Mutex
	got   http.Header
	calls map[string]int
}

func (c *callee) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	c.got = r.Header.Clone()
	c.calls[r.URL.Path]++
	n := c.calls[r.URL.Path]
	c.mu.Unlock()
	switch r.URL.Path {
	case "/cookie":
		http.SetCookie(w, &http.Cookie{Name: "session", Value: "s1", Secure: true})
	case "/loop":
		http.Redirect(w, r, "/loop", http.StatusFound)
	case "/to":
		http.Redirect(w, r, r.URL.RawQuery, http.StatusFound)
	case "/slow":
		<-r.Context().Done()
	case "/flaky":
		if n == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	case "/down":
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	if caller := gatemesh.FromContext(r.Context()); caller != nil {
		fmt.Fprintf(w, "%s for %s: ", caller.Peer().ServiceAccount(), caller.Principal().Subject())
	}
	fmt.Fprint(w, r.Method+" "+r.URL.Path)
}

func (c *callee) received(name string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.got.Values(name)
}

func (c *callee) count(path string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls[path]
}

func newCallee() *callee { return &callee{calls: map[string]int{}} }

// world is payment-service, as it was and as a member of the mesh, and a third
// party.
type world struct {
	*harness.Folder
	payment, third *callee
	settings       settings
	before, after  *http.Client
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{Folder: harness.Enter(t), payment: newCallee(), third: newCallee()}
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	w.settings = settings{timeout: 500 * time.Millisecond, jar: jar, roots: x509.NewCertPool(), hosts: map[string]string{}}
	for host, c := range map[string]*callee{"payment-service": w.payment, "third.example": w.third} {
		ca, err := devca.New("somebody.example")
		require.NoError(t, err)
		cert, err := ca.ServerCertificate(host)
		require.NoError(t, err)
		w.settings.roots.AddCert(ca.Bundle()[0])
		srv := httptest.NewUnstartedServer(c)
		srv.TLS = harness.ServerTLS(t)
		srv.TLS.Certificates[0] = cert
		srv.EnableHTTP2 = true
		srv.StartTLS()
		t.Cleanup(srv.Close)
		w.settings.hosts[host+":443"] = srv.Listener.Addr().String()
	}
	w.before = w.settings.Before()
	t.Cleanup(w.before.CloseIdleConnections)

	member, err := w.Join("payment-service")
	require.NoError(t, err)
	service, err := member.Serve(meshtest.ServiceConfig{Handler: w.payment, DisablePolicy: true})
	require.NoError(t, err)
	orders, err := w.Join("orders-service")
	require.NoError(t, err)
	payments, err := pool.New(pool.Config{Name: "payment-service", Resolver: pool.Static(service.Addr)})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, payments.Close()) })
	w.after = w.settings.After(orders.TLS(), payments)
	return w
}

// get makes a request, with fields that only the mesh may carry, and returns
// status and body.
func get(ctx context.Context, t *testing.T, client *http.Client, method, url string) (string, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, method, url, http.NoBody)
	require.NoError(t, err)
	r.Header.Set(gatemesh.IdentityHeader, "forged")
	resp, err := client.Do(r)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return fmt.Sprintf("%d %s", resp.StatusCode, body), nil
}

// TestSame: timeout, redirect rule and cookies are the client's own, wherever a
// request goes.
func TestSame(t *testing.T) {
	w := newWorld(t)
	w.Inbound(t, func(ctx context.Context) {
		for _, host := range []string{"payment-service", "third.example"} {
			for name, client := range map[string]*http.Client{"before": w.before, "after": w.after} {
				who := ""
				if name == "after" && host == "payment-service" {
					who = "orders-service for ada: "
				}
				got, err := get(ctx, t, client, "GET", "https://"+host+"/ok")
				assert.NoError(t, err)
				assert.Equal(t, "200 "+who+"GET /ok", got)

				_, err = get(ctx, t, client, "GET", "https://"+host+"/loop")
				assert.ErrorIs(t, err, errTooFar)

				_, err = get(ctx, t, client, "GET", "https://"+host+"/slow")
				var timeout net.Error
				if assert.ErrorAs(t, err, &timeout) {
					assert.True(t, timeout.Timeout())
				}

				_, err = get(ctx, t, client, "GET", "https://"+host+"/cookie")
				assert.NoError(t, err)
				_, err = get(ctx, t, client, "GET", "https://"+host+"/ok")
				assert.NoError(t, err)
				c := map[string]*callee{"payment-service": w.payment, "third.example": w.third}[host]
				assert.Equal(t, []string{"session=s1"}, c.received("Cookie"))
			}
		}
	})
}

// TestMesh: request id, user, retry and breaker.
func TestMesh(t *testing.T) {
	w := newWorld(t)
	id := w.Inbound(t, func(ctx context.Context) {
		got, err := get(ctx, t, w.after, "GET", "https://payment-service/flaky")
		assert.NoError(t, err)
		assert.Equal(t, "200 orders-service for ada: GET /flaky", got)
		assert.Equal(t, 2, w.payment.count("/flaky"), "once more")
	})
	assert.Equal(t, []string{id}, w.payment.received(gatemesh.RequestIDHeader))
	w.Inbound(t, func(ctx context.Context) {
		const calls = 20 - 2 // those before were two attempts, one of them good
		for range calls {
			got, err := get(ctx, t, w.after, "POST", "https://payment-service/down")
			assert.NoError(t, err)
			assert.Contains(t, got, "503")
		}
		_, err := get(ctx, t, w.after, "POST", "https://payment-service/down")
		var d *gatemesh.Denial
		if assert.ErrorAs(t, err, &d) {
			assert.Equal(t, "circuit_open", d.Reason)
		}
		assert.Equal(t, calls, w.payment.count("/down"), "a POST is not tried again")
	})
}

// TestThirdParty: strangers learn nothing, also when a service of ours sends
// us to them, and cannot send us where they like.
func TestThirdParty(t *testing.T) {
	w := newWorld(t)
	w.Inbound(t, func(ctx context.Context) {
		for _, url := range []string{"https://third.example/ok", "https://payment-service/to?https://third.example/ok"} {
			got, err := get(ctx, t, w.after, "GET", url)
			assert.NoError(t, err)
			assert.Equal(t, "200 GET /ok", got)
			assert.Empty(t, w.third.received(gatemesh.RequestIDHeader))
			assert.Empty(t, w.third.received(gatemesh.IdentityHeader))
		}
		_, err := get(ctx, t, w.after, "GET", "https://third.example/to?https://payment-service/ok")
		var d *gatemesh.Denial
		if assert.ErrorAs(t, err, &d) {
			assert.Equal(t, "redirect_into_mesh", d.Reason)
		}
		assert.Zero(t, w.payment.count("/ok"))
	})
	// Before, the field that the application set went along.
	_, err := get(t.Context(), t, w.before, "GET", "https://third.example/ok")
	require.NoError(t, err)
	assert.Equal(t, []string{"forged"}, w.third.received(gatemesh.IdentityHeader))
}
