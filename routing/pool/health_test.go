package pool

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// pods answers health checks without a network.
type pods struct {
	mu        sync.Mutex
	sick      map[string]bool
	asked     map[string]int
	at        []time.Time
	now, most int // in flight
	takes     time.Duration
}

func newPods() *pods { return &pods{sick: map[string]bool{}, asked: map[string]int{}} }

func (p *pods) RoundTrip(r *http.Request) (*http.Response, error) {
	p.mu.Lock()
	p.asked[r.URL.Host]++
	p.at = append(p.at, time.Now())
	p.now++
	p.most = max(p.most, p.now)
	sick, takes := p.sick[r.URL.Host], p.takes
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		p.now--
		p.mu.Unlock()
	}()
	select {
	case <-time.After(takes):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	if r.URL.Host == "panics:1" {
		panic("on purpose")
	}
	w := httptest.NewRecorder()
	if sick {
		w.Code = http.StatusServiceUnavailable
	}
	return w.Result(), nil
}

// count returns how often an address was asked, "" is all of them.
func (p *pods) count(addr string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if addr == "" {
		return len(p.at)
	}
	return p.asked[addr]
}

func (p *pods) set(addr string, sick bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sick[addr] = sick
}

func checked(transport http.RoundTripper) func(*Config) {
	return func(c *Config) {
		c.Balancer = RoundRobin
		c.Health = Health{Check: CheckHTTP, Transport: transport, Interval: time.Second}
	}
}

// An endpoint that fails its checks is out after three, in after two that pass,
// and then warms up; the Observer hears of both.
func TestHealth(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pods, r := newPods(), &recorder{}
		p := newPool(t, Static("a:1", "b:1", "c:1"), checked(pods), func(c *Config) {
			c.Observer, c.Warmup.Duration = r, time.Minute
		})
		time.Sleep(10 * time.Second)
		assert.Empty(t, r.take())
		for _, s := range p.Endpoints() {
			assert.Equal(t, In, s.State)
			assert.InDelta(t, 11, pods.count(s.Address), 2, "a little more often than every second")
		}

		pods.set("b:1", true)
		time.Sleep(1_500 * time.Millisecond)
		assert.Positive(t, tries(t, p, 300)["b:1"], "one failure, or two, is not enough")
		time.Sleep(1_600 * time.Millisecond)
		assert.Zero(t, tries(t, p, 300)["b:1"])
		s := statusOf(t, p, "b:1")
		assert.Equal(t, Unhealthy, s.State)
		assert.NotEmpty(t, s.Reason)
		assert.Equal(t, []string{"!the endpoint b:1 is unhealthy"}, r.take())
		time.Sleep(time.Minute)
		assert.Zero(t, tries(t, p, 300)["b:1"], "it does not come back by itself")

		pods.set("b:1", false)
		time.Sleep(2_100 * time.Millisecond)
		assert.Equal(t, []string{"the endpoint b:1 is healthy again"}, r.take())
		assert.Equal(t, Warming, statusOf(t, p, "b:1").State)
		assert.InDelta(t, 14, tries(t, p, 300)["b:1"], 5)
	})
}

// When all fail their checks, all are used.
func TestHealthNeverAllOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pods := newPods()
		p := newPool(t, Static("a:1", "b:1", "c:1"), checked(pods))
		pods.set("a:1", true)
		pods.set("b:1", true)
		pods.set("c:1", true)
		time.Sleep(10 * time.Second)
		for _, s := range p.Endpoints() {
			assert.Equal(t, Unhealthy, s.State)
			assert.True(t, s.Ignored)
		}
		assert.Len(t, tries(t, p, 300), 3)
	})
}

// Checks of many endpoints are spread and bounded, those of endpoints that come
// begin at once, and those of endpoints that leave end.
func TestHealthIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pods := newPods()
		pods.takes = 10 * time.Millisecond
		b := &book{addrs: numbered(200)}
		p := newPool(t, b, checked(pods), func(c *Config) { c.Health.Concurrency = 4 })
		require.NoError(t, p.WaitReady(t.Context()))
		time.Sleep(10 * time.Second)
		pods.mu.Lock()
		assert.LessOrEqual(t, pods.most, 4)
		assert.Greater(t, len(pods.asked), 190)
		slices.SortFunc(pods.at, time.Time.Compare)
		same := 0
		for i := range pods.at {
			j := i
			for j < len(pods.at) && pods.at[j].Equal(pods.at[i]) {
				j++
			}
			same = max(same, j-i)
		}
		assert.LessOrEqual(t, same, 4, "not all at once")
		pods.mu.Unlock()
		b.set("new:1", "panics:1")
		time.Sleep(2*time.Second + 100*time.Millisecond)
		pods.mu.Lock()
		clear(pods.asked)
		pods.mu.Unlock()
		time.Sleep(10 * time.Second)
		pods.mu.Lock()
		defer pods.mu.Unlock()
		assert.Len(t, pods.asked, 2)
		assert.Equal(t, Unhealthy, at(t, p, "panics:1").status(time.Now()).State, "a panic is a failure")
	})
}

