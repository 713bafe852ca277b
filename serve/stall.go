package serve

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// patience is how long clients may keep handlers waiting; see [Config]. 0 is for
// ever.
type patience struct {
	body, answer time.Duration
	rate         int // bytes of a body in a second
}

func (c Config) patience() patience {
	p := patience{body: time.Minute, answer: time.Minute, rate: 240}
	if c.BodyTimeout > 0 {
		p.body = c.BodyTimeout
	}
	if c.BodyRate > 0 {
		p.rate = c.BodyRate
	}
	if c.AnswerTimeout > 0 {
		p.answer = c.AnswerTimeout
	}
	if c.DisableBodyTimeout {
		p.body = 0
	}
	if c.DisableAnswerTimeout {
		p.answer = 0
	}
	return p
}

// worth returns how much time n bytes are.
func (p patience) worth(n int) time.Duration {
	return time.Duration(min(int64(n)*int64(time.Second)/int64(p.rate), int64(p.body)))
}

// stall ends the wait of a handler for a client that does not go on.
type stall struct {
	patience
	rc *http.ResponseController
	k  *link // of HTTP/1, whose connection has no other request

	mu      sync.Mutex
	left    time.Duration // for the body
	since   time.Time     // when the read under way began
	reading bool
	free    bool // the answer has begun, or all is over: nobody's patience ends
	timer   *time.Timer
	written bool
	writing *time.Timer
	inWrite bool
	rest    bool // of the body is unread
	duplex  bool
}

// watch returns what stands before the handler's w and r, and what must be
// called when it has returned. On HTTP/1, the connection watches over the answer.
func (p patience) watch(w http.ResponseWriter, r *http.Request, k *link) (http.ResponseWriter, *http.Request, func()) {
	http2 := r.ProtoMajor == 2
	body := p.body > 0 && r.Body != nil && r.Body != http.NoBody
	if isGRPC(r) || !body && !(http2 && p.answer > 0) {
		return w, r, func() {}
	}
	s := &stall{patience: p, left: p.body, rest: body, rc: http.NewResponseController(w)}
	if !http2 {
		if s.k = k; k == nil {
			return w, r, func() {}
		}
	}
	switch full := w.(type) {
	case interface {
		writer
		http.Hijacker
		io.ReaderFrom
	}:
		w = stall1{stallWriter{full, s}, full, full}
	case interface {
		writer
		http.Pusher
	}:
		w = stall2{stallWriter{full, s}, full}
	default: // not a writer of net/http that we know: leave it alone
		return w, r, func() {}
	}
	if !body {
		return w, r, s.end
	}
	// By copy: net/http looks at the type of the original.
	own := new(http.Request)
	*own = *r
	own.Body = &watched{r.Body, s}
	return w, own, func() {
		r.MultipartForm = own.MultipartForm // whose files net/http removes
		s.end()
	}
}

// isGRPC reports whether r is a call whose messages may be hours apart.
func isGRPC(r *http.Request) bool {
	return r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc")
}

// watched is a body of a request.
type watched struct {
	io.ReadCloser
	s *stall
}

func (b *watched) Read(p []byte) (int, error) {
	waits := b.s.wait()
	n, err := b.ReadCloser.Read(p)
	if waits {
		b.s.came(n, err)
	}
	return n, err
}

// wait begins a wait for the body, if it has an end.
func (s *stall) wait() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.free {
		return false
	}
	s.since, s.reading = time.Now(), true
	if s.timer == nil {
		s.timer = time.AfterFunc(s.left, s.tooSlow)
	} else {
		s.timer.Reset(s.left)
	}
	return true
}

// came ends a wait.
func (s *stall) came(n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rest = err == nil
	s.reading = false
	s.timer.Stop()
	s.left = max(0, min(s.body, s.left-time.Since(s.since)+s.worth(n)))
}

func (s *stall) tooSlow() {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.reading || s.free || time.Since(s.since) < s.left: // it is about an earlier read
	case s.k != nil:
		s.k.deafen()
	default:
		_ = s.rc.SetReadDeadline(time.Unix(1, 0)) // the stream may have gone
	}
}

// began is called when the answer begins: whoever answers before the body has
// ended holds a conversation, in which there may be pauses.
func (s *stall) began() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free = true
	if s.timer != nil {
		s.timer.Stop()
	}
}

// end is called when the handler has returned.
func (s *stall) end() {
	s.began()
	if s.k == nil && s.written && s.answer > 0 {
		// What net/http has kept back of it may wait for the client, too.
		_ = s.rc.SetWriteDeadline(time.Now().Add(s.answer))
	}
}

// write runs f, which writes. On HTTP/2, a client that grants no window holds up
// one stream, and its connection knows nothing of it. On HTTP/1, net/http may read
// what is left of the body before it begins to write.
func (s *stall) write(f func()) {
	s.began()
	s.written = true
	limit := s.mayTake()
	if limit == 0 {
		f()
		return
	}
	s.inWriting(true)
	if s.writing == nil {
		s.writing = time.AfterFunc(limit, s.stuck)
	} else {
		s.writing.Reset(limit)
	}
	defer func() {
		s.writing.Stop()
		s.inWriting(false)
	}()
	f()
}

// mayTake returns how long a write may take, 0 for ever.
func (s *stall) mayTake() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.k == nil:
		return s.answer
	case s.rest && !s.duplex:
		return s.body
	}
	return 0
}

func (s *stall) inWriting(yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inWrite = yes
}

// stuck ends a write that has taken too long.
func (s *stall) stuck() {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.inWrite:
	case s.k != nil:
		s.k.deafen()
	default:
		_ = s.rc.SetWriteDeadline(time.Unix(1, 0)) // the stream may have gone
	}
}

// stallWriter tells a stall of what the handler writes.
type stallWriter struct {
	writer
	s *stall
}

// Unwrap is for [http.ResponseController].
func (w stallWriter) Unwrap() http.ResponseWriter { return w.writer }

// EnableFullDuplex keeps net/http from reading the body before it answers.
func (w stallWriter) EnableFullDuplex() error {
	w.s.mu.Lock()
	w.s.duplex = true
	w.s.mu.Unlock()
	return w.s.rc.EnableFullDuplex()
}

func (w stallWriter) WriteHeader(status int) {
	if status > 199 { // 101 is followed by Hijack
		w.s.began()
	}
	w.writer.WriteHeader(status)
}

// piece is what a client must at least take in the time for an answer.
const piece = 64 << 10

func (w stallWriter) Write(b []byte) (n int, err error) {
	for {
		var m int
		w.s.write(func() { m, err = w.writer.Write(b[n:min(len(b), n+piece)]) })
		if n += m; err != nil || n == len(b) {
			return n, err
		}
	}
}

func (w stallWriter) WriteString(s string) (n int, err error) {
	if len(s) > piece {
		return w.Write([]byte(s))
	}
	w.s.write(func() { n, err = w.writer.WriteString(s) })
	return n, err
}

func (w stallWriter) Flush() { _ = w.FlushError() } // as that of net/http

func (w stallWriter) FlushError() (err error) {
	w.s.write(func() { err = w.writer.FlushError() })
	return err
}

type stall1 struct {
	stallWriter
	hijacker http.Hijacker
	from     io.ReaderFrom
}

func (w stall1) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.s.began()
	return w.hijacker.Hijack()
}

func (w stall1) ReadFrom(r io.Reader) (n int64, err error) {
	w.s.write(func() { n, err = w.from.ReadFrom(r) })
	return n, err
}

type stall2 struct {
	stallWriter
	http.Pusher
}
