package gatemesh

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"
)

const (
	// HopHeader carries what a caller in the mesh says about its call; see [Hop].
	HopHeader = "X-Gatemesh-Hop"
	// RetryHeader is a response field. Its value "no" asks callers not to try
	// the call again, as who is overloaded does. A [Retrier] heeds it.
	RetryHeader = "X-Gatemesh-Retry"
)

// A Hop is what the caller of a service says about a call. It travels in the
// field X-Gatemesh-Hop, a dictionary of RFC 9651 such as
//
//	timeout=250, attempt=2, retries=1
//
// and for gRPC in grpc-timeout, as far as that goes. [Outbound] writes it, for
// each attempt anew. [Entry] believes it of verified peers and takes it off
// every request: what a client from outside writes has no effect, also if it
// comes through a proxy of [EntryConfig.TrustedProxies], as proxies pass on
// fields that they do not know. A peer can with it shorten its own call, have it
// not be retried behind us, and have it given up before others of its kind, and
// nothing else.
//
// # Who retries
//
// Of the services on the way of a call, one makes the attempts: the first that
// has a [LayeredRetrier] for it. It says so with "retries", and with the number
// how many further attempts it can still make after this one: by the attempts
// that it makes at most, and by what its budget has left. Those below make none
// of their own, also if the number is 0: then attempts are made above, and this
// is the last. They send on what they were told, so that the whole tree of calls
// that is made for an attempt knows of which it is, and how many can follow. A
// service that retries nevertheless makes no more attempts than its caller has
// left, and says what is left of the smaller of the two: going down, the number
// never rises. Without "retries", nobody above is known to retry, and the next
// may.
//
// The zero Hop says nothing.
type Hop struct {
	// Timeout is what was left of the caller's deadline when it sent the call,
	// so that clocks need not agree. Rounded to milliseconds, up to 24 hours.
	// Of gRPC calls, grpc-timeout says it. 0 is not said.
	Timeout time.Duration
	// Attempt is 2 for what is called for the first retry of the one above that
	// retries. 0 and 1 are the first try. Up to 1,000.
	Attempt int
	// Retries says that the caller, or somebody above it, makes the attempts of
	// the call.
	Retries bool
	// Left is how many further attempts that one can make if this one fails, as
	// far as it knows: others can use up its budget in the meantime. 0 to 1,000.
	// It has a meaning only with Retries.
	Left int
}

// Retried reports whether somebody above makes the attempts of the call. To
// retry what is called for it would multiply them.
func (h Hop) Retried() bool { return h.Attempt > 1 || h.Retries }

const (
	maxHop        = 128 // bytes that are read of the field
	maxHopTimeout = 24 * time.Hour
	maxHopAttempt = 1000
)

var errHop = errors.New("gatemesh: the field " + HopHeader + " is malformed")

// ParseHop reads a value of the field X-Gatemesh-Hop. It ignores members that it
// does not know, so that services of several versions can talk to one another,
// and refuses what is malformed or beyond its bounds.
func ParseHop(s string) (h Hop, err error) {
	if len(s) > maxHop {
		return Hop{}, errHop
	}
	seen := 0
	for member := range strings.SplitSeq(s, ",") {
		name, value, valued := strings.Cut(strings.Trim(member, " \t"), "=")
		known, ok := 0, false
		switch name {
		case "timeout":
			var n int
			n, ok = hopNumber(value, 1, int(maxHopTimeout/time.Millisecond))
			known, h.Timeout = 1, time.Duration(n)*time.Millisecond
		case "attempt":
			h.Attempt, ok = hopNumber(value, 1, maxHopAttempt)
			known = 2
		case "retries":
			h.Left, ok = hopNumber(value, 0, maxHopAttempt)
			known, h.Retries = 4, true
		default:
			ok = hopName(name) && (!valued || hopName(value) || isDigits(value))
		}
		if !ok || seen&known != 0 {
			return Hop{}, errHop
		}
		seen |= known
	}
	return h, nil
}

func hopNumber(s string, least, most int) (int, bool) {
	if !isDigits(s) {
		return 0, false
	}
	n, err := strconv.Atoi(s)
	return n, err == nil && least <= n && n <= most
}

func isDigits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

func hopName(s string) bool {
	return s != "" && 'a' <= s[0] && s[0] <= 'z' && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789_-.*") == ""
}

// String returns h as the field's value, "" for the zero Hop.
func (h Hop) String() string {
	var buf [48]byte
	b := buf[:0]
	sep := func() {
		if len(b) > 0 {
			b = append(b, ", "...)
		}
	}
	if h.Timeout > 0 {
		b = append(b, "timeout="...)
		b = strconv.AppendInt(b, max(1, int64(min(h.Timeout, maxHopTimeout)/time.Millisecond)), 10)
	}
	if h.Attempt > 1 {
		sep()
		b = append(b, "attempt="...)
		b = strconv.AppendInt(b, int64(min(h.Attempt, maxHopAttempt)), 10)
	}
	if h.Retries {
		sep()
		b = append(b, "retries="...)
		b = strconv.AppendInt(b, int64(min(max(0, h.Left), maxHopAttempt)), 10)
	}
	return string(b)
}

