package chirouter

import (
	"compress/gzip"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth"
	"github.com/gatemesh-go/gatemesh/examples/wrap/internal/harness"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start serves one form of the service.
func start(t *testing.T, form func(*service) http.Handler) (url string, log *harness.Log) {
	t.Helper()
	log = &harness.Log{}
	srv := httptest.NewUnstartedServer(form(&service{log: slog.New(gatemesh.LogHandler(slog.NewJSONHandler(log, nil)))}))
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.Start()
	t.Cleanup(srv.Close)
	return srv.URL, log
}

// last returns the last line.
func last(t *testing.T, log *harness.Log) map[string]any {
	t.Helper()
	all := log.Lines(t)
	require.NotEmpty(t, all)
	return all[len(all)-1]
}

func TestSame(t *testing.T) {
	f := harness.Enter(t)
	before, _ := start(t, (*service).Before)
	after, log := start(t, (*service).After)
	group, groupLog := start(t, (*service).AfterGroup)
	for _, tt := range []struct{ path, want, route string }{
		{"/hello", "hello", "/hello"},
		{"/articles/a%20b", "article a b of /articles/{id} by a b", "/articles/{id}"},
		{"/articles/slow", "504", "/articles/slow"},     // chi's Timeout
		{"/articles/broken", "500", "/articles/broken"}, // chi's Recoverer
		{"/nothing", "404 page not found", ""},
	} {
		t.Run(tt.path, func(t *testing.T) {
			was := harness.Do(t, "GET", before+tt.path)
			for url, log := range map[string]*harness.Log{after: log, group: groupLog} {
				is := harness.Do(t, "GET", url+tt.path, "X-Api-Key", f.Key)
				assert.Equal(t, was.String(), is.String())
				assert.Contains(t, is.String(), tt.want)
				line := last(t, log)
				assert.Equal(t, tt.route, line["route"])
				assert.Equal(t, is.Header.Get(gatemesh.RequestIDHeader), line["request_id"])
			}
		})
	}
	was := harness.Do(t, "POST", before+"/articles/1")
	for _, url := range []string{after, group} {
		is := harness.Do(t, "POST", url+"/articles/1", "X-Api-Key", f.Key)
		assert.Equal(t, was.String(), is.String())
		assert.Equal(t, http.StatusMethodNotAllowed, is.Status)

		a := harness.Do(t, "GET", url+"/articles/1", "X-Api-Key", f.Key, "Accept-Encoding", "gzip")
		assert.Equal(t, "gzip", a.Header.Get("Content-Encoding"))
		z, err := gzip.NewReader(strings.NewReader(a.Body))
		require.NoError(t, err)
		text, err := io.ReadAll(z)
		require.NoError(t, err)
		assert.Contains(t, string(text), "article 1 of")
	}
}

func TestAdded(t *testing.T) {
	f := harness.Enter(t)
	for name, tt := range map[string]struct {
		form  func(*service) http.Handler
		hello int // without a key
		wrong int // a path that nobody serves, without a key
	}{
		"around": {(*service).After, http.StatusUnauthorized, http.StatusUnauthorized},
		"group":  {(*service).AfterGroup, http.StatusOK, http.StatusNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			url, log := start(t, tt.form)
			assert.Equal(t, tt.hello, harness.Do(t, "GET", url+"/hello").Status)
			assert.Equal(t, tt.wrong, harness.Do(t, "GET", url+"/nothing").Status)
			a := harness.Do(t, "GET", url+"/articles/1", "Accept-Encoding", "gzip")
			assert.Equal(t, http.StatusUnauthorized, a.Status)
			assert.Empty(t, a.Header.Get("Content-Encoding"))
			assert.Contains(t, a.Body, a.Header.Get(gatemesh.RequestIDHeader))
			if name == "group" { // the service's own log sees refusals behind it
				assert.InEpsilon(t, 401, last(t, log)["status"], 0)
			}
			assert.Equal(t, http.StatusBadRequest, harness.Do(t, "GET", url+"/articles//1", "X-Api-Key", f.Key).Status)
			for range 20 {
				require.Equal(t, 200, harness.Do(t, "GET", url+"/articles/1", "X-Api-Key", f.Key).Status)
			}
			assert.Equal(t, http.StatusTooManyRequests, harness.Do(t, "GET", url+"/articles/1", "X-Api-Key", f.Key).Status)
		})
	}
}

