package policy

import (
	"context"
	"errors"
	"fmt"

	"github.com/gatemesh-go/gatemesh"
)

// ask asks the hook about c, which rule matches.
func (cu *custom) ask(ctx context.Context, c *gatemesh.Call, rule *rule) error {
	err := cu.hook(ctx, c)
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

// audited is the event about c, which an AUDIT rule matches and which was
// allowed or refused with err.
func audited(c *gatemesh.Call, rule *rule, err error) gatemesh.Event {
	verdict := Allow
	if err != nil {
		verdict = Deny
	}
	var e Explanation
	e.name(rule, "the AUDIT rule matches, and the verdict is "+verdict.String())
	return gatemesh.Event{Kind: gatemesh.EventNotice, Layer: layerName, Call: c, Message: "audit", Err: errors.New(e.String())}
}