// A LayeredRetrier tells those behind an outbound call who makes its attempts.
type LayeredRetrier interface {
	Retrier
	// Retries is asked when an attempt of c is sent. It reports whether it is for
	// this Retrier to try c again if that fails, and how many further attempts
	// could follow, by what is known now; see [Hop]. A panic counts as false.
	Retries(ctx context.Context, c *Call) (left int, ours bool)
}

// Hop returns what a verified peer says about the call. It is zero for outbound
// calls; see [Call.Parent].
func (c *Call) Hop() Hop { return c.hop }

// CallerDeadline returns when the caller of a received call gives it up: by its
// [Hop], or by grpc-timeout. It is zero if it has not said so. It holds once a
// gate has put it into the context, as that of breaker.Deadline does.
func (c *Call) CallerDeadline() time.Time { return c.asked }

// hearHop reads what the caller says about the call. Only a verified peer sends
// values; one that is malformed is a fault of a service of ours.
func (s *entryState) hearHop(ctx context.Context, c *Call, in *Inbound, sent *Slot) {
	c.asked = c.deadline
	if sent.Count > 0 {
		h, err := ParseHop(sent.Value) // which is empty if there are several
		if err == nil {
			c.hop = h
			c.gaveUpIn(h.Timeout)
		} else {
			observe(ctx, s.Observer, Event{Kind: EventFault, Layer: "entry", Call: c, Message: "what a peer says about its call is ignored", Err: err})
		}
	}
	if in.Protocol == GRPC && !in.LowerCase { // else grpc-go has read it
		if v, ok := c.header.Only("Grpc-Timeout"); ok {
			if d, ok := parseGRPCTimeout(v); ok {
				c.gaveUpIn(d)
			}
		}
	}
}

func (c *Call) gaveUpIn(d time.Duration) {
	if d <= 0 {
		return
	}
	if end := c.received.Add(d); c.asked.IsZero() || end.Before(c.asked) {
		c.asked = end
	}
}

// grpcUnits are those of grpc-timeout,
// https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md.
var grpcUnits = map[byte]time.Duration{
	'H': time.Hour, 'M': time.Minute, 'S': time.Second,
	'm': time.Millisecond, 'u': time.Microsecond, 'n': time.Nanosecond,
}

func parseGRPCTimeout(s string) (time.Duration, bool) {
	if len(s) < 2 || len(s) > 9 || !isDigits(s[:len(s)-1]) {
		return 0, false
	}
	unit := grpcUnits[s[len(s)-1]]
	n, _ := strconv.Atoi(s[:len(s)-1])
	if unit == 0 || time.Duration(n) > maxHopTimeout/unit {
		return maxHopTimeout, unit != 0
	}
	return max(1, time.Duration(n)*unit), true
}

// formatGRPCTimeout returns d in milliseconds, of which eight digits are a day.
func formatGRPCTimeout(d time.Duration) string {
	return strconv.FormatInt(max(1, int64(min(d, maxHopTimeout)/time.Millisecond)), 10) + "m"
}

// hopFields adds what the callee has to know of the attempt x.
func (x *Exchange) hopFields(out map[string][]string) {
	c := &x.call
	var h Hop
	if end, ok := x.Context().Deadline(); ok {
		left := max(time.Millisecond, time.Until(end))
		switch {
		case c.protocol == HTTP:
			h.Timeout = left
		case !c.header.lower: // grpc-go writes its own
			out["Grpc-Timeout"] = []string{formatGRPCTimeout(left)}
		}
	}
	h.Attempt = int(c.attempt)
	if c.parent != nil {
		above := &c.parent.hop
		h.Attempt += max(1, above.Attempt) - 1
		h.Retries, h.Left = above.Retries, above.Left
	}
	if left, ours := x.retries(); ours {
		if h.Retries {
			left = min(left, h.Left)
		}
		h.Retries, h.Left = true, left
	}
	if v := h.String(); v != "" {
		x.out.hop[0] = v
		out[c.header.key(HopHeader)] = x.out.hop[:]
	}
}

// retries reports whether this side may make another attempt, and how many.
func (x *Exchange) retries() (left int, ours bool) {
	of := x
	if x.out.of != nil {
		of = x.out.of
	}
	l, ok := x.out.by.retry.(LayeredRetrier)
	if !ok || of.out.once {
		return 0, false
	}
	var err error
	defer func() {
		if err != nil {
			observe(x.Context(), x.observer, Event{Kind: EventPanic, Layer: x.out.by.retries, Call: &x.call, Err: err})
		}
	}()
	defer recoverTo(&err)
	return l.Retries(x.Context(), &x.call)
}
