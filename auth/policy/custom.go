package policy

import (
	"context"
	"errors"
	"fmt"

	"github.com/gatemesh-go/gatemesh"
)

// ask asks the hook about c, which is r and which rule matches.
func (s *state) ask(ctx context.Context, cu *custom, c *gatemesh.Call, r *request, rule *rule) error {
	returned := false
	defer func() {
		if !returned { // a panic, which goes on and refuses: callers must not escape an audit by it
			s.auditCall(ctx, c, r, errPanicked)
		}
	}()
	err := cu.hook(ctx, c)
	returned = true
	if err == nil {
		return nil
	}
	d, cause := denied, err
	if own := (*gatemesh.Denial)(nil); errors.As(err, &own) {
		if own == nil {
			cause = errNilDenial // a bug, and no consent
		} else {
			d = own
		}
	}
	return d.WithCause(&hookRefusal{cu.provider, rule, cause})
}

var errPanicked = errors.New("policy: the hook panicked")

var errNilDenial = errors.New("it returned a nil *Denial as an error")

// hookRefusal is the cause of a denial by a hook.
type hookRefusal struct {
	provider string
	rule     *rule
	cause    error
}

func (h *hookRefusal) Error() string {
	var e Explanation
	e.name(h.rule, fmt.Sprintf("the hook %q refused: %v", h.provider, h.cause))
	return e.String()
}

func (h *hookRefusal) Unwrap() error { return h.cause }

// auditCall tells the observer of c, which is r and which was allowed or
// refused with err, if an AUDIT rule matches.
func (s *state) auditCall(ctx context.Context, c *gatemesh.Call, r *request, err error) {
	if s.observer == nil {
		return
	}
	rule := s.audit.match(r)
	if rule == nil {
		return
	}
	verdict := Allow
	if err != nil {
		verdict = Deny
	}
	var e Explanation
	e.name(rule, "the AUDIT rule matches, and the verdict is "+verdict.String())
	s.observer.Observe(ctx, gatemesh.Event{Kind: gatemesh.EventNotice, Layer: layerName, Call: c, Message: "audit", Err: errors.New(e.String())})
}
