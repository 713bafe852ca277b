package policytest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/policy"
)

// Call is a call to ask the policies about. Its methods return a changed copy,
// so that one call can be the beginning of several. What is not said is not
// there: a call has no host, port or address unless it is given one.
type Call struct {
	is       Case
	policies *Policies
	errs     []string
}

// GET is Do("GET", path).
func (c Call) GET(path string) Call { return c.Do(http.MethodGet, path) }

// HEAD is Do("HEAD", path).
func (c Call) HEAD(path string) Call { return c.Do(http.MethodHead, path) }

// POST is Do("POST", path).
func (c Call) POST(path string) Call { return c.Do(http.MethodPost, path) }

// PUT is Do("PUT", path).
func (c Call) PUT(path string) Call { return c.Do(http.MethodPut, path) }

// PATCH is Do("PATCH", path).
func (c Call) PATCH(path string) Call { return c.Do(http.MethodPatch, path) }

// DELETE is Do("DELETE", path).
func (c Call) DELETE(path string) Call { return c.Do(http.MethodDelete, path) }

// Do says what the call does. The path is escaped and has no query.
func (c Call) Do(method, path string) Call {
	c.is.Method, c.is.Path = method, path
	return c
}

// GRPC says that the call is one of a gRPC method, such as
// "/payments.v1.Payments/Charge".
func (c Call) GRPC(method string) Call { return c.Do(methodGRPC, method) }

// User says that a user came with the call, as authentication would: issuer,
// subject, scopes, audience and claims count.
func (c Call) User(u gatemesh.PrincipalInfo) Call {
	c.is.User = u
	return c
}

// Host says at which host the call arrives.
func (c Call) Host(host string) Call {
	c.is.Host = host
	return c
}

// Port says at which port the call arrives.
func (c Call) Port(port uint16) Call {
	c.is.Port = port
	return c
}

// From says from which address the connection comes.
func (c Call) From(addr string) Call { return c.addr(&c.is.From, "From", addr) }

// Client says which address the client has, behind trusted proxies. Default:
// that of From.
func (c Call) Client(addr string) Call { return c.addr(&c.is.Client, "Client", addr) }

// To says at which of our addresses the call arrives.
func (c Call) To(addr string) Call { return c.addr(&c.is.To, "To", addr) }

// addr sets *field, which belongs to the copy c.
func (c *Call) addr(field *netip.Addr, name, addr string) Call {
	a, err := netip.ParseAddr(addr)
	if err != nil {
		c.errs = append(c.errs[:len(c.errs):len(c.errs)], fmt.Sprintf("%s(%q): not an IP address", name, addr))
	}
	*field = a
	return *c
}

// SNI says which server name the TLS handshake had.
func (c Call) SNI(name string) Call {
	c.is.SNI = name
	return c
}

// Header adds a header field.
func (c Call) Header(name, value string) Call {
	h := c.is.Header.Clone()
	if h == nil {
		h = make(http.Header)
	}
	h.Add(name, value)
	c.is.Header = h
	return c
}

// Explain says what becomes of the call and why. It is an error if no policy
// would be asked, because the call is refused as malformed before. Hooks are
// asked; see [policy.Config].
func (c Call) Explain() (policy.Explanation, error) {
	if len(c.errs) > 0 {
		return policy.Explanation{}, fmt.Errorf("%s", strings.Join(c.errs, "; "))
	}
	call, err := c.is.call(c.policies.workload)
	if err != nil {
		return policy.Explanation{}, err
	}
	why := c.policies.engine.Explain(call)
	if len(why.Hooks) > 0 { // which decide first, and explain themselves
		var d *gatemesh.Denial
		if _, err := c.policies.engine.Admit(context.Background(), call); errors.As(err, &d) && why.Verdict == Allow {
			why = policy.Explanation{Verdict: Deny, Reason: d.Cause().Error(), Hooks: why.Hooks}
		}
	}
	return why, nil
}

// Want reports an error of the test unless the call is judged so.
func (c Call) Want(want policy.Verdict) {
	c.policies.t.Helper()
	c.is.Want = want
	if text := c.failure(); text != "" {
		c.policies.t.Errorf("%s", text)
	}
}

// failure says what is wrong with the case, or "".
func (c Call) failure() string {
	what := c.is.line()
	if p := c.is.Position.String(); p != "" {
		what = p + ": " + what
	}
	if c.is.Want != Allow && c.is.Want != Deny {
		return what + "\n    want Allow or Deny"
	}
	why, err := c.Explain()
	if err != nil {
		return fmt.Sprintf("%s\n    no call to ask policies about: %v", what, err)
	}
	if why.Verdict == c.is.Want {
		return ""
	}
	reason := strings.TrimPrefix(why.Reason, fmt.Sprintf("rule %d of %s: ", why.Rule, why.Policy))
	text := fmt.Sprintf("%s\n    want  %v\n    got   %v: %s", what, c.is.Want, why.Verdict, reason)
	if why.Policy != "" {
		by := "by"
		if why.Verdict == Deny && !strings.HasSuffix(reason, "rule matches") {
			by = "near" // it did not decide, it came nearest
		}
		text += fmt.Sprintf("\n    %-4s  rule %d of policy %s (%s)", by, why.Rule, why.Policy, why.Namespace)
	}
	if p := why.Position.String(); p != "" {
		text += "\n    at    " + p
	}
	return text
}
