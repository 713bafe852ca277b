package gatemesh

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// ResponseWriter is the one response writer that all layers share. It runs
// hooks right before the header is written, counts what was written, and
// passes on everything its underlying writer can do: Flush, Hijack, 1xx,
// trailers, ReadFrom, and through Unwrap all of [http.ResponseController].
//
// Like every http.ResponseWriter it is for one goroutine.
type ResponseWriter struct {
	http.ResponseWriter
	x        *Exchange
	r        *http.Request
	hooks    []func(status int, h http.Header)
	status   int
	bytes    int64
	streams  bool
	failed   bool
	hijacked *hijackedConn
}

// Writer returns the ResponseWriter of the chain that w belongs to, if there
// is one, looking through wrappers that have an Unwrap method.
func Writer(w http.ResponseWriter) (*ResponseWriter, bool) {
	for {
		switch t := w.(type) {
		case *ResponseWriter:
			return t, true
		case interface{ Unwrap() http.ResponseWriter }:
			w = t.Unwrap()
		default:
			return nil, false
		}
	}
}

// Before adds a hook that runs once, right before the final header is written
// and after hooks that were added earlier. It has no effect after that.
func (w *ResponseWriter) Before(hook func(status int, h http.Header)) {
	w.hooks = append(w.hooks, hook)
}

// Status returns the final status, or 0 if none was written.
func (w *ResponseWriter) Status() int { return w.status }

// code returns the code of the response. That of gRPC stands in its trailers.
func (w *ResponseWriter) code() Code {
	h := w.ResponseWriter.Header()
	if w.x.call.protocol != GRPC {
		return CodeOf(w.status)
	}
	if v := h[http.TrailerPrefix+"Grpc-Status"]; len(v) > 0 { // as a proxy writes them
		h = http.Header{"Grpc-Status": v}
	}
	return codeOf(w.status, h)
}

// Bytes returns how many bytes of body were written.
func (w *ResponseWriter) Bytes() int64 { return w.bytes }

// Unwrap returns the underlying writer for [http.ResponseController].
func (w *ResponseWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader passes 1xx on at once and runs the hooks before the final status.
func (w *ResponseWriter) WriteHeader(status int) {
	if status != http.StatusSwitchingProtocols && (status < 200 || status > 999) {
		w.ResponseWriter.WriteHeader(status) // panics if it is none
		return
	}
	w.begin(status)
	w.ResponseWriter.WriteHeader(status)
}

func (w *ResponseWriter) begin(status int) {
	if w.status != 0 {
		return
	}
	w.status = status
	w.x.Responds(status)
	h := w.ResponseWriter.Header()
	for _, hook := range w.hooks {
		hook(status, h)
	}
	w.x.setFields(h)
}

// Write writes a part of the body. On a stream it fails once the consent of a
// gate has ended and cannot be renewed.
func (w *ResponseWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if err := w.renew(); err != nil {
		return 0, err
	}
	n, err := w.ResponseWriter.Write(b)
	w.bytes += int64(n)
	return n, err
}

// ReadFrom lets the underlying writer use sendfile.
func (w *ResponseWriter) ReadFrom(src io.Reader) (int64, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.x.Bounded() { // each part has to be judged
		return io.Copy(struct{ io.Writer }{w}, src)
	}
	n, err := io.Copy(w.ResponseWriter, src)
	w.bytes += n
	return n, err
}

// Flush implements [http.Flusher].
func (w *ResponseWriter) Flush() { _ = w.FlushError() }

// FlushError sends what was written so far. A response that is flushed is a
// stream from then on.
func (w *ResponseWriter) FlushError() error {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	w.streams = true
	if err := w.renew(); err != nil {
		return err
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// renew judges a stream again when a consent has ended.
func (w *ResponseWriter) renew() error {
	if !w.streams || !w.x.Bounded() {
		return nil
	}
	now := time.Now()
	if !w.x.Expired(now) {
		return nil
	}
	if d := w.x.Revalidate(w.r.Context(), now); d != nil {
		w.failed = true
		return d
	}
	return nil
}

// Hijack takes the connection over. The call ends when the returned
// connection is closed; reads and writes on it fail once a consent has ended
// and cannot be renewed.
func (w *ResponseWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	if w.status == 0 {
		w.status = http.StatusSwitchingProtocols
	}
	w.x.Responds(w.status)
	w.hijacked = &hijackedConn{Conn: conn, w: w}
	// What net/http has read ahead must be in the buffer of the new reader too,
	// where websocket packages look for it. Everything later must come through
	// the judged connection.
	buffered, _ := rw.Reader.Peek(rw.Reader.Buffered())
	r := bufio.NewReaderSize(io.MultiReader(bytes.NewReader(bytes.Clone(buffered)), w.hijacked), rw.Reader.Size())
	_, _ = r.Peek(len(buffered))
	brw := bufio.NewReadWriter(r, bufio.NewWriter(w.hijacked))
	if half, ok := conn.(halfCloser); ok {
		return &hijackedHalf{w.hijacked, half}, brw, nil
	}
	return w.hijacked, brw, nil
}

// halfCloser is what TCP and TLS connections can do besides net.Conn. A proxy
// relies on it to end one direction of an upgraded connection.
type halfCloser interface{ CloseWrite() error }

type hijackedHalf struct {
	*hijackedConn
	halfCloser
}

type hijackedConn struct {
	net.Conn
	w    *ResponseWriter
	once sync.Once
}

func (c *hijackedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 { // also with an error: TLS returns the last bytes together with EOF
		if d := c.renew(); d != nil {
			return 0, d
		}
	}
	return n, err
}

func (c *hijackedConn) Write(b []byte) (int, error) {
	if err := c.renew(); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

func (c *hijackedConn) renew() error {
	x := c.w.x
	if !x.Bounded() {
		return nil
	}
	now := time.Now()
	if !x.Expired(now) {
		return nil
	}
	if d := x.Revalidate(c.w.r.Context(), now); d != nil {
		_ = c.Close() // both directions end; the refusal is what matters
		return d
	}
	return nil
}

func (c *hijackedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		w := c.w
		w.x.Finish(Outcome{Code: CodeOf(w.status), Status: w.status})
	})
	return err
}
