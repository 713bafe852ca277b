package manifest_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// serve has h answer a GET of path.
func serve(t testing.TB, h http.Handler, path string, header http.Header) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, path, http.NoBody)
	for name, values := range header {
		r.Header[name] = values
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}
