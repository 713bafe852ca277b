package policy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

// A stream does not outlive the policy that let it in (invariant 2 of the
// threat table).
func TestStreamIsJudgedAgain(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Config){
		"ALLOW taken away": func(c *Config) { c.Policies = nil },
		"DENY added": func(c *Config) {
			c.Policies = append(c.Policies, policyOf("deny", ActionDeny, to(Operation{Paths: []string{"/s*"}})))
		},
		"hook refuses": func(c *Config) {
			p := policyOf("ask", ActionCustom, Rule{})
			p.Provider = "hook"
			c.Policies = append(c.Policies, p)
			c.Hooks = map[string]Hook{"hook": func(context.Context, *gatemesh.Call) error { return errors.New("no") }}
		},
		"still allowed": nil,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				cfg := config(policyOf("allow", ActionAllow, to(Operation{Paths: []string{"/stream"}})))
				cfg.Recheck = 10 * time.Second
				e := engine(t, cfg)
				entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
				chain := gatemesh.Must(gatemesh.NewChain(entry, e.Layer()))
				r, w := io.Pipe()
				var seen error
				done := make(chan struct{})
				handler := chain.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					_, seen = io.Copy(io.Discard, r.Body)
				}))
				go func() {
					defer close(done)
					handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/stream", r))
				}()
				_, err := io.WriteString(w, "a")
				require.NoError(t, err)
				if change != nil {
					change(&cfg)
					require.NoError(t, e.Update(cfg))
				}
				time.Sleep(9 * time.Second)
				_, err = io.WriteString(w, "b")
				require.NoError(t, err, "the consent holds for 10 s")
				time.Sleep(2 * time.Second)
				go func() {
					_, _ = io.WriteString(w, "c")
					_ = w.Close()
				}()
				<-done
				_ = r.Close()
				assert.Equal(t, change == nil, seen == nil, "%v", seen)
			})
		})
	}
}

func TestRevalidate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cfg := config(policyOf("allow", ActionAllow, to(Operation{Paths: []string{"/a"}})))
		cfg.Exempt = []string{"/health"}
		e := engine(t, cfg)
		for path, want := range map[string]bool{"/a": true, "/b": false, "/health": true} {
			until, err := e.Revalidate(t.Context(), call(t, gatemesh.CallInfo{Path: path}))
			assert.Equal(t, want, err == nil, path)
			if want {
				assert.Equal(t, time.Now().Add(time.Minute), until, path)
			} else {
				assert.True(t, until.IsZero())
				assert.Contains(t, err.(*gatemesh.Denial).Cause().Error(), "path")
			}
		}
		_, err := (&Engine{}).Revalidate(t.Context(), call(t, gatemesh.CallInfo{}))
		assert.Error(t, err)
		_, err = e.Revalidate(t.Context(), nil)
		assert.Error(t, err)
		cfg.Recheck = -1
		_, err = New(cfg)
		require.Error(t, err)
		assert.True(t, strings.Contains(err.Error(), "Config.Recheck: must not be negative"), err)
	})
}
