package gatemesh_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

// TestTR03_PrintingShowsNoSecret prints everything a handler can get hold of,
// with every verb, as values and as pointers.
func TestTR03_PrintingShowsNoSecret(t *testing.T) {
	t.Parallel()
	user := gatemesh.NewPrincipal(gatemesh.PrincipalInfo{
		Issuer: "https://idp", Subject: "alice", Consumer: "shop", Method: "jwt",
		Claims: map[string]any{"email": "SECRET-claim"}, Credential: "kid-1",
	})
	peer := gatemesh.Must(gatemesh.NewPeer("cluster.local", "/ns/prod/sa/orders", nil))
	call := gatemesh.Must(gatemesh.NewCall(gatemesh.CallInfo{
		Host: "h", Path: "/p", RawQuery: "api_key=SECRET-query", RequestID: "id-1", Principal: user, Peer: peer,
		Header: http.Header{"Authorization": {"SECRET-token"}}, Reserved: map[string]string{gatemesh.IdentityHeader: "SECRET-identity"},
	}))
	slot, _ := call.Reserved(gatemesh.IdentityHeader)
	x, d := chain(gatemesh.EntryConfig{}, admits("auth", gatemesh.Admission{Principal: user})).Start(context.Background(), gatemesh.Inbound{
		Protocol: gatemesh.HTTP, Method: "GET", Authority: "h", Path: "/p", RawQuery: "SECRET-query",
		Header: map[string][]string{"Authorization": {"SECRET-token"}, "X-Gatemesh-Identity": {"SECRET-identity"}},
	})
	require.Nil(t, d)
	_, d = x.Admit(x.Context())
	require.Nil(t, d)
	denial := gatemesh.Deny(gatemesh.Unauthenticated, "no", "No.").WithCause(spy{"SECRET-cause"})

	for _, v := range []any{
		user, *user, peer, *peer, call, *call, call.Header(), slot, &slot, x, x.Context(), x.Call(), *x.Call(),
		context.WithValue(x.Context(), spy{}, 1), denial,
		gatemesh.Event{Call: call, Denial: denial}, gatemesh.Outcome{Denial: denial}, gatemesh.Admission{Principal: user, Peer: peer},
	} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			got := fmt.Sprintf(verb, v)
			assert.NotContains(t, got, "SECRET", "%T %s", v, verb)
			assert.NotContains(t, got, "5345435245", "%T %s", v, verb) // the same in hexadecimal
		}
		if _, isContext := v.(context.Context); !isContext {
			b, err := json.Marshal(v)
			if err == nil && fmt.Sprintf("%T", v) != "gatemesh.Slot" && fmt.Sprintf("%T", v) != "*gatemesh.Slot" {
				assert.NotContains(t, string(b), "SECRET", "%T", v)
			}
		}
	}
	assert.Equal(t, "http GET h/p id=id-1", fmt.Sprint(call))
	assert.Equal(t, `jwt principal iss="https://idp" sub="alice" consumer="shop"`, fmt.Sprint(user))
	assert.Equal(t, "spiffe://cluster.local/ns/prod/sa/orders", fmt.Sprint(peer))
	assert.Equal(t, "<nil>", fmt.Sprint((*gatemesh.Call)(nil)))
	assert.Equal(t, "<nil>", fmt.Sprint((*gatemesh.Principal)(nil)))
	assert.Equal(t, "<nil>", fmt.Sprint((*gatemesh.Peer)(nil)))
}

// logged runs h with an observer that writes JSON, and returns its lines.
func logged(t *testing.T, r *http.Request, h http.HandlerFunc, layers ...gatemesh.Layer) []map[string]any {
	t.Helper()
	var log lines
	c := chain(gatemesh.EntryConfig{Observer: gatemesh.Observers(gatemesh.SlogObserver(slog.New(slog.NewJSONHandler(&log, nil))), &recorder{})}, layers...)
	serveAborting(c.Handler(h), httptest.NewRecorder(), r)
	var all []map[string]any
	for _, l := range log.all() {
		assert.NotContains(t, l, "SECRET")
		assert.Less(t, len(l), 20<<10)
		m := map[string]any{}
		require.NoError(t, json.Unmarshal([]byte(l), &m), l)
		delete(m, "time")
		delete(m, "duration")
		delete(m, "request_id")
		all = append(all, m)
	}
	return all
}

