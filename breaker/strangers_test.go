package breaker

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

// front sends what it receives to the service "a" through g. Who asks for
// /fails gets what fails answers.
type front struct {
	h http.Handler
	u *upstream
}

func newFront(t *testing.T, g *Gate, fails func(*http.Request) (*http.Response, error)) *front {
	t.Helper()
	d, err := NewDeadline(DeadlineConfig{Timeout: 2 * time.Second})
	require.NoError(t, err)
	f := &front{u: newUpstream(func(r *http.Request) (*http.Response, error) {
		if r.URL.Path == "/fails" {
			return fails(r)
		}
		return status(200)(r)
	})}
	rt := outbound(t, d.Layer(), g.Layer()).Transport(f.u)
	entry, err := gatemesh.NewEntry(gatemesh.EntryConfig{})
	require.NoError(t, err)
	who := gatemesh.Layer{Name: "auth", Gate: gatemesh.GateFunc(func(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
		if user, ok := c.Header().Only("X-User"); ok {
			return gatemesh.Admission{Principal: gatemesh.NewPrincipal(gatemesh.PrincipalInfo{Method: "test", Subject: user})}, nil
		}
		return gatemesh.Admission{}, nil
	})}
	chain, err := gatemesh.NewChain(entry, who)
	require.NoError(t, err)
	f.h = chain.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out := httptest.NewRequestWithContext(r.Context(), http.MethodGet, "http://a"+r.URL.Path, nil)
		code, err := send(t, rt, out)
		if err != nil {
			gatemesh.WriteDenial(w, r, gatemesh.AsDenial(r.Context(), err))
			return
		}
		w.WriteHeader(code)
	}))
	return f
}

// ask returns the status of a request of the client at addr, or of user.
func (f *front) ask(ctx context.Context, path, addr, user string) int {
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, path, nil)
	r.RemoteAddr = netip.AddrPortFrom(netip.MustParseAddr(addr), 1234).String()
	if user != "" {
		r.Header.Set("X-User", user)
	}
	w := httptest.NewRecorder()
	f.h.ServeHTTP(w, r)
	return w.Code
}

// TestBR01_OneClient: whoever has no token cannot take a destination away from
// others, with whatever request, as long as it comes from one address.
func TestBR01_OneClient(t *testing.T) {
	t.Parallel()
	const bad, good = "2001:db8::bad", "192.0.2.1"
	for name, fails := range map[string]func(*http.Request) (*http.Response, error){
		"500": status(500), "503": status(503), "refused": refusedConn, "black hole": blackHole,
	} {
		for mode, policy := range map[string]Policy{"rate": {}, "row": {Failures: 5}} {
			t.Run(name+", "+mode, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					g, err := NewGate(GateConfig{Policy: policy})
					require.NoError(t, err)
					f := newFront(t, g, fails)
					for i := range 200 {
						addr := netip.MustParseAddr(bad).As16()
						addr[15] = byte(i) // a whole /64 is one client
						f.ask(t.Context(), "/fails", netip.AddrFrom16(addr).String(), "")
						require.Equal(t, Closed, g.State(service("a")))
						if i%40 == 0 {
							require.Equal(t, 200, f.ask(t.Context(), "/", good, ""))
						}
					}
					require.NotNil(t, g.circuits.all()[service("a")])
				})
			})
		}
	}
}

// TestBR01_OneClientAtTheEdge: two windows of what one client can say are less
// than what opens the breaker, whatever others have said before.
func TestBR01_OneClientAtTheEdge(t *testing.T) {
	t.Parallel()
	const bad = "192.0.2.66"
	for _, rate := range []float64{0, 0.25} {
		synctest.Test(t, func(t *testing.T) {
			g, err := NewGate(GateConfig{Policy: Policy{FailureRate: rate}})
			require.NoError(t, err)
			f := newFront(t, g, status(503))
			say := func(good, bads int) {
				for range good {
					f.ask(t.Context(), "/", bad, "")
				}
				for range bads {
					f.ask(t.Context(), "/fails", bad, "")
				}
			}
			f.ask(t.Context(), "/fails", "192.0.2.1", "") // begins a window
			time.Sleep(9500 * time.Millisecond)
			say(15, 100)
			time.Sleep(700 * time.Millisecond)
			say(0, 100)
			assert.Equal(t, Closed, g.State(service("a")))
			assert.Equal(t, 200, f.ask(t.Context(), "/", "192.0.2.2", ""))
		})
	}
}

