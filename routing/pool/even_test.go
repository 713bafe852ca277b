package pool

import (
	"context"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// village is servers that answer after about half a millisecond, and to which a
// connection takes ten times as long.
type village struct {
	mu       sync.Mutex
	rand     *rand.Rand
	answered map[string]int
	pauses   int // the answer, of whoever is first to make so many, that takes 10 ms, or 0
	dialed   int
	ended    int
	header   func(http.Header) // what answers have besides, or nil
	servers  sync.WaitGroup
}

func (v *village) DialContext(_ context.Context, _, addr string) (net.Conn, error) {
	v.mu.Lock()
	v.dialed++
	v.mu.Unlock()
	time.Sleep(5 * time.Millisecond)
	ours, theirs := net.Pipe()
	v.servers.Go(func() {
		_ = http.Serve(&oneConn{Conn: theirs}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			v.mu.Lock()
			v.answered[addr]++
			took := 0.5
			if v.rand != nil {
				took *= math.Exp(0.2 * v.rand.NormFloat64())
			}
			if v.header != nil {
				v.header(w.Header())
			}
			if v.answered[addr] == v.pauses {
				v.pauses = 0
				took = 10
			}
			v.mu.Unlock()
			time.Sleep(time.Duration(took * float64(time.Millisecond)))
		}))
		v.mu.Lock()
		v.ended++
		v.mu.Unlock()
	})
	return ours, nil
}

// open returns how many connections there are.
func (v *village) open() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.dialed - v.ended
}

// oneConn is a listener that accepts one connection, and ends with it.
type oneConn struct {
	net.Conn
	accepted bool
	end      sync.Once
	ended    chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	if l.accepted {
		<-l.ended
		return nil, io.EOF
	}
	l.accepted, l.ended = true, make(chan struct{})
	return l, nil
}

func (l *oneConn) Close() error {
	l.end.Do(func() { close(l.ended) })
	return l.Conn.Close()
}

func (l *oneConn) Addr() net.Addr { return l.LocalAddr() }

// Equal endpoints get about equal shares from P2C, however little is asked of
// them: one that was not asked for so long that its connections were closed must
// not seem slow because it has to be connected to, as after it was left alone for
// one pause; nor one that measured a bit more than others.
func TestP2CIsEven(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ rate, calls, pauses int }{{1, 600, 0}, {10, 1_200, 0}, {10, 1_500, 25}, {1_000, 5_000, 0}} {
		t.Run(fmt.Sprintf("%d per second, paused %t", tt.rate, tt.pauses > 0), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				v := &village{rand: rand.New(rand.NewPCG(1, uint64(tt.rate))), answered: map[string]int{}, pauses: tt.pauses}
				p := newPool(t, Static(numbered(4)...))
				tr, err := p.NewTransport(TransportConfig{Base: &http.Transport{DialContext: v.DialContext}})
				require.NoError(t, err)
				var wg sync.WaitGroup
				for range tt.calls {
					wg.Go(func() {
						resp, err := tr.RoundTrip(request(t, "http://orders/"))
						if assert.NoError(t, err) {
							_, err = io.Copy(io.Discard, resp.Body)
							assert.NoError(t, err)
							assert.NoError(t, resp.Body.Close())
						}
					})
					v.mu.Lock()
					pause := v.rand.ExpFloat64()
					v.mu.Unlock()
					time.Sleep(time.Duration(pause * float64(time.Second) / float64(tt.rate)))
				}
				wg.Wait()
				require.Len(t, v.answered, 4)
				for addr, n := range v.answered {
					share := float64(n) / float64(tt.calls)
					assert.True(t, share > 0.15 && share < 0.35, "%s got %.3f of all, %v", addr, share, v.answered)
				}
				t.Logf("%v, %d connections", v.answered, v.dialed)
				require.NoError(t, tr.Close())
				v.servers.Wait()
			})
		})
	}
}

// A latency does not have the time in which the connection was made, if the
// transport tells when it had one.
func TestConnectingIsNoLatency(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, Static("a:1", "b:1"))
		tr := p.Transport(roundTripper(func(r *http.Request) (*http.Response, error) {
			time.Sleep(50 * time.Millisecond)
			if trace := httptrace.ContextClientTrace(r.Context()); r.URL.Host == "a:1" {
				trace.GetConn(r.URL.Host)
				trace.GotConn(httptrace.GotConnInfo{})
			}
			time.Sleep(2 * time.Millisecond)
			return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
		}))
		for range 2 { // who has no sample comes first
			resp, err := tr.RoundTrip(request(t, "http://orders/"))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
		}
		assert.InDelta(t, 2*time.Millisecond, statusOf(t, p, "a:1").Latency, 1e5)
		assert.InDelta(t, 52*time.Millisecond, statusOf(t, p, "b:1").Latency, 1e6, "nobody has told")
	})
}

// Of two endpoints the one that was drawn first is taken, by P2C, unless the other
// costs a quarter less; one that has failed is measured exactly.
func TestQuarter(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		a, b     time.Duration
		inFlight int // at a
		failed   bool
		want     float64 // of a
	}{
		{"equal", 100, 100, 0, false, 0.5},
		{"a bit slower", 125, 100, 0, false, 0.5},
		{"slower", 140, 100, 0, false, 0},
		{"busier", 100, 100, 1, false, 0},
		{"busier and a bit faster", 80, 100, 1, false, 0},
		{"busier and faster", 40, 100, 1, false, 0.5},
		{"busier and much faster", 30, 100, 1, false, 1},
		{"a bit slower, and has failed", 125, 100, 0, true, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := newPool(t, Static("a:1", "b:1"))
				now := time.Now()
				for addr, took := range map[string]time.Duration{"a:1": tt.a, "b:1": tt.b} {
					at(t, p, addr).Begin(t.Context(), now.Add(-took*time.Millisecond)).Done(now, Success)
				}
				if tt.failed {
					try(t, at(t, p, "a:1"), Failure)
				}
				for range tt.inFlight {
					at(t, p, "a:1").Begin(t.Context(), now)
				}
				assert.InDelta(t, 1_000*tt.want, tries(t, p, 1_000)["a:1"], 100)
			})
		})
	}
}
