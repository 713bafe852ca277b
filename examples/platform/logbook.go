package main

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"sync"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/trace"
)

// logBook keeps the newest log lines of all services, so that the acts can
// look for what an operator would look for, and passes them on to out.
type logBook struct {
	mu    sync.Mutex
	lines []logLine
	raw   [][]byte // those of the end that nobody has looked for yet
	out   io.Writer
	level slog.LevelVar // Debug shows what each gate admits
}

type logLine map[string]any

const logLines = 4096

// Write takes one JSON line from a slog handler. It is read when somebody looks
// for it: most are forgotten before.
func (b *logBook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.raw) >= logLines {
		b.raw = append(b.raw[:0:0], b.raw[logLines/2:]...)
	}
	b.raw = append(b.raw, bytes.Clone(p))
	_, err := io.Copy(b.out, bytes.NewReader(p))
	return len(p), err
}

// read reads what has been written. The caller holds the lock.
func (b *logBook) read() {
	for _, raw := range b.raw {
		var l logLine
		if json.Unmarshal(raw, &l) == nil { // as slog writes all of them
			b.lines = append(b.lines, l)
		}
	}
	b.raw = nil
	if more := len(b.lines) - logLines; more > 0 {
		b.lines = append(b.lines[:0:0], b.lines[more:]...)
	}
}

// logger returns the logger of one service. Its lines carry the request id and
// the trace of the call they belong to.
func (b *logBook) logger(service string) *slog.Logger {
	h := slog.NewJSONHandler(b, &slog.HandlerOptions{Level: &b.level})
	return slog.New(gatemesh.LogHandler(trace.LogHandler(h))).With("service", service)
}

// find returns the field of the newest line of service with this message and
// request id, or "".
func (b *logBook) find(service, msg, requestID, field string) string {
	l := b.newest(func(l logLine) bool {
		return l["service"] == service && l["msg"] == msg && l["request_id"] == requestID
	})
	s, _ := l[field].(string)
	return s
}

// newest returns the newest line that fits, or nil.
func (b *logBook) newest(fits func(logLine) bool) logLine {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.read()
	for i := len(b.lines) - 1; i >= 0; i-- {
		if fits(b.lines[i]) {
			return b.lines[i]
		}
	}
	return nil
}

// observer returns the observer of one service, which writes to the same book.
func (b *logBook) observer(service string) gatemesh.Observer {
	return gatemesh.SlogObserver(b.logger(service))
}
