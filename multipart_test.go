package gatemesh_test

import (
	"bytes"
	"context"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

// TestLC01_FilesOfForms: what a handler has net/http put into files is removed
// when it has returned, though it has a copy of the request.
func TestLC01_FilesOfForms(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	type key struct{}
	replaces := gatemesh.Layer{Name: "replaces", Gate: gatemesh.GateFunc(func(ctx context.Context, _ *gatemesh.Call) (gatemesh.Admission, error) {
		return gatemesh.Admission{Context: context.WithValue(ctx, key{}, 1)}, nil
	})}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		assert.NotNil(t, r.Context().Value(key{}))
		if assert.NoError(t, r.ParseMultipartForm(1)) {
			files, err := os.ReadDir(dir)
			assert.NoError(t, err)
			assert.NotEmpty(t, files)
		}
		if r.URL.Path == "/panics" {
			panic("of the handler")
		}
	})
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	for name, h := range map[string]http.Handler{
		"chain": gatemesh.Must(gatemesh.NewChain(entry, replaces)).Handler(handler),
		"alone": entry.Handler(gatemesh.GateHandler(replaces, nil)(handler)),
	} {
		for _, path := range []string{"/", "/panics"} {
			var form bytes.Buffer
			w := multipart.NewWriter(&form)
			part, err := w.CreateFormFile("f", "f")
			require.NoError(t, err)
			_, err = part.Write(make([]byte, 100<<10))
			require.NoError(t, err)
			require.NoError(t, w.Close())
			s := httptest.NewServer(h)
			req, err := http.NewRequestWithContext(t.Context(), "POST", s.URL+path, &form)
			require.NoError(t, err)
			req.Header.Set("Content-Type", w.FormDataContentType())
			resp, err := s.Client().Do(req)
			require.NoError(t, err)
			_ = resp.Body.Close()
			assert.Eventually(t, func() bool {
				files, err := os.ReadDir(dir)
				return err == nil && len(files) == 0
			}, 20*time.Second, time.Millisecond, "%s %s", name, path)
			s.Close()
		}
	}
}
