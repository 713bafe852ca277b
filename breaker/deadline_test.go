package breaker

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

func TestDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, err := NewDeadline(DeadlineConfig{Timeout: time.Second})
		require.NoError(t, err)
		var ends time.Time
		var inner context.Context
		u := newUpstream(func(r *http.Request) (*http.Response, error) {
			inner = r.Context()
			ends = gatemesh.FromContext(inner).Deadline()
			return blackHole(r)
		})
		rt := outbound(t, d.Layer(), newRetry(t).Layer()).Transport(u)
		began := time.Now()
		_, err = send(t, rt, request(t.Context(), "a"))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, time.Second, time.Since(began))
		assert.Equal(t, began.Add(time.Second), ends)
		assert.EqualValues(t, 1, u.attempts.Load(), "nothing is left for a retry")

		// All attempts share it.
		u.set(status(503, "Retry-After", "1"))
		began = time.Now()
		code, err := send(t, rt, request(t.Context(), "a"))
		require.NoError(t, err)
		assert.Equal(t, 503, code)
		assert.Zero(t, time.Since(began))

		// The caller's stands if it is earlier.
		short, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		u.set(blackHole)
		began = time.Now()
		_, err = send(t, rt, request(short, "a"))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, 500*time.Millisecond, time.Since(began))
		long, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		require.NoError(t, d.Update(DeadlineConfig{Timeout: 2 * time.Second}))
		began = time.Now()
		_, err = send(t, rt, request(long, "a"))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, 2*time.Second, time.Since(began))

		// The body has it, too, and a call that ends gives its timer back.
		u.set(func(r *http.Request) (*http.Response, error) {
			inner = r.Context()
			resp, _ := status(200)(r)
			resp.Body = io.NopCloser(io.MultiReader(strings.NewReader("x"), readerFunc(func([]byte) (int, error) {
				<-r.Context().Done()
				return 0, r.Context().Err()
			})))
			return resp, nil
		})
		began = time.Now()
		_, err = send(t, rt, request(t.Context(), "a"))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, 2*time.Second, time.Since(began))
		u.set(func(r *http.Request) (*http.Response, error) { inner = r.Context(); return status(200)(r) })
		resp, err := rt.RoundTrip(request(t.Context(), "a"))
		require.NoError(t, err)
		require.NoError(t, inner.Err(), "not before the body has ended")
		require.NoError(t, resp.Body.Close())
		assert.ErrorIs(t, inner.Err(), context.Canceled)
	})
}

// An earlier deadline costs nothing.
func TestDeadlineAllocates(t *testing.T) {
	d, err := NewDeadline(DeadlineConfig{Timeout: time.Hour})
	require.NoError(t, err)
	c, err := gatemesh.NewCall(gatemesh.CallInfo{Host: "a"})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		adm, err := d.Admit(ctx, c)
		if err != nil || adm.Context != nil || adm.Finish != nil {
			t.Error("a new context")
		}
	}))
}
