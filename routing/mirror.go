package routing

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// What mirrors may cost.
const (
	maxMirrors    = 128      // copies under way
	maxMirrorBody = 64 << 10 // bytes of each
	mirrorTime    = 10 * time.Second
)

// mirror is a compiled Mirror.
type mirror struct {
	destination gatemesh.Destination
	share       float64
	// route is what the copies go by: nobody tries them again.
	route *gatemesh.Route
}

func (f *faults) mirror(at gatemesh.Position, field string, in *Mirror) mirror {
	m := mirror{
		destination: in.Destination, share: 1,
		route: &gatemesh.Route{Name: "mirror", Timeout: mirrorTime, Retry: &gatemesh.RetryPolicy{Attempts: 1}},
	}
	switch {
	case in.Destination.Service == "":
		f.add(at, "%s.Destination.Service is required", field)
	case f.places.find(in.Destination) == nil:
		f.add(at, "%s: no upstream serves %s", field, in.Destination)
	}
	switch {
	case in.Numerator > in.Denominator:
		f.add(at, "%s.Numerator must not be more than Denominator", field)
	case in.Denominator > 0:
		m.share = float64(in.Numerator) / float64(in.Denominator)
	}
	return m
}

// mirrors are the copies of a Router that are under way.
type mirrors struct {
	slots chan struct{}
	stop  context.Context // ends with the Router
	end   context.CancelFunc
	mu    sync.Mutex // no copy begins while close waits
	wg    sync.WaitGroup
	told  atomic.Int64 // when somebody was told last, in seconds
}

func newMirrors() *mirrors {
	m := &mirrors{slots: make(chan struct{}, maxMirrors)}
	m.stop, m.end = context.WithCancel(context.Background())
	return m
}

// close cancels the copies under way and waits for them. A transport that does
// not heed its context is not waited for.
func (m *mirrors) close() {
	m.mu.Lock()
	m.end()
	m.mu.Unlock()
	done := make(chan struct{})
	go func() { m.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(time.Second):
	}
}

// begin takes a slot, or reports false.
func (m *mirrors) begin() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stop.Err() != nil {
		return false
	}
	select {
	case m.slots <- struct{}{}:
		m.wg.Add(1)
		return true
	default:
		return false
	}
}

// tell reports whether to say that there is no slot: once in 10 s, as it is no
// use to fill a log with it.
func (m *mirrors) tell(now time.Time) bool {
	last := m.told.Load()
	return m.stop.Err() == nil && now.Unix()-last >= 10 && m.told.CompareAndSwap(last, now.Unix())
}

func (m *mirrors) done() {
	<-m.slots
	m.wg.Done()
}

// mirror sends copies of out, which is about to be sent for d, to the mirrors
// whose turn it is.
func (d *dispatch) mirror(out *http.Request) {
	r := d.table.router
	for _, f := range d.stages.all[:d.stages.n] {
		for i := range f.mirrors {
			m := &f.mirrors[i]
			switch {
			case out.Header["Upgrade"] != nil, out.ContentLength > maxMirrorBody, !r.chance(m.share):
			case r.mirrors.begin():
				d.copyTo(m, out)
			case r.mirrors.tell(time.Now()):
				r.observe(d, gatemesh.Event{Kind: gatemesh.EventFault, Layer: "mirror", Call: d.call, Message: "there are too many copies under way for another one"})
			}
		}
	}
}

// copyTo has a copy of out sent to m, in a slot of its own: at once, or when the
// body of out has been read.
func (d *dispatch) copyTo(m *mirror, out *http.Request) {
	r := d.table.router
	place := d.table.places.find(m.destination)
	if place == nil { // the call was matched by the table of another Router
		r.mirrors.done()
		return
	}
	to := &dispatch{call: d.call, table: d.table, upstream: place.next(), destination: m.destination, copied: m.route}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(d.Context), mirrorTime)
	stop := context.AfterFunc(r.mirrors.stop, cancel)
	to.Context = ctx
	release := func() {
		stop()
		cancel()
		r.mirrors.done()
	}
	req := out.WithContext(to)
	req.Header = maps.Clone(out.Header)
	delete(req.Header, "Expect")
	u := *out.URL
	req.URL, u.Scheme, u.Host = &u, to.upstream.scheme, to.upstream.host
	if out.Body == nil || out.Body == http.NoBody {
		req.Body = nil
		go func() { defer release(); to.sendCopy(req) }()
		return
	}
	b := &copiedBody{ReadCloser: out.Body, length: out.ContentLength}
	b.ended = func(body []byte, complete bool) {
		if !complete {
			release()
			return
		}
		req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		go func() { defer release(); to.sendCopy(req) }()
	}
	context.AfterFunc(ctx, func() { b.giveOn(false) }) // if the body does not end in time
	out.Body = b
}

var errMirror = errors.New("routing: the transport of a mirror panicked")

// sendCopy sends a copy and throws the answer away.
func (d *dispatch) sendCopy(req *http.Request) {
	defer func() {
		if recover() != nil { // of a foreign transport
			d.table.router.observe(d, gatemesh.Event{Kind: gatemesh.EventFault, Layer: "mirror", Call: d.call, Message: "a mirror was given up", Err: errMirror})
		}
	}()
	resp, err := d.table.outbound.RoundTrip(req)
	if err != nil {
		return // Observers know of it from the outbound call
	}
	_, _ = io.CopyN(io.Discard, resp.Body, maxMirrorBody) // so that the connection can be used again
	_ = resp.Body.Close()
}

// copiedBody copies a body while it is read by somebody else.
type copiedBody struct {
	io.ReadCloser
	length int64 // -1 is not known
	ended  func(body []byte, complete bool)

	mu     sync.Mutex
	copied []byte
	given  bool // up, or on
}

func (b *copiedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if !b.keep(p[:n]) {
		return n, err
	}
	switch {
	case err == io.EOF, err == nil && int64(len(b.copied)) == b.length:
		b.giveOn(true)
	case err != nil:
		b.giveOn(false)
	}
	return n, err
}

// keep adds p to the copy and reports whether there still is one.
func (b *copiedBody) keep(p []byte) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.given {
		return false
	}
	if len(b.copied)+len(p) <= maxMirrorBody {
		b.copied = append(b.copied, p...)
		return true
	}
	b.given, b.copied = true, nil
	b.ended(nil, false)
	return false
}

// giveOn hands the copy on, or gives it up.
func (b *copiedBody) giveOn(complete bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.given {
		b.ended(b.copied, complete)
		b.given, b.copied = true, nil
	}
}

func (b *copiedBody) Close() error {
	b.giveOn(false)
	return b.ReadCloser.Close()
}
