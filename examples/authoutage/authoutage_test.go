package main

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// play runs the program with short phases and returns what it printed. Clients
// and gateways are so patient that statuses do not depend on the machine.
func play(t *testing.T, args ...string) (out, svg string, err error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "chart.svg")
	var stdout, stderr bytes.Buffer
	err = run(t.Context(), append([]string{"-once", "-rate", "50", "-phase", "2s", "-patience", "5s", "-svg", file}, args...), &stdout, &stderr)
	assert.Empty(t, stderr.String())
	data, readErr := os.ReadFile(file)
	require.NoError(t, readErr)
	return stdout.String(), string(data), err
}

// The facts hold, and each guard is needed for some of them.
func TestOnce(t *testing.T) {
	t.Run("guarded", func(t *testing.T) {
		t.Parallel()
		out, svg, err := play(t)
		require.NoError(t, err, out)
		assert.NotContains(t, out, "FAIL")
		assert.Contains(t, out, " 0 failed")
		for _, p := range phases {
			assert.Contains(t, out, "\n"+p.name)
			assert.Contains(t, svg, ">"+p.name+"<")
		}
	})
	t.Run("without the cache", func(t *testing.T) {
		t.Parallel()
		out, _, err := play(t, "-break", "cache")
		require.ErrorIs(t, err, errFailed)
		assert.Contains(t, out, "without the cache of verified tokens, the facts must fail:")
		assert.Regexp(t, `(?m)^FAIL +healthy +ours +calls of the auth service `, out)
		assert.Regexp(t, `(?m)^FAIL +outage: silent +ours +answers to known tokens +200 `, out)
	})
	t.Run("without the breaker", func(t *testing.T) {
		t.Parallel()
		out, _, err := play(t, "-break", "breaker")
		require.ErrorIs(t, err, errFailed)
		assert.Contains(t, out, "without the breaker around the auth service, the facts must fail:")
		assert.Regexp(t, `(?m)^FAIL +outage: silent +ours +calls for \d+ unseen tokens in the end `, out)
		assert.Regexp(t, `(?m)^pass +outage: silent +ours +answers to known tokens +200 `, out)
	})
	t.Run("without another replica", func(t *testing.T) {
		t.Parallel()
		out, _, err := play(t, "-break", "retry")
		require.ErrorIs(t, err, errFailed)
		assert.Contains(t, out, "without the question at another replica, the facts must fail:")
		assert.Regexp(t, `(?m)^FAIL +1 of 3 well +ours +answers to unseen tokens +200 .*401`, out)
		assert.Regexp(t, `(?m)^pass +1 of 3 well +ours +answers to known tokens +200 `, out)
	})
}

func TestMistakes(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-break", "z"}, `-break: there is no guard "z"; the guards are cache, breaker and retry`},
		{[]string{"-break", ""}, `-break: there is no guard ""`},
		{[]string{"-rate", "1"}, "-rate 1 is not between 50 and 2000"},
		{[]string{"-phase", "1h"}, "-phase 1h0m0s is not between 1s and 30s"},
		{[]string{"-rate", "1", "-phase", "0s"}, "-rate 1 is not between 50 and 2000\n-phase 0s is not"},
		{[]string{"-patience", "1ms"}, "-patience 1ms is not between 400ms and 10s"},
		{[]string{"once"}, `unexpected argument "once", see -h`},
		{[]string{"-svg", filepath.Join(t.TempDir(), "no", "such", "folder.svg")}, "-svg: "},
	} {
		assert.ErrorContains(t, run(t.Context(), c.args, io.Discard, io.Discard), c.want)
	}
}

