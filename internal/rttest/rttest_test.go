package rttest

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// faults is a T that collects.
type faults []string

func (f *faults) Helper() {}

func (f *faults) Errorf(format string, args ...any) { *f = append(*f, fmt.Sprintf(format, args...)) }

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestCheckFinds(t *testing.T) {
	t.Parallel()
	for want, wrong := range map[string]func(next http.RoundTripper, r *http.Request) (*http.Response, error){
		"": func(next http.RoundTripper, r *http.Request) (*http.Response, error) { return next.RoundTrip(r) },
		"the header was changed": func(next http.RoundTripper, r *http.Request) (*http.Response, error) {
			r.Header.Set("X-C", "c")
			return next.RoundTrip(r)
		},
		"appended to": func(next http.RoundTripper, r *http.Request) (*http.Response, error) {
			r2 := r.WithContext(r.Context())
			r2.Header = http.Header{"X-A": append(r.Header["X-A"], "b")}
			return next.RoundTrip(r2)
		},
		"the URL was changed": func(next http.RoundTripper, r *http.Request) (*http.Response, error) {
			r.URL.Host = "elsewhere"
			return next.RoundTrip(r)
		},
		"the request was changed": func(next http.RoundTripper, r *http.Request) (*http.Response, error) {
			r.Host = "elsewhere"
			return next.RoundTrip(r)
		},
		"the body was not closed": func(http.RoundTripper, *http.Request) (*http.Response, error) { return nil, io.EOF },
		"response <nil> and error <nil>": func(next http.RoundTripper, r *http.Request) (*http.Response, error) {
			_, _ = next.RoundTrip(r)
			return nil, nil
		},
		"there was no error": func(next http.RoundTripper, r *http.Request) (*http.Response, error) {
			resp, err := next.RoundTrip(r)
			if err != nil {
				return &http.Response{Body: io.NopCloser(strings.NewReader("answer")), Request: r}, nil
			}
			return resp, nil
		},
		"an answer from below was not closed": func(next http.RoundTripper, r *http.Request) (*http.Response, error) {
			_, _ = next.RoundTrip(r)
			return nil, io.EOF
		},
	} {
		var found faults
		Check(&found, "http://callee/", func(next http.RoundTripper) http.RoundTripper {
			return roundTripper(func(r *http.Request) (*http.Response, error) { return wrong(next, r) })
		})
		if want == "" {
			assert.Empty(t, found)
		} else {
			assert.Contains(t, strings.Join(found, "\n"), want)
		}
	}
}
