package policy

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/gatemesh-go/gatemesh"
)

// Explanation says what becomes of a call and why. It quotes the call and the
// configuration: it is for operators and tests, never for an untrusted caller.
type Explanation struct {
	Verdict Verdict
	// Policy and Namespace name the policy that decided, or for a call that
	// no rule allows the one that came nearest. They are empty if there is none.
	Policy, Namespace string
	// Rule counts the rules of Policy from 1. It is 0 if there is none.
	Rule int
	// Position is where Rule was written.
	Position gatemesh.Position
	// Reason is a sentence, such as "rule 1 of payment-service-policy: method
	// GET is not POST". What callers control is quoted and cut to 128 bytes.
	Reason string
	// Hooks are the providers that CUSTOM policies ask about this call. Admit
	// asks them first; Verdict is that of DENY and ALLOW, and holds if all of
	// them consent.
	Hooks []string
}

// String returns the explanation as it appears in logs.
func (e Explanation) String() string {
	if e.Policy == "" {
		return e.Reason
	}
	where := fmt.Sprintf("policy %q (%s) rule %d", e.Policy, e.Namespace, e.Rule)
	if p := e.Position.String(); p != "" {
		where += " (" + p + ")"
	}
	return where + ": " + strings.TrimPrefix(e.Reason, fmt.Sprintf("rule %d of %s: ", e.Rule, e.Policy))
}

// judge is the decision without hooks. rule is the one that decided, or nil.
func (s *state) judge(r *request) (v Verdict, rule *rule) {
	if s.exempt.matches(&r.texts[fieldPath]) {
		return Allow, nil
	}
	return s.decide(r)
}

// decide is what DENY and ALLOW policies say about a path that is not exempt.
func (s *state) decide(r *request) (v Verdict, rule *rule) {
	if rule = s.deny.match(r); rule != nil {
		return Deny, rule
	}
	if !s.allowPresent {
		return s.unselected, nil
	}
	if rule = s.allow.match(r); rule != nil {
		return Allow, rule
	}
	return Deny, nil
}

// explain says why r got v of rule. For the nearest miss it looks at no more
// than limit alternatives of ALLOW rules.
func (s *state) explain(r *request, v Verdict, rule *rule, limit int) Explanation {
	e := Explanation{Verdict: v}
	switch {
	case rule != nil && v == Deny:
		e.name(rule, "the DENY rule matches")
	case rule != nil:
		e.name(rule, "the ALLOW rule matches")
	case s.exempt.matches(&r.texts[fieldPath]):
		e.Reason = "path " + quote(r.texts[fieldPath][0]) + " is exempt"
	case !s.allowPresent && v == Allow:
		e.Reason = "no ALLOW policy selects this workload and unselected workloads are allowed"
	case !s.allowPresent && !s.selected:
		e.Reason = "no policy selects this workload and unselected workloads are denied"
	case !s.allowPresent:
		e.Reason = "no ALLOW policy selects this workload and unselected workloads are denied"
	case len(s.allowRules) == 0:
		e.Reason = "the ALLOW policies that select this workload have no rules and allow nothing"
	default:
		rule, why := nearest(s.allowRules, r, limit)
		e.name(rule, why)
	}
	return e
}

func (e *Explanation) name(r *rule, why string) {
	e.Policy, e.Namespace, e.Rule, e.Position = r.policy, r.namespace, r.number, r.position
	e.Reason = fmt.Sprintf("rule %d of %s: %s", r.number, r.policy, why)
}

// distance is what a condition that does not hold adds to the distance between
// a call and a rule: the less likely it is a slip, the more. Who calls weighs
// more than everything else together.
var distance = [...]int{
	fieldPrincipal: 64, fieldUser: 64, fieldServiceAccount: 64, fieldNamespace: 64,
	fieldClaim: 16,
	fieldAddr:  8, fieldClient: 8, fieldLocal: 8,
	fieldHost: 4, fieldPath: 4, fieldSNI: 4,
	fieldMethod: 2, fieldPort: 2, fieldHeader: 2,
}

// named is how much nearer a rule is that names the caller, compared with one
// for everybody: enough to outweigh a method, not to outweigh a path.
const named = 3

// nearest returns the rule that r misses by the least, the first one of
// several, and what r lacks. No rule may match r. It looks at no more than
// limit sources and operations.
func nearest(rules []*rule, r *request, limit int) (best *rule, why string) {
	least := math.MaxInt
	var bestFrom, bestTo clause
	for _, rule := range rules {
		if limit <= 0 || least == distance[fieldMethod]-named { // no rule can be nearer
			break
		}
		froms := rule.from[:min(limit, len(rule.from))]
		tos := rule.to[:min(limit, len(rule.to))]
		limit -= max(1, len(froms)+len(tos))
		from, d := closest(froms, r)
		to, more := closest(tos, r)
		if d += more + rule.when.lacking(r); d < least {
			best, least, bestFrom, bestTo = rule, d, from, to
		}
	}
	return best, strings.Join(slices.Concat(bestFrom.faults(r), bestTo.faults(r), best.when.faults(r)), " and ")
}

// closest returns the alternative that r misses by the least, and by how much.
func closest(clauses []clause, r *request) (clause, int) {
	if len(clauses) == 0 {
		return nil, 0
	}
	best, least := clauses[0], math.MaxInt
	for _, cl := range clauses {
		if d := cl.distance(r); d < least {
			best, least = cl, d
		}
	}
	return best, least
}