// A check that hangs fails in time, a failure ejects nobody, and an ejection is
// not ended by a check that passes.
func TestHealthBesideEjection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pods := newPods()
		p := newPool(t, Static("a:1", "b:1", "c:1", "d:1"), checked(pods))
		try(t, at(t, p, "a:1"), Unreachable)
		time.Sleep(4 * time.Second)
		assert.Equal(t, Ejected, statusOf(t, p, "a:1").State)
		pods.set("b:1", true)
		time.Sleep(4 * time.Second)
		assert.Equal(t, Unhealthy, statusOf(t, p, "b:1").State)
		assert.Zero(t, statusOf(t, p, "b:1").Ejections)
		// b is out of four, so that one more may be ejected, and not two.
		try(t, at(t, p, "c:1"), Unreachable)
		try(t, at(t, p, "d:1"), Unreachable)
		assert.Equal(t, Ejected, statusOf(t, p, "c:1").State)
		assert.Equal(t, In, statusOf(t, p, "d:1").State)

		pods.mu.Lock()
		pods.takes = time.Minute
		pods.mu.Unlock()
		time.Sleep(10 * time.Second)
		assert.Equal(t, Unhealthy, statusOf(t, p, "d:1").State, "a check ends with its Timeout")
	})
}

// Update without checks forgets what they have found, and Close ends them while
// they hang.
func TestHealthUpdate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pods := newPods()
		p := newPool(t, Static("a:1", "b:1", "c:1"), checked(pods))
		pods.set("b:1", true)
		time.Sleep(5 * time.Second)
		assert.Equal(t, Unhealthy, statusOf(t, p, "b:1").State)
		require.NoError(t, p.Update(Config{Name: "orders", Resolver: Static("a:1", "b:1", "c:1")}))
		assert.Equal(t, In, statusOf(t, p, "b:1").State)
		pods.mu.Lock()
		pods.takes = time.Hour
		pods.mu.Unlock()
		before := pods.count("")
		time.Sleep(10 * time.Second)
		assert.Equal(t, before, pods.count(""))
		cfg := Config{Name: "orders", Resolver: Static("a:1", "b:1", "c:1")}
		checked(pods)(&cfg)
		cfg.Health.Interval, cfg.Health.Timeout = time.Minute, time.Minute
		require.NoError(t, p.Update(cfg))
		time.Sleep(2 * time.Second)
		began := time.Now()
		require.NoError(t, p.Close())
		assert.Zero(t, time.Since(began))
	})
}

// The checks against real servers.
func TestHealthChecks(t *testing.T) {
	t.Parallel()
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		return l
	}
	web := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Host != "orders.shop" || r.UserAgent() == "":
			w.WriteHeader(http.StatusBadRequest)
		case r.URL.String() == "/healthz?full=1":
		case r.URL.Path == "/moved":
			http.Redirect(w, r, "/healthz?full=1", http.StatusFound)
		case r.URL.Path == "/hangs":
			<-r.Context().Done()
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
	s, status := grpc.NewServer(), health.NewServer()
	healthpb.RegisterHealthServer(s, status)
	status.SetServingStatus("orders", healthpb.HealthCheckResponse_SERVING)
	status.SetServingStatus("sick", healthpb.HealthCheckResponse_NOT_SERVING)
	l := listen()
	rpc := l.Addr().String()
	stopped := make(chan struct{})
	go func() { defer close(stopped); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-stopped })
	for _, tt := range []struct {
		name, addr string
		health     Health
		want       string // "" passes
	}{
		{"http", web, Health{Check: CheckHTTP, Path: "/healthz?full=1", Host: "orders.shop"}, ""},
		{"http status", web, Health{Check: CheckHTTP, Path: "/", Host: "orders.shop"}, "the status is 404"},
		{"http statuses", web, Health{Check: CheckHTTP, Path: "/", Host: "orders.shop", Statuses: []int{204, 404}}, ""},
		{"http other statuses", web, Health{Check: CheckHTTP, Path: "/healthz?full=1", Host: "orders.shop", Statuses: []int{204}}, "the status is 200"},
		{"http host", web, Health{Check: CheckHTTP, Path: "/healthz?full=1"}, "the status is 400"},
		{"http redirect", web, Health{Check: CheckHTTP, Path: "/moved", Host: "orders.shop"}, "the status is 302"},
		{"http hangs", web, Health{Check: CheckHTTP, Path: "/hangs", Host: "orders.shop", Timeout: 50 * time.Millisecond}, "deadline"},
		{"http nobody", closedPort(t), Health{Check: CheckHTTP}, "refused"},
		{"grpc", rpc, Health{Check: CheckGRPC}, ""},
		{"grpc service", rpc, Health{Check: CheckGRPC, Service: "orders", Host: "orders.shop"}, ""},
		{"grpc sick", rpc, Health{Check: CheckGRPC, Service: "sick"}, "the health status is 2"},
		{"grpc unknown", rpc, Health{Check: CheckGRPC, Service: "other"}, `the gRPC status is "5"`},
		{"grpc at http", web, Health{Check: CheckGRPC}, " "},
		{"tcp", rpc, Health{Check: CheckTCP}, ""},
		{"tcp nobody", closedPort(t), Health{Check: CheckTCP}, "refused"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := tt.health
			if h.Timeout == 0 {
				h.Timeout = 10 * time.Second
			}
			h.Interval = time.Minute
			h = h.withDefaults()
			require.Empty(t, h.validate())
			a := newAsker(&h)
			defer a.close()
			err := a.ask(t.Context(), tt.addr)
			if tt.want == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, tt.want)
			}
		})
	}
}