func TestSlogObserver(t *testing.T) {
	t.Parallel()
	user := gatemesh.NewPrincipal(gatemesh.PrincipalInfo{Subject: "alice", Consumer: "shop", Claims: map[string]any{"x": "SECRET"}})
	peer := gatemesh.Must(gatemesh.NewPeer("td", "/a", nil))
	adm := gatemesh.Admission{Principal: user, Peer: peer, Route: &gatemesh.Route{Name: "r"}, Destination: &gatemesh.Destination{Service: "s"}}
	r := request("/a%22b?SECRET", "Authorization", "SECRET", "Cookie", "SECRET")

	assert.Equal(t, []map[string]any{{
		"level": "INFO", "msg": "call", "method": "GET", "host": "api.example.com", "path": "/a%22b", "client": "192.0.2.1", "peer": "spiffe://td/a",
		"subject": "alice", "consumer": "shop", "route": "r", "destination": "s", "code": "ok", "status": 204., "bytes": 0.,
	}}, logged(t, r, noContent, admits("auth", adm)))

	no := gatemesh.Deny(gatemesh.PermissionDenied, "no", "No.").WithCause(errors.New("rule 3"))
	l := logged(t, r, noContent, refuses("policy", no))
	require.Len(t, l, 2)
	assert.Equal(t, map[string]any{
		"level": "WARN", "msg": "denied", "layer": "policy", "method": "GET", "host": "api.example.com", "path": "/a%22b", "client": "192.0.2.1",
		"code": "permission_denied", "status": 403., "reason": "no", "cause": "rule 3",
	}, l[0])
	assert.Equal(t, "call", l[1]["msg"])

	l = logged(t, r, noContent, gate("bad", func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) { panic("boom") }))
	require.Len(t, l, 3)
	assert.Equal(t, "panic", l[0]["msg"])
	assert.Contains(t, l[0]["error"], "boom")
	assert.Contains(t, l[0]["error"], "goroutine ")
	assert.Equal(t, "panic", l[1]["cause"], "the stack is printed once")

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	l = logged(t, r.WithContext(ctx), noContent)
	assert.Equal(t, true, l[0]["canceled"])
}

// TestSlogObserverHostilePath: whatever is in a path, a line stays one line
// and of bounded length.
func TestSlogObserverHostilePath(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/\n{\"level\":\"ERROR\"}", "/a\",\"level\":\"ERROR", "/\x1b[31m", "/" + strings.Repeat("a", 1<<20), "/\u2028", "/" + strings.Repeat("%E2%82%AC", 1<<10)} {
		r := request("/")
		r.URL.Path, r.URL.RawPath = path, ""
		for _, m := range logged(t, r, noContent) {
			assert.NotEqual(t, "ERROR", m["level"])
		}
		r = request("/")
		r.Method, r.Host = path, path
		for _, m := range logged(t, r, noContent) {
			assert.NotEqual(t, "ERROR", m["level"])
			assert.NotContains(t, m["host"], "ERROR")
		}
	}
	l := logged(t, request("/"), noContent, refuses("x", gatemesh.Deny(gatemesh.Internal, "x", "").WithCause(errors.New(strings.Repeat("a", 1<<20)))))
	assert.Len(t, l, 2)
}

func TestSlogObserverOtherEvents(t *testing.T) {
	t.Parallel()
	var log lines
	o := gatemesh.SlogObserver(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn})))
	o.Observe(t.Context(), gatemesh.Event{Kind: gatemesh.EventNotice, Message: "below the level"})
	o.Observe(t.Context(), gatemesh.Event{Kind: gatemesh.EventFault, Layer: "auth", Message: "no keys", Err: errors.New("refused")})
	require.Len(t, log.all(), 1)
	assert.Contains(t, log.all()[0], `level=ERROR msg="no keys" layer=auth error=refused`)

	log = lines{}
	o = gatemesh.SlogObserver(slog.New(slog.NewTextHandler(&log, nil)))
	child := gatemesh.Must(gatemesh.NewCall(gatemesh.CallInfo{Parent: gatemesh.Must(gatemesh.NewCall(gatemesh.CallInfo{}))}))
	o.Observe(t.Context(), gatemesh.Event{Kind: gatemesh.EventFinished, Call: child, Outcome: gatemesh.Outcome{Duration: time.Second}})
	assert.Contains(t, log.all()[0], `msg="outbound call"`)
}

func TestLogHandler(t *testing.T) {
	t.Parallel()
	var log lines
	logger := slog.New(gatemesh.LogHandler(slog.NewJSONHandler(&log, nil)))
	var id string
	entry(gatemesh.EntryConfig{}).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		id = gatemesh.FromContext(r.Context()).RequestID()
		logger.InfoContext(r.Context(), "a")
		logger.With("k", "v").InfoContext(r.Context(), "b")
		logger.WithGroup("g").InfoContext(r.Context(), "c")
		logger.DebugContext(r.Context(), "not enabled")
	})).ServeHTTP(httptest.NewRecorder(), request("/"))
	logger.Info("outside")
	l := log.all()
	require.Len(t, l, 4)
	for _, line := range l[:3] {
		assert.Equal(t, 1, strings.Count(line, `"request_id":"`+id+`"`), line)
	}
	assert.NotContains(t, l[3], "request_id")
}
