package policy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

// A caller cannot keep itself out of a dry run by a path that is cut in the
// middle of an escape, or that only an Entry of another setting accepts.
func TestDryRunKeepsEveryPath(t *testing.T) {
	t.Parallel()
	role := Rule{When: []Condition{{Key: "request.headers[X-Role]", Values: []string{"admin"}}}}
	for path, o := range map[string]gatemesh.EntryConfig{
		"/" + strings.Repeat("x", 510) + "%C3%A9": {},
		"/a%2Fb": {KeepEncodedSlash: true},
		"/a;b":   {KeepPathParameters: true},
	} {
		e := engine(t, trial(role, to(Operation{Paths: []string{"/none"}})))
		chain := gatemesh.Must(gatemesh.NewChain(gatemesh.Must(gatemesh.NewEntry(o)), e.Layer()))
		h := chain.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }))
		r := getting(t, path)
		r.Header.Set("X-Role", "admin")
		require.Equal(t, 204, status(h, r), path)
		run := dryRunOf(t, e)
		assert.Zero(t, run.Failed, path)
		require.Len(t, run.Differences, 1, path)
		d := run.Differences[0]
		assert.Equal(t, path[:min(len(path), 512)], d.Path)
		assert.True(t, d.Partial)
		assert.Contains(t, d.Candidate.Reason, "is not /none")
	}
}

// AZ-07: "*" is a field that is not empty, however often an empty one is sent.
func TestAZ07_ManyEmptyFields(t *testing.T) {
	t.Parallel()
	const role = "request.headers[X-Role]"
	c := call(t, gatemesh.CallInfo{Header: http.Header{"X-Role": make([]string, 300)}})
	assert.Equal(t, Deny, verdict(t, engine(t, config(policyOf("p", ActionAllow, Rule{When: []Condition{{Key: role, Values: []string{"*"}}}}))), c))
	deny := policyOf("d", ActionDeny, Rule{When: []Condition{{Key: role, NotValues: []string{"*"}}}})
	assert.Equal(t, Deny, verdict(t, engine(t, config(policyOf("p", ActionAllow, Rule{}), deny)), c))
}

// A caller who makes a hook panic is refused and audited like any other.
func TestAuditOfPanic(t *testing.T) {
	t.Parallel()
	cfg := hooked(func(context.Context, *gatemesh.Call) error { panic("oops") })
	cfg.Policies = append(cfg.Policies, policyOf("note", ActionAudit, Rule{}))
	var rec recorder
	cfg.Observer = &rec
	e := engine(t, cfg)
	rec.events = nil
	assert.PanicsWithValue(t, "oops", func() { _, _ = e.Admit(t.Context(), call(t, gatemesh.CallInfo{Path: "/ask"})) })
	require.Len(t, rec.events, 1)
	assert.ErrorContains(t, rec.events[0].Err, "the AUDIT rule matches, and the verdict is deny")
}

// What a log line looks at has a bound in alternatives, not in rules: one rule
// may have thousands.
func TestCauseLooksAtFewAlternatives(t *testing.T) {
	t.Parallel()
	rule := Rule{}
	for i := range 5000 {
		rule.From = append(rule.From, Source{NotPrincipals: []string{"*"}, Principals: []string{fmt.Sprintf("cluster.local/ns/a/sa/%d", i)}})
	}
	rule.From = append(rule.From, Source{Principals: []string{"cluster.local/ns/b/sa/near"}})
	rule.To = []Operation{{Methods: []string{"PUT"}}}
	e := engine(t, config(policyOf("p", ActionAllow, rule)))
	c := call(t, gatemesh.CallInfo{Peer: peer(t, "b", "near")})
	assert.NotContains(t, e.Explain(c).Reason, "principal", "an operator is told of the nearest")
	_, err := e.Admit(t.Context(), c)
	var d *gatemesh.Denial
	require.True(t, errors.As(err, &d))
	assert.Contains(t, d.Cause().Error(), "principal", "a log line is not worth reading 5,001 alternatives")
}