// Where the chart goes when nobody says where.
func TestChartFile(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	t.Chdir(t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	assert.ErrorIs(t, run(ctx, []string{"-once"}, io.Discard, io.Discard), context.Canceled)
	assert.NoFileExists(t, "authoutage.svg")
	assert.ErrorIs(t, run(ctx, nil, io.Discard, io.Discard), context.Canceled)
	assert.FileExists(t, "authoutage.svg")
	found, err := filepath.Glob(filepath.Join(tmp, "gatemesh-authoutage-*", "authoutage.svg"))
	require.NoError(t, err)
	assert.Len(t, found, 1)
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	out := &until{text: "healthy  ", then: cancel}
	err := run(ctx, []string{"-once", "-rate", "50", "-svg", filepath.Join(t.TempDir(), "chart.svg")}, out, io.Discard)
	assert.ErrorIs(t, err, context.Canceled)
}

// until calls then when text is written.
type until struct {
	text string
	then func()
}

func (u *until) Write(p []byte) (int, error) {
	if strings.Contains(string(p), u.text) {
		u.then()
	}
	return len(p), nil
}

// The auth service can be slow, silent and down, and tells nobody anything who is
// not its client.
func TestAuthService(t *testing.T) {
	s, err := startAuthService(t.Context(), "gateway")
	require.NoError(t, err)
	defer func() { assert.NoError(t, s.close()) }()
	transport := pooled(1)
	transport.DialContext = s.dial
	defer transport.CloseIdleConnections()
	asking := &naive{url: introspectionURL, id: "gateway", secret: s.secrets["gateway"], client: &http.Client{Transport: transport}, timeout: time.Minute}
	token := s.issue()

	active, err := asking.introspect(t.Context(), token)
	require.NoError(t, err)
	assert.True(t, active)
	active, err = asking.introspect(t.Context(), "made-up")
	require.NoError(t, err)
	assert.False(t, active)

	stranger := *asking
	for _, stranger.secret = range []string{"", "wrong"} {
		_, err = stranger.introspect(t.Context(), token)
		assert.ErrorContains(t, err, "status is 401")
	}
	stranger.id = "nobody"
	_, err = stranger.introspect(t.Context(), token)
	assert.ErrorContains(t, err, "status is 401")

	require.NoError(t, s.be(t.Context(), mode{delay: 30 * time.Millisecond}))
	begin := time.Now()
	_, err = asking.introspect(t.Context(), token)
	require.NoError(t, err)
	assert.GreaterOrEqual(t, time.Since(begin), 30*time.Millisecond)

	require.NoError(t, s.be(t.Context(), mode{silent: true}))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = asking.introspect(ctx, token)
	assert.ErrorIs(t, err, context.DeadlineExceeded)

	addrs := s.addrs()
	require.NoError(t, s.be(t.Context(), mode{down: true}))
	_, err = asking.introspect(t.Context(), token)
	assert.ErrorContains(t, err, "refused")

	require.NoError(t, s.be(t.Context(), mode{}))
	assert.Equal(t, addrs, s.addrs())
	active, err = asking.introspect(t.Context(), token)
	require.NoError(t, err)
	assert.True(t, active)

	s.mu.Lock()
	s.replicas[2].asked["gateway"] = 100
	s.mu.Unlock()
	require.NoError(t, s.lose(t.Context(), "gateway"))
	assert.Nil(t, s.replicas[2].server, "the one that was asked most")
	assert.Equal(t, []time.Duration{lookup, spike}, slices.Sorted(slices.Values([]time.Duration{s.replicas[0].mode.Load().delay, s.replicas[1].mode.Load().delay})))
	require.NoError(t, s.be(t.Context(), mode{}))

	s.mu.Lock()
	s.tokens[token] = time.Now().Unix()
	s.mu.Unlock()
	active, err = asking.introspect(t.Context(), token)
	require.NoError(t, err)
	assert.False(t, active, "expired")
}

// The opponent is fair: it fails closed, and what it is told it believes.
func TestNaive(t *testing.T) {
	answer := `{}`
	auth := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, answer) }))
	defer auth.Close()
	n := &naive{url: auth.URL, client: auth.Client(), timeout: time.Minute}
	h := n.guard(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	get := func(header string) int {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		r.Header.Set("Authorization", header)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code
	}
	good := `{"active":true,"iss":"` + issuer + `","aud":"payments","exp":99999999999}`
	for _, c := range []struct {
		answer, header string
		want           int
	}{
		{good, "Bearer x", 200},
		{good, "", 401},
		{good, "Basic x", 401},
		{`{"active":false}`, "Bearer x", 401},
		{`{"active":true}`, "Bearer x", 401},
		{strings.Replace(good, "payments", "other", 1), "Bearer x", 401},
		{strings.Replace(good, "99999999999", "1", 1), "Bearer x", 401},
		{`{"active":`, "Bearer x", 503},
	} {
		answer = c.answer
		assert.Equal(t, c.want, get(c.header), "%s for %q", c.answer, c.header)
	}
}

// A gateway takes as many requests as it has workers; who waits may leave.
func TestBounded(t *testing.T) {
	inside, release := make(chan struct{}), make(chan struct{})
	h := bounded(1, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		inside <- struct{}{}
		<-release
	}))
	serve := func(ctx context.Context) <-chan int {
		status := make(chan int, 1)
		go func() {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil))
			status <- w.Code
		}()
		return status
	}
	first := serve(t.Context())
	<-inside
	ctx, leave := context.WithCancel(t.Context())
	second := serve(ctx)
	leave()
	assert.Equal(t, 503, <-second)
	third := serve(t.Context())
	release <- struct{}{}
	assert.Equal(t, 200, <-first)
	<-inside
	release <- struct{}{}
	assert.Equal(t, 200, <-third)

	assert.Equal(t, 48, workersFor(300))
	assert.Equal(t, 8, workersFor(50))
}

