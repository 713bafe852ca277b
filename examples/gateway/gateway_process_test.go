package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// logLine is what the test reads of a line of the gateway's log.
type logLine struct {
	Time         time.Time
	Msg          string
	Server, Addr string
}

// sent is a request that a client sent, or could not send.
type sent struct {
	at  time.Time // when its last byte was written, or when the dial for it began
	err error     // why there is no good answer
}

// build builds the gateway as it is shipped.
func build(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "gateway")
	output, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, ".").CombinedOutput()
	require.NoError(t, err, string(output))
	return bin
}

// process is a gateway in a process of its own.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	addrs map[string]string // by server
	last  chan []logLine    // what it logs after it listens
	ended bool
}

// startProcess returns a gateway that listens at two addresses.
func startProcess(t *testing.T, bin string, args ...string) *process {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	p := &process{t: t, cmd: exec.CommandContext(ctx, bin, args...), addrs: map[string]string{}, last: make(chan []logLine, 1)}
	out, err := p.cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	t.Cleanup(func() {
		cancel()
		if !p.ended { // a failed test leaves no process behind
			_ = p.cmd.Wait()
		}
	})
	log := make(chan logLine)
	go func() {
		defer close(log)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var l logLine
			if json.Unmarshal(lines.Bytes(), &l) == nil && l.Msg != "call" {
				log <- l
			}
		}
	}()
	for len(p.addrs) < 2 {
		l, ok := <-log
		require.True(t, ok, "the gateway ended before it listened")
		if l.Msg == "listening" {
			p.addrs[l.Server] = l.Addr
		}
	}
	go func() {
		var all []logLine
		for l := range log {
			all = append(all, l)
		}
		p.last <- all
	}()
	return p
}

// end sends SIGTERM and returns what was logged since it listens.
func (p *process) end() []logLine {
	p.t.Helper()
	require.NoError(p.t, p.cmd.Process.Signal(syscall.SIGTERM))
	lines := <-p.last // to the end of its log, before Wait closes the pipe
	err := p.cmd.Wait()
	p.ended = true
	assert.NoError(p.t, err)
	assert.Equal(p.t, 0, p.cmd.ProcessState.ExitCode())
	return lines
}

// TestDrain sends a real SIGTERM to a real process under load: whatever was
// sent before its listener closed is answered, /readyz says in time that no
// more is wanted, and the process ends by itself with 0.
func TestDrain(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	behind := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body) // a short count is what the client sees
		_, _ = fmt.Fprint(w, n)
	}))
	defer behind.Close()

	p := startProcess(t, build(t), "-listen", "127.0.0.1:0", "-health", "127.0.0.1:0",
		"-upstream", "default="+behind.URL, "-lame-duck", "1s", "-drain", "5s")
	addrs := p.addrs

	const callers, warm = 8, 20
	var load, ready sync.WaitGroup
	requests := make([][]sent, callers)
	ready.Add(callers)
	for i := range callers {
		load.Go(func() {
			var once sync.Once
			defer once.Do(ready.Done) // so that a failure does not hang
			requests[i] = call(addrs["public"], i%2 == 0, i/2%2*1000, func(n int) {
				if n == warm {
					once.Do(ready.Done)
				}
			})
		})
	}
	ready.Wait()
	assert.Equal(t, http.StatusOK, probe(ctx, addrs["health"]))
	var unready time.Time
	load.Go(func() { unready = refuses(ctx, addrs["health"]) })
	lines := p.end()
	load.Wait()

	closing := slices.IndexFunc(lines, func(l logLine) bool { return l.Msg == "closing listeners" })
	require.GreaterOrEqual(t, closing, 0, lines)
	assert.Equal(t, "stopped", lines[len(lines)-1].Msg)
	closed := lines[closing].Time // written before the first one closes
	assert.False(t, unready.IsZero(), "/readyz never said 503")
	assert.True(t, unready.Before(closed), "/readyz said 503 at %v, and the listener closed at %v", unready, closed)
	for i, all := range requests {
		before := 0
		for _, s := range all {
			if s.at.Before(closed) {
				before++
				assert.NoError(t, s.err, "caller %d", i)
			}
		}
		assert.Greater(t, before, warm, "caller %d sent to the lame duck, too", i)
	}
}

// call sends requests with a body of size bytes one after the other, until it
// finds nobody to connect to. It keeps its connection for as long as the
// server lets it, or for one request. It sends each once: net/http would hide
// a lost one by sending it again.
func call(addr string, keep bool, size int, answered func(n int)) (all []sent) {
	request := "GET / HTTP/1.1\r\nHost: test\r\n\r\n"
	if size > 0 {
		request = fmt.Sprintf("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n%s", size, make([]byte, size))
	}
	pace := time.NewTicker(10 * time.Millisecond) // load, and no more than a small machine bears
	defer pace.Stop()
	var conn net.Conn
	var r *bufio.Reader
	for {
		if conn == nil {
			began := time.Now()
			var err error
			if conn, err = net.DialTimeout("tcp", addr, 5*time.Second); err != nil {
				// Refused now: whoever was slow to connect may have begun before.
				return append(all, sent{time.Now(), err})
			}
			r = bufio.NewReader(conn)
			_ = conn.SetDeadline(began.Add(time.Minute)) // a request that is never answered fails
		}
		_, err := io.WriteString(conn, request)
		s := sent{at: time.Now(), err: err}
		closes := true
		if err == nil {
			closes, s.err = answer(r, size)
		}
		all = append(all, s)
		answered(len(all))
		if s.err != nil || closes || !keep {
			_ = conn.Close()
			conn = nil
		}
		<-pace.C
	}
}

// answer reads one answer and reports whether the server closes the connection.
func answer(r *bufio.Reader, size int) (closes bool, err error) {
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return true, err
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close() // it has been read
	if err == nil && (resp.StatusCode != http.StatusOK || string(body) != strconv.Itoa(size)) {
		err = fmt.Errorf("got %d %q", resp.StatusCode, body)
	}
	return resp.Close, err
}

// probe returns what /readyz says, or 0 if nobody answers.
func probe(ctx context.Context, addr string) int {
	tr := &http.Transport{DisableKeepAlives: true}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/readyz", http.NoBody)
	if err != nil {
		return 0
	}
	resp, err := tr.RoundTrip(r)
	if err != nil {
		return 0
	}
	_, err = io.Copy(io.Discard, resp.Body)
	if errors.Join(err, resp.Body.Close()) != nil {
		return 0
	}
	return resp.StatusCode
}

// refuses returns when /readyz first said 503, or the zero time.
func refuses(ctx context.Context, addr string) time.Time {
	pace := time.NewTicker(20 * time.Millisecond)
	defer pace.Stop()
	for {
		switch probe(ctx, addr) {
		case http.StatusServiceUnavailable:
			return time.Now()
		case 0:
			return time.Time{}
		}
		<-pace.C
	}
}
