package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The facts hold, and each guard is needed for some of them. The clients are so
// patient that nothing depends on the machine.
func TestOnce(t *testing.T) {
	play := func(t *testing.T, args ...string) (string, error) {
		t.Parallel()
		var stdout, stderr bytes.Buffer
		err := run(t.Context(), append([]string{"-once", "-rate", "25", "-scene", "1s", "-patience", "1m"}, args...), &stdout, &stderr)
		assert.Empty(t, stderr.String())
		return stdout.String(), err
	}
	t.Run("guarded", func(t *testing.T) {
		out, err := play(t, "-within", "1m")
		require.NoError(t, err, out)
		assert.NotContains(t, out, "FAIL ")
		assert.Contains(t, out, "7 passed, 0 failed")
		for _, c := range []string{"pooled", "grpc", "plain", "sidecar"} {
			assert.Regexp(t, `(?m)^`+c+` +\S.* \d+ ms`, strings.ReplaceAll(out, ".", ""))
		}
		assert.NotContains(t, out, "\x1b", "no terminal")
	})
	t.Run("without retries", func(t *testing.T) {
		out, err := play(t, "-break", "retry", "-within", "1m")
		require.ErrorIs(t, err, errFailed)
		assert.Contains(t, out, "without the retries, the facts must fail:")
		assert.Regexp(t, `(?m)^FAIL +pooled +calls that failed +0 +[1-9]`, out)
	})
	t.Run("without lookups", func(t *testing.T) {
		out, err := play(t, "-break", "resolve", "-within", "5s")
		require.ErrorIs(t, err, errFailed)
		assert.Contains(t, out, "without the lookups, the facts must fail:")
		assert.Regexp(t, `(?m)^FAIL +pooled +new pods that answered within 5s +2 +0`, out)
		assert.Regexp(t, `(?m)^FAIL +grpc +new pods that answered within 5s +2 +0`, out)
	})
}

func TestMistakes(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-break", "z"}, `-break: there is no guard "z"; the guards are retry and resolve`},
		{[]string{"-break", ""}, `-break: there is no guard ""`},
		{[]string{"-rate", "1", "-scene", "1h"}, "-rate 1 is not between 20 and 1000\n-scene 1h0m0s is not between 1s and 20s"},
		{[]string{"-within", "1ms", "-patience", "1h"}, "-within 1ms is not between 1s and 1m0s\n-patience 1h0m0s is not between 1s and 1m0s"},
		{[]string{"once"}, `unexpected argument "once", see -h`},
	} {
		assert.ErrorContains(t, run(t.Context(), c.args, io.Discard, io.Discard), c.want)
	}
}

// Without -once it goes on until somebody ends it.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{"-rate", "20", "-scene", "1s"}, w, io.Discard)
		_ = w.Close()
	}()
	_, err := r.Read(make([]byte, 1))
	require.NoError(t, err)
	cancel()
	go func() { _, _ = io.Copy(io.Discard, r) }()
	assert.ErrorIs(t, <-ended, context.Canceled)
}

// The load does not wait for answers, unless there are too many to come, and
// what a call waits to be sent counts.
func TestLoadIsOpen(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	begun, release := make(chan struct{}, 1000), make(chan struct{})
	c := newCrowd(&client{call: func(context.Context) (string, error) {
		begun <- struct{}{}
		<-release
		return "a", nil
	}})
	done := make(chan struct{})
	begin := time.Now()
	go func() { c.run(ctx, 1000); close(done) }()
	for range inFlight {
		<-begun
	}
	time.Sleep(100 * time.Millisecond) // in which 100 more are due
	assert.Empty(t, begun)
	for range 50 {
		release <- struct{}{}
		<-begun
	}
	cancel()
	close(release)
	<-done
	sum := c.summary()
	assert.GreaterOrEqual(t, sum.calls, 50+inFlight)
	assert.LessOrEqual(t, sum.p99, time.Since(begin))
	assert.GreaterOrEqual(t, sum.p50, 50*time.Millisecond, "they have waited to be sent")
}

func TestCrowd(t *testing.T) {
	c := newCrowd(&client{})
	for i := range 3 * window {
		c.note([]string{"a", "b", "b", "c"}[i%4], time.Duration(i+1)*time.Millisecond, nil)
	}
	c.note("", time.Hour, errors.New("broke"))
	assert.Equal(t, map[string]float64{"a": 0.25, "b": 0.5, "c": 0.25}, c.shares())
	assert.Equal(t, "a 25 %, b 50 %, c 25 %", portions(c.shares()))
	sum := c.summary()
	assert.Equal(t, 3*window+1, sum.calls)
	assert.Len(t, sum.failed, 1)
	assert.Equal(t, 300*time.Millisecond, sum.p50)
	assert.Equal(t, 594*time.Millisecond, sum.p99)
	assert.Equal(t, 2, c.await(t.Context(), []*pod{{name: "a"}, {name: "c"}}))
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	assert.Equal(t, 1, c.await(ended, []*pod{{name: "a"}, {name: "x"}}))
	for range window {
		c.note("x", 0, nil)
	}
	assert.Equal(t, map[string]float64{"x": 1}, c.shares(), "those of long ago do not count")
	c.forget()
	assert.Empty(t, c.shares())
	assert.Zero(t, newCrowd(&client{}).summary().p99)
}

// On a terminal, a picture is drawn over the one before; a file gets lines.
func TestView(t *testing.T) {
	s := &story{cluster: &cluster{all: []*pod{{name: "pod-1"}, {name: "pod-2"}}}, at: scenes[0], crowds: []*crowd{newCrowd(&client{name: "pooled"})}}
	s.crowds[0].note("pod-1", 0, nil)
	var b bytes.Buffer
	v := newView(&b)
	require.False(t, v.tty)
	v.show(s)
	assert.Contains(t, b.String(), "two pods")
	assert.Contains(t, b.String(), "pooled: pod-1 100 %\n")
	b.Reset()
	v.tty = true
	v.show(s)
	first := b.String()
	assert.Contains(t, first, "100 %  "+strings.Repeat("█", 50))
	assert.Contains(t, first, "  0 %  \x1b[K")
	b.Reset()
	v.show(s)
	up := fmt.Sprintf("\x1b[%dA", strings.Count(first, "\n"))
	assert.True(t, strings.HasPrefix(b.String(), up), "%q", b.String())

	f, err := os.Create(t.TempDir() + "/file")
	require.NoError(t, err)
	defer f.Close()
	assert.False(t, newView(f).tty)
}

// Ports that others hold are passed over.
func TestAddressesInUse(t *testing.T) {
	c, err := newCluster()
	require.NoError(t, err)
	defer func() { assert.NoError(t, c.close()) }()
	first, err := c.scale(1)
	require.NoError(t, err)
	next := first[0].ip.Next()
	taken, err := net.Listen("tcp", net.JoinHostPort(next.String(), fmt.Sprint(c.rpc)))
	require.NoError(t, err)
	defer taken.Close()
	second, err := c.scale(1)
	require.NoError(t, err)
	assert.Equal(t, next.Next(), second[0].ip)
}