func TestHealthFaults(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		want   string
		health Health
	}{
		{"Check is required", Health{Path: "/"}},
		{"Check is required", Health{Interval: time.Second}},
		{"Check 9 is unknown", Health{Check: 9}},
		{"Path is for CheckHTTP", Health{Check: CheckTCP, Path: "/"}},
		{"Statuses is for CheckHTTP", Health{Check: CheckGRPC, Statuses: []int{200}}},
		{"Service is for CheckGRPC", Health{Check: CheckHTTP, Service: "s"}},
		{"not for CheckTCP", Health{Check: CheckTCP, Host: "a"}},
		{`Path "x" is not a path`, Health{Check: CheckHTTP, Path: "x"}},
		{`is not a path`, Health{Check: CheckHTTP, Path: "/a b"}},
		{`is not a path`, Health{Check: CheckHTTP, Path: "/a#b"}},
		{`Host "a/b" is not a host`, Health{Check: CheckHTTP, Host: "a/b"}},
		{"Statuses 100", Health{Check: CheckHTTP, Statuses: []int{100}}},
		{"TLS needs a Transport", Health{Check: CheckHTTP, TLS: true}},
		{"Interval", Health{Check: CheckTCP, Interval: 1}},
		{"Timeout", Health{Check: CheckTCP, Timeout: time.Minute}},
		{"Unhealthy", Health{Check: CheckTCP, Unhealthy: -1}},
		{"Healthy", Health{Check: CheckTCP, Healthy: 101}},
		{"Concurrency", Health{Check: CheckTCP, Concurrency: 1_001}},
	} {
		_, err := New(Config{Name: "orders", Resolver: Static("a:1"), Health: tt.health})
		require.ErrorContains(t, err, "pool: Config.Health.")
		assert.ErrorContains(t, err, tt.want)
	}
}

// What passes is a message that says SERVING, and bytes of a hostile server say
// nothing else.
func FuzzHealthAnswer(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 2, 8, 1})
	f.Add([]byte{0, 0, 0, 0, 0})
	f.Add([]byte{0, 0, 0, 0, 6, 0x12, 2, 'h', 'i', 8, 1})
	f.Add([]byte{0, 0, 0, 0, 4, 0x12, 0xff, 8, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		if checkServing(data) == nil {
			require.Greater(t, len(data), grpcHeader)
			require.Contains(t, string(data[grpcHeader:]), "\x08\x01", "or a longer spelling of it")
		}
	})
}

func TestHealthAnswer(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		data string
		want error
	}{
		{"\x00\x00\x00\x00\x02\x08\x01", nil},
		{"\x00\x00\x00\x00\x06\x12\x02hi\x08\x01", nil},
		{"", errAnswer},
		{"\x00\x00\x00\x00", errAnswer},
		{"\x01\x00\x00\x00\x02\x08\x01", errAnswer},         // compressed
		{"\x00\x00\x00\x00\x03\x08\x01", errAnswer},         // cut off
		{"\x00\x00\x00\x00\x02\x08\x01\x00", errAnswer},     // and more
		{"\x00\x00\x00\x00\x02\x08\xff", errAnswer},         // no end
		{"\x00\x00\x00\x00\x04\x12\x7f\x08\x01", errAnswer}, // longer than there is
		{"\x00\x00\x00\x00\x02\x0d\x01", errAnswer},
	} {
		err := checkServing([]byte(tt.data))
		if !errors.Is(err, tt.want) {
			t.Errorf("%q: %v", tt.data, err)
		}
	}
	require.ErrorContains(t, checkServing([]byte{0, 0, 0, 0, 0}), "status is 0")
	require.ErrorContains(t, (&asker{Health: &Health{Check: CheckTCP, Timeout: time.Second}}).ask(context.Background(), "no address"), "missing port")
}