// TestOneRequestID: chi's RequestID finds the id of Entry, which callers that
// are not trusted do not choose.
func TestOneRequestID(t *testing.T) {
	f := harness.Enter(t)
	url, log := start(t, (*service).After)
	a := harness.Do(t, "GET", url+"/articles/1", "X-Api-Key", f.Key, gatemesh.RequestIDHeader, "theirs")
	line := last(t, log)
	assert.NotEqual(t, "theirs", line["request_id"])
	assert.Equal(t, a.Header.Get(gatemesh.RequestIDHeader), line["request_id"])
	assert.Equal(t, line["request_id"], line["id"])
}

// TestCanonicalParam: chi routes by the raw path, if there is one. Behind
// Entry, one resource has one spelling.
func TestCanonicalParam(t *testing.T) {
	f := harness.Enter(t)
	before, _ := start(t, (*service).Before)
	assert.Contains(t, harness.Do(t, "GET", before+"/articles/a%2Eb").Body, "article a%2Eb of")
	for _, form := range []func(*service) http.Handler{(*service).After, (*service).AfterGroup} {
		url, _ := start(t, form)
		assert.Contains(t, harness.Do(t, "GET", url+"/articles/a%2Eb", "X-Api-Key", f.Key).Body, "article a.b of")
	}
}

// TestMisplaced: what happens to those who put the pieces elsewhere.
func TestMisplaced(t *testing.T) {
	f := harness.Enter(t)
	who := gatemesh.Must(auth.New(auth.Config{APIKeys: gatemesh.Must(auth.LoadKeyFile("keys.txt"))}))
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))

	// A gate without Entry in front of it fails closed.
	url, _ := start(t, func(s *service) http.Handler {
		r := chi.NewRouter()
		r.With(who.Handler, entry.Handler).Get("/hello", s.hello)
		return r
	})
	a := harness.Do(t, "GET", url+"/hello", "X-Api-Key", f.Key)
	assert.Equal(t, http.StatusInternalServerError, a.Status)
	assert.Contains(t, a.Body, "no_call")

	// With chi's Timeout around Entry, it is Entry that answers 504.
	url, _ = start(t, func(s *service) http.Handler {
		r := chi.NewRouter()
		r.Use(middleware.Timeout(timeout), entry.Handler, who.Handler)
		r.Get("/slow", s.slow)
		return r
	})
	a = harness.Do(t, "GET", url+"/slow", "X-Api-Key", f.Key)
	assert.Equal(t, http.StatusGatewayTimeout, a.Status)
	assert.Contains(t, a.Body, "deadline_exceeded")

	// Compress around everything compresses answers, and refusals stay plain.
	url, _ = start(t, func(s *service) http.Handler {
		r := chi.NewRouter()
		r.Use(middleware.Compress(5), entry.Handler, who.Handler)
		r.Get("/articles/{id}", s.article)
		return r
	})
	a = harness.Do(t, "GET", url+"/articles/1", "X-Api-Key", f.Key, "Accept-Encoding", "gzip")
	assert.Equal(t, "gzip", a.Header.Get("Content-Encoding"))
	assert.Len(t, a.Header.Values(gatemesh.RequestIDHeader), 1)
	a = harness.Do(t, "GET", url+"/articles/1", "Accept-Encoding", "gzip")
	assert.Equal(t, http.StatusUnauthorized, a.Status)
	assert.Contains(t, a.Body, "requestId")

	// Recoverer around Entry has nothing to do: Entry has answered the panic.
	url, _ = start(t, func(s *service) http.Handler {
		r := chi.NewRouter()
		r.Use(middleware.Recoverer, entry.Handler)
		r.Get("/broken", s.broken)
		return r
	})
	a = harness.Do(t, "GET", url+"/broken")
	assert.Equal(t, http.StatusInternalServerError, a.Status)
	assert.Equal(t, "application/problem+json", a.Header.Get("Content-Type"))
}

// TestRealIP: behind Entry, chi's RealIP believes nobody whom Entry does not.
func TestRealIP(t *testing.T) {
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.RemoteAddr) })
	for name, h := range map[string]http.Handler{
		//lint:ignore SA1019 deprecated, and in use
		"203.0.113.9": middleware.RealIP(echo),
		//lint:ignore SA1019 the same
		"127.0.0.1": entry.Handler(middleware.RealIP(echo)),
	} {
		url, _ := start(t, func(*service) http.Handler { return h })
		for _, field := range []string{"X-Forwarded-For", "X-Real-Ip", "True-Client-Ip"} {
			assert.Contains(t, harness.Do(t, "GET", url, field, "203.0.113.9").Body, name)
		}
	}
}
