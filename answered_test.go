package gatemesh_test

import (
	"context"
	"errors"
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

// answerer is a Finisher that wants to know of the answer, too.
type answerer struct {
	name string
	told *[]string
	last *gatemesh.Attempt
}

func (a answerer) Answered(_ *gatemesh.Call, at gatemesh.Attempt) {
	*a.told, *a.last = append(*a.told, a.name+" answered"), at
	if a.name == "panics" {
		panic("x")
	}
}

func (a answerer) Finish(*gatemesh.Call, gatemesh.Outcome) {
	*a.told = append(*a.told, a.name+" finished")
}

// twice retries once.
type twice struct{}

func (twice) Retry(_ context.Context, c *gatemesh.Call, _ gatemesh.Attempt) (time.Duration, bool) {
	return 0, c.Attempt() == 1
}

func TestAnswerer(t *testing.T) {
	t.Parallel()
	var told []string
	var last gatemesh.Attempt
	layer := func(name string) gatemesh.Layer {
		return admits(name, gatemesh.Admission{Finish: answerer{name, &told, &last}})
	}
	observer := &recorder{}
	send := func(base roundTrip, layers ...gatemesh.Layer) {
		told, last = nil, gatemesh.Attempt{}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://callee/", nil)
		require.NoError(t, err)
		resp, err := outbound(observer, layers...).Transport(base).RoundTrip(r)
		if err == nil {
			told = append(told, "read")
			_, err = io.ReadAll(resp.Body)
			require.NoError(t, err)
		}
	}
	base := func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 503, Header: http.Header{"Retry-After": {"7"}}, Body: io.NopCloser(strings.NewReader("x"))}, nil
	}
	send(base, layer("a"), layer("panics"), layer("b"))
	assert.Equal(t, []string{"b answered", "panics answered", "a answered", "read", "b finished", "panics finished", "a finished"}, told)
	assert.Equal(t, 503, last.Status)
	assert.Equal(t, gatemesh.Unavailable, last.Code)
	assert.True(t, last.Reached)
	assert.Equal(t, []string{"7"}, last.Header["Retry-After"])

	// Every attempt is told of its own answer, the call of the one that stands.
	send(base, layer("call"), gatemesh.Layer{Name: "retry", Retry: twice{}}, layer("try"))
	assert.Equal(t, []string{"try answered", "try finished", "try answered", "call answered", "read", "try finished", "call finished"}, told)

	send(func(*http.Request) (*http.Response, error) { return nil, errors.New("lost") }, layer("a"))
	assert.Equal(t, []string{"a finished"}, told)
}

// A callee that was told of the deadline says that it has passed at the moment
// at which our own timer is about to.
func TestExpiredBeforeOurTimer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &diary{}
		ctx := lateContext{t.Context(), time.Now().Add(time.Second)}
		rt := outbound(nil, d.layer("a")).Transport(roundTrip(func(*http.Request) (*http.Response, error) {
			time.Sleep(time.Second)
			return nil, gatemesh.Deny(gatemesh.DeadlineExceeded, "late", "Late.")
		}))
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://callee/", nil)
		require.NoError(t, err)
		_, err = rt.RoundTrip(r)
		require.Error(t, err)
		_, o := d.read()
		assert.True(t, o.Expired)
		assert.Equal(t, gatemesh.DeadlineExceeded, o.Code)
	})
}

// lateContext has a deadline that has no effect yet.
type lateContext struct {
	context.Context
	end time.Time
}

func (c lateContext) Deadline() (time.Time, bool) { return c.end, true }