func (cl clause) distance(r *request) int {
	sum, bonus := 0, 0
	for i := range cl {
		c := &cl[i]
		switch {
		case !c.holds(r):
			sum += distance[c.field]
		case !c.not && c.field <= lastIdentity:
			bonus = named
		}
	}
	return sum - bonus
}

// lacking is the distance without regard to who is named.
func (cl clause) lacking(r *request) (sum int) {
	for i := range cl {
		if !cl[i].holds(r) {
			sum += distance[cl[i].field]
		}
	}
	return sum
}

// faults says which conditions do not hold.
func (cl clause) faults(r *request) []string {
	var out []string
	for i := range cl {
		if c := &cl[i]; !c.holds(r) {
			out = append(out, c.fault(r))
		}
	}
	return out
}

func (c *condition) fault(r *request) string {
	if c.field == fieldClaim || c.field == fieldHeader {
		return c.faultOfSecret(r)
	}
	name, value := c.field.describe(r)
	switch {
	case value == "" && !c.not:
		return fmt.Sprintf("%s, wanted %s", absent[c.field], c.wanted())
	case value == "":
		return absent[c.field]
	case c.not:
		return fmt.Sprintf("%s %s is excluded by %s", name, value, c.wanted())
	case len(c.values) == 1:
		return fmt.Sprintf("%s %s is not %s", name, value, c.wanted())
	}
	return fmt.Sprintf("%s %s is none of %s", name, value, c.wanted())
}

// faultOfSecret is fault for values that may be secret: it quotes none.
func (c *condition) faultOfSecret(r *request) string {
	name, present := c.name, false
	if c.field == fieldHeader {
		name, present = "header "+bare(c.name), r.count(c.name) > 0
	} else {
		every := condition{field: fieldClaim, claim: c.claim, path: c.path, any: true, unknown: true}
		present = every.holdsClaim(r.principal)
	}
	other := *c
	other.unknown = !c.unknown
	switch {
	case c.field == fieldHeader && r.reserved(c.name):
		return name + " is reserved, so that it cannot be judged"
	case !present:
		return fmt.Sprintf("there is no %s, wanted %s", name, c.wanted())
	case c.field == fieldClaim && other.holdsClaim(r.principal):
		return fmt.Sprintf("%s has a value that is no string and cannot be compared with %s", name, c.wanted())
	case c.not:
		return fmt.Sprintf("%s is excluded by %s", name, c.wanted())
	case c.field == fieldHeader && r.count(c.name) > 1:
		return fmt.Sprintf("%s is there %d times, wanted once: %s", name, r.count(c.name), c.wanted())
	case len(c.values) == 1:
		return fmt.Sprintf("%s has another value than %s", name, c.wanted())
	}
	return fmt.Sprintf("%s has another value than any of %s", name, c.wanted())
}

var absent = [...]string{
	fieldServiceAccount: "there is no service account (no verified peer, or its SPIFFE id has none)",
	fieldSNI:            "there is no server name (no TLS, or the client sent none)",
	fieldLocal:          "the address of the destination is unknown",
	fieldPrincipal:      "there is no principal (no verified peer)",
	fieldUser:           "there is no request principal (nobody is authenticated)",
	fieldNamespace:      "there is no namespace (no verified peer, or its SPIFFE id has none)",
	fieldAddr:           "the address of the connection is unknown",
	fieldClient:         "the address of the client is unknown",
	fieldHost:           "there is no host",
	fieldMethod:         "there is no method",
	fieldPath:           "there is no path",
	fieldPort:           "the port is unknown",
}

// describe returns the field's name and its value in r, fit for a log line; ""
// if there is none. Addresses, numbers and plain identifiers stand as they
// are, what a caller can choose freely is quoted.
func (f field) describe(r *request) (name, value string) {
	switch f {
	case fieldAddr, fieldClient, fieldLocal:
		a, name := r.addr, "address"
		switch f {
		case fieldClient:
			a, name = r.client, "client address"
		case fieldLocal:
			a, name = r.local, "destination address"
		}
		if !a.IsValid() {
			return name, ""
		}
		return name, a.String()
	case fieldPort:
		if r.port == 0 {
			return "port", ""
		}
		return "port", strconv.Itoa(int(r.port))
	}
	name = fieldNames[f]
	value = r.texts[f].String()
	switch {
	case value == "":
		return name, ""
	case f == fieldPrincipal, f == fieldServiceAccount, f == fieldNamespace, f == fieldMethod:
		return name, bare(value)
	}
	return name, quote(value)
}

var fieldNames = [textFields]string{
	fieldPrincipal: "principal", fieldUser: "request principal", fieldNamespace: "namespace",
	fieldServiceAccount: "service account", fieldHost: "host", fieldMethod: "method", fieldPath: "path", fieldSNI: "server name",
}

// wanted lists the values of c, the first few of many.
func (c *condition) wanted() string {
	const few = 4
	values := c.values[:min(few, len(c.values))]
	shown := make([]string, len(values))
	for i, v := range values {
		shown[i] = bare(v)
	}
	s := strings.Join(shown, ", ")
	if more := len(c.values) - len(values); more > 0 {
		s += fmt.Sprintf(" and %d more", more)
	}
	return s
}

const maxQuoted = 128

// quote quotes s, cut to a length that a log line can bear.
func quote(s string) string {
	if len(s) > maxQuoted {
		return strconv.Quote(s[:maxQuoted]) + "…"
	}
	return strconv.Quote(s)
}

// bare returns s without quotes if it is short and of harmless characters.
func bare(s string) string {
	if len(s) > maxQuoted {
		return quote(s)
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '"' || c == '\\' || c == ',' {
			return quote(s)
		}
	}
	return s
}