// TestStrangersTogether: an outage that many meet opens the breaker, and so do
// callers that are known, each by itself.
func TestStrangersTogether(t *testing.T) {
	t.Parallel()
	for name, asks := range map[string]func(ctx context.Context, f *front, i int){
		"many addresses": func(ctx context.Context, f *front, i int) { f.ask(ctx, "/fails", fmt.Sprintf("192.0.2.%d", i%100), "") },
		"one user":       func(ctx context.Context, f *front, _ int) { f.ask(ctx, "/fails", "192.0.2.1", "u") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				g, err := NewGate(GateConfig{})
				require.NoError(t, err)
				f := newFront(t, g, status(503))
				for i := range 19 {
					asks(t.Context(), f, i)
					require.Equal(t, Closed, g.State(service("a")), "fewer than MinCalls")
				}
				for i := range 20 { // a few may share a count
					asks(t.Context(), f, 19+i)
				}
				assert.Equal(t, Open, g.State(service("a")))
			})
		})
	}
}

// TestStrangersProbe: a client whose request fails in any case does not hold the
// breaker open by sending all probes.
func TestStrangersProbe(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const bad, good = "192.0.2.66", "192.0.2.1"
		g, err := NewGate(GateConfig{Policy: Policy{Failures: 1, Delay: 5 * time.Second}})
		require.NoError(t, err)
		f := newFront(t, g, status(503))
		f.ask(t.Context(), "/fails", good, "u")
		require.Equal(t, Open, g.State(service("a")))
		time.Sleep(5 * time.Second)
		before := f.u.attempts.Load()
		f.ask(t.Context(), "/fails", bad, "")
		require.Equal(t, before+1, f.u.attempts.Load(), "the probe")
		time.Sleep(5 * time.Second)
		for range 100 {
			require.Equal(t, 503, f.ask(t.Context(), "/fails", bad, ""))
		}
		require.Equal(t, before+1, f.u.attempts.Load(), "it is for others to probe")
		require.Equal(t, 200, f.ask(t.Context(), "/", good, ""))
		require.Equal(t, Closed, g.State(service("a")))

		// Where there is nobody else, it probes again in the end.
		f.ask(t.Context(), "/fails", good, "u")
		time.Sleep(5 * time.Second)
		f.ask(t.Context(), "/fails", bad, "")
		time.Sleep(10 * time.Second)
		require.Equal(t, 200, f.ask(t.Context(), "/", bad, ""))
		require.Equal(t, Closed, g.State(service("a")))
	})
}