// The load does not wait for a gateway that stands still, and what clients wait
// for it counts.
func TestLoadIsOpen(t *testing.T) {
	arrived := make(chan struct{}, 1000)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-r.Context().Done()
	}))
	defer srv.Close()
	transport := pooled(10)
	defer transport.CloseIdleConnections()
	c := &crowd{
		gateway: &gateway{addr: srv.Listener.Addr().String()}, rate: 1000, patience: 100 * time.Millisecond, warm: []string{"known"},
		issue: func() string { return "unseen" }, asked: func() int64 { return 7 },
		client: &http.Client{Transport: transport}, begin: time.Now(),
	}
	const requests = 50
	sent := 0
	require.NoError(t, c.play(t.Context(), 3, func(time.Duration) bool { sent++; return sent <= requests }))
	samples := c.since(0)
	require.Len(t, samples, requests)
	sum := summarize(samples, all)
	assert.Equal(t, map[int]int{gaveUp: requests}, sum.answers)
	assert.GreaterOrEqual(t, sum.p50, 100*time.Millisecond)
	assert.Equal(t, requests/unseenEvery, summarize(samples, unseen).n)
	for _, s := range samples {
		assert.Equal(t, 3, s.phase)
		assert.EqualValues(t, 7, s.asked)
	}
}

func TestSummary(t *testing.T) {
	var samples []sample
	for i := range 100 {
		s := sample{took: time.Duration(i+1) * time.Millisecond, status: 200, unseen: i%unseenEvery == 0}
		if i >= 90 {
			s.status, s.service = gaveUp, 2
		}
		samples = append(samples, s)
	}
	sum := summarize(samples, all)
	assert.Equal(t, 50*time.Millisecond, sum.p50)
	assert.Equal(t, 99*time.Millisecond, sum.p99)
	assert.Equal(t, []int{90, 0, 10, 0, 0, 0}, sum.sent)
	assert.Equal(t, []int{0, 0, 10, 0, 0, 0}, sum.gaveUp)
	assert.Equal(t, "200 90.0 %, gave up 10.0 %", sum.share())
	assert.True(t, sum.only(200), "who gave up was not answered")
	assert.False(t, sum.only(401))
	assert.Equal(t, 10, summarize(samples, unseen).n)

	none := summarize(nil, all)
	assert.Zero(t, none.p99)
	assert.False(t, none.only(200), "nobody was answered")

	assert.True(t, sum.asks(90))
	assert.True(t, sum.asks(100))
	assert.False(t, sum.asks(89))
	assert.False(t, sum.asks(101))
}

func TestStreaks(t *testing.T) {
	refusals := make([]sample, 2*streak)
	for i := range refusals {
		refusals[i] = sample{unseen: true, status: 401, askedBefore: 7, asked: int64(7 + i)}
	}
	assert.Nil(t, last(refusals, warm))
	assert.False(t, spared(last(refusals, unseen)), "asked for each")
	assert.False(t, passed(last(refusals, unseen)))
	for i := range refusals {
		refusals[i].askedBefore, refusals[i].asked = 30, 30+streak/2
	}
	assert.True(t, spared(last(refusals, unseen)))
	refusals[2*streak-1].status = 503
	assert.False(t, spared(last(refusals, unseen)))
	assert.False(t, passed(nil))
	assert.False(t, spared(nil))
}

// The chart is XML, and none of it lies outside.
func TestChart(t *testing.T) {
	var samples []sample
	for i := range 1000 {
		s := sample{phase: i / 500, at: time.Duration(i) * 10 * time.Millisecond, took: time.Duration(i*i) * time.Microsecond, status: 200}
		if i%2 == 1 {
			s.status = gaveUp
		}
		samples = append(samples, s)
	}
	points := curve(samples, time.Second)
	require.Len(t, points, 10)
	assert.Equal(t, 495*time.Millisecond, points[0].at)
	assert.InDelta(t, 0.5, points[0].passed, 0.001)
	assert.Len(t, curve(samples, time.Minute), 2, "a point belongs to one phase")

	var svg bytes.Buffer
	require.NoError(t, writeChart(&svg, []span{{"one", 0, 5 * time.Second}, {"two", 5 * time.Second, 10 * time.Second}},
		[]line{{"naive", "the one", points}, {"ours", "the other", points}}, 5*time.Second))
	d, polylines, texts := xml.NewDecoder(&svg), 0, ""
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		switch e := token.(type) {
		case xml.CharData:
			texts += string(e) + "|"
		case xml.StartElement:
			for _, a := range e.Attr {
				if e.Name.Local != "polyline" || a.Name.Local != "points" {
					continue
				}
				polylines++
				xy := strings.Fields(a.Value)
				assert.Len(t, xy, len(points))
				for _, p := range xy {
					var x, y float64
					_, err := fmt.Sscanf(p, "%f,%f", &x, &y)
					require.NoError(t, err)
					assert.True(t, x >= left && x <= right && y >= latencyTop && y <= passedEnd, p)
				}
			}
		}
	}
	assert.Equal(t, 6, polylines)
	for _, want := range []string{"|one|", "|two|", "the one, p50|", "the other, p50|", "seconds since the load began", "|100 ms|", "|10000 ms|", "|50 %|"} {
		assert.Contains(t, texts, want)
	}
}