// TestBR01_DeadlineOfTheClient: a deadline that came with the inbound call says
// nothing, however long it is; one of the application does.
func TestBR01_DeadlineOfTheClient(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		inbound time.Duration
		own     time.Duration // what the application allows the call, 0 for nothing of its own
		want    State
	}{
		{"the client's", 1500 * time.Millisecond, 0, Closed},
		{"the client's, earlier than ours", 1500 * time.Millisecond, 1700 * time.Millisecond, Closed},
		{"the application's, earlier than the client's", 1800 * time.Millisecond, 1500 * time.Millisecond, Open},
		{"the application's", 0, 1500 * time.Millisecond, Open},
		{"the application's, impatient", 0, 500 * time.Millisecond, Closed},
		{"that of the layer", time.Hour, 0, Open},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				g := newGate(t, func(c *GateConfig) { c.Failures = 1 })
				d, err := NewDeadline(DeadlineConfig{Timeout: 2 * time.Second})
				require.NoError(t, err)
				rt := outbound(t, d.Layer(), g.Layer()).Transport(newUpstream(blackHole))
				b := newBreaker(t, func(c *Config) { c.Failures = 1 })
				entry, err := gatemesh.NewEntry(gatemesh.EntryConfig{})
				require.NoError(t, err)
				chain, err := gatemesh.NewChain(entry)
				require.NoError(t, err)
				within := func(ctx context.Context, d time.Duration, do func(context.Context)) {
					if d > 0 {
						c, cancel := context.WithTimeout(ctx, d)
						defer cancel()
						ctx = c
					}
					do(ctx)
				}
				for _, do := range []func(context.Context){
					func(ctx context.Context) {
						_, err := send(t, rt, request(ctx, "a"))
						assert.Error(t, err)
					},
					func(ctx context.Context) {
						assert.Error(t, b.Do(ctx, func(ctx context.Context) (err error) {
							within(ctx, 2*time.Second, func(ctx context.Context) { <-ctx.Done(); err = ctx.Err() })
							return err
						}))
					},
				} {
					h := chain.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { within(r.Context(), test.own, do) }))
					within(t.Context(), test.inbound, func(ctx context.Context) {
						h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil))
					})
				}
				assert.Equal(t, test.want, g.State(service("a")))
				assert.Equal(t, test.want, b.State(), "Breaker judges like Gate")
			})
		})
	}
}

// What was said long ago, or before a success, is forgotten.
func TestStrangersForget(t *testing.T) {
	t.Parallel()
	var s strangers
	now := time.Now()
	byRate := trips{rate: 0.5, minCalls: 16, window: 10 * time.Second}
	for range 3 {
		assert.True(t, s.hear(1, byRate, now))
		assert.True(t, s.hear(1, byRate, now.Add(9*time.Second)))
		assert.False(t, s.hear(1, byRate, now.Add(9*time.Second)), "a quarter of 8, which open it")
		assert.True(t, s.hear(2, byRate, now.Add(9*time.Second)), "another")
		assert.True(t, s.hear(0, byRate, now.Add(9*time.Second)), "nobody")
		now = now.Add(10 * time.Second)
	}
	p := Policy{Failures: 4}.withDefaults()
	c := newCircuit("a", &p)
	for range 10 {
		c.settle(ticket{}, failure, 0, &p, 1)
		assert.False(t, c.from.hear(1, c.trips, now))
		c.settle(ticket{}, success, 0, &p, 0)
	}
	c.settle(ticket{}, failure, 0, &p, 2)
	assert.EqualValues(t, 2, c.cb.Metrics().Failures(), "of the last four")
}

func TestStranger(t *testing.T) {
	t.Parallel()
	call := func(in *gatemesh.CallInfo) *gatemesh.Call {
		out := gatemesh.CallInfo{Host: "a"}
		if in != nil {
			out.Parent = gatemesh.Must(gatemesh.NewCall(*in))
		}
		return gatemesh.Must(gatemesh.NewCall(out))
	}
	at := func(addr string) gatemesh.CallInfo { return gatemesh.CallInfo{Client: netip.MustParseAddr(addr)} }
	one, other, known, peer := at("192.0.2.1"), at("192.0.2.2"), at("192.0.2.1"), at("192.0.2.1")
	known.Principal = gatemesh.NewPrincipal(gatemesh.PrincipalInfo{Method: "test", Subject: "u"})
	peer.Peer = gatemesh.Must(gatemesh.NewPeer("td.example", "/ns/a/sa/b", nil))
	assert.NotZero(t, stranger(call(&one)))
	assert.NotEqual(t, stranger(call(&one)), stranger(call(&other)))
	for _, c := range []*gatemesh.Call{nil, call(nil), call(&gatemesh.CallInfo{}), call(&known), call(&peer)} {
		assert.Zero(t, stranger(c), c)
	}
}
