package manifest

import (
	"context"
	"errors"
	"maps"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/policy"
)

// authorizationSpec is the spec of an AuthorizationPolicy.
type authorizationSpec struct {
	mark     `refused:"targetRef" why:"targetRef=write targetRefs"`
	Selector selector   `json:"selector"`
	Targets  targetRefs `json:"targetRefs" check:"items=16"`
	Action   text       `json:"action" check:"default=ALLOW enum=ALLOW|DENY|AUDIT|CUSTOM"`
	Provider provider   `json:"provider"`
	Rules    []authRule `json:"rules" check:"empty"`
}

type selector struct {
	mark
	MatchLabels labels `json:"matchLabels" check:"required"`
}

// provider names a hook of the service.
type provider struct {
	mark
	Name text `json:"name" check:"required"`
}

type authRule struct {
	mark
	From []authFrom `json:"from"`
	To   []authTo   `json:"to"`
	When []authWhen `json:"when"`
}

type authWhen struct {
	mark
	Key       text   `json:"key" check:"required"`
	Values    []text `json:"values"`
	NotValues []text `json:"notValues"`
}

type authFrom struct {
	mark
	Source authSource `json:"source" check:"required"`
}

type authTo struct {
	mark
	Operation authOperation `json:"operation" check:"required"`
}

type authSource struct {
	mark                 `refused:"trustDomains notTrustDomains" why:"trustDomains=write principals, such as TRUST-DOMAIN/*; notTrustDomains=write notPrincipals, such as TRUST-DOMAIN/*"`
	Principals           []text `json:"principals"`
	NotPrincipals        []text `json:"notPrincipals"`
	RequestPrincipals    []text `json:"requestPrincipals"`
	NotRequestPrincipals []text `json:"notRequestPrincipals"`
	Namespaces           []text `json:"namespaces"`
	NotNamespaces        []text `json:"notNamespaces"`
	ServiceAccounts      []text `json:"serviceAccounts" check:"items=16"`
	NotServiceAccounts   []text `json:"notServiceAccounts" check:"items=16"`
	IPBlocks             []text `json:"ipBlocks"`
	NotIPBlocks          []text `json:"notIpBlocks"`
	RemoteIPBlocks       []text `json:"remoteIpBlocks"`
	NotRemoteIPBlocks    []text `json:"notRemoteIpBlocks"`
}

type authOperation struct {
	mark
	Hosts      []text `json:"hosts"`
	NotHosts   []text `json:"notHosts"`
	Methods    []text `json:"methods"`
	NotMethods []text `json:"notMethods"`
	Paths      []text `json:"paths"`
	NotPaths   []text `json:"notPaths"`
	Ports      []text `json:"ports"`
	NotPorts   []text `json:"notPorts"`
}

// valueList pairs a field of a file with the one of the policy engine.
type valueList struct {
	in  []text
	out *[]string
}

func (a *authSource) lists(out *policy.Source) []valueList {
	return []valueList{
		{a.Principals, &out.Principals}, {a.NotPrincipals, &out.NotPrincipals},
		{a.RequestPrincipals, &out.RequestPrincipals}, {a.NotRequestPrincipals, &out.NotRequestPrincipals},
		{a.Namespaces, &out.Namespaces}, {a.NotNamespaces, &out.NotNamespaces},
		{a.ServiceAccounts, &out.ServiceAccounts}, {a.NotServiceAccounts, &out.NotServiceAccounts},
		{a.IPBlocks, &out.IPBlocks}, {a.NotIPBlocks, &out.NotIPBlocks},
		{a.RemoteIPBlocks, &out.RemoteIPBlocks}, {a.NotRemoteIPBlocks, &out.NotRemoteIPBlocks},
	}
}

func (a *authOperation) lists(out *policy.Operation) []valueList {
	return []valueList{
		{a.Hosts, &out.Hosts}, {a.NotHosts, &out.NotHosts},
		{a.Methods, &out.Methods}, {a.NotMethods, &out.NotMethods},
		{a.Paths, &out.Paths}, {a.NotPaths, &out.NotPaths},
		{a.Ports, &out.Ports}, {a.NotPorts, &out.NotPorts},
	}
}

func (a *authWhen) lists(out *policy.Condition) []valueList {
	return []valueList{{a.Values, &out.Values}, {a.NotValues, &out.NotValues}}
}

var actions = map[string]policy.Action{
	"ALLOW": policy.ActionAllow, "DENY": policy.ActionDeny, "AUDIT": policy.ActionAudit, "CUSTOM": policy.ActionCustom,
}

func (a *authorizationSpec) check(s scope) {
	a.Targets.check(s, &a.Selector)
	if action := a.Action.V; action != "ALLOW" && len(a.Rules) == 0 {
		s.fault(a.sub("rules"), "is required where action is %s: without rules, nothing is %s", action,
			map[string]string{"DENY": "denied", "AUDIT": "audited", "CUSTOM": "asked"}[action])
	}
	switch named := a.Provider.Name.V != ""; {
	case a.Action.V == "CUSTOM" && !named:
		s.fault(a.sub("provider"), "is required where action is CUSTOM")
	case a.Action.V != "CUSTOM" && named:
		s.fault(a.Provider.mark, "is for action CUSTOM alone, not %s", a.Action.V)
	}
}

func (a *authSource) check(s scope) {
	var one policy.Source
	s.checkValues(a.mark, a.lists(&one), func() policy.Rule { return policy.Rule{From: []policy.Source{one}} })
	if len(a.ServiceAccounts)+len(a.NotServiceAccounts) > 0 && len(a.Principals)+len(a.NotPrincipals)+len(a.Namespaces)+len(a.NotNamespaces) > 0 {
		s.fault(a.mark, "serviceAccounts cannot stand beside principals or namespaces")
	}
}

func (a *authWhen) check(s scope) {
	one := policy.Condition{Key: a.Key.V, Values: []string{"*"}}
	rule := func() policy.Rule { return policy.Rule{When: []policy.Condition{one}} }
	if err := refusal(policy.Policy{Name: "a", Namespace: "a", Rules: []policy.Rule{rule()}}); errors.Is(err, policy.ErrKey) {
		s.fault(a.Key.mark, "%s: %s", quote(a.Key.V), err)
		return
	}
	if len(a.Values)+len(a.NotValues) == 0 {
		s.fault(a.mark, "values or notValues is required")
		return
	}
	one.Values = nil
	s.checkValues(a.mark, a.lists(&one), rule)
}

func (a *authOperation) check(s scope) {
	var one policy.Operation
	s.checkValues(a.mark, a.lists(&one), func() policy.Rule { return policy.Rule{To: []policy.Operation{one}} })
}

// checkValues asks the policy engine about each value in a rule of its own, so
// that there is one opinion on values, given where the value stands.
func (s scope) checkValues(at mark, lists []valueList, rule func() policy.Rule) {
	empty := true
	for _, l := range lists {
		for _, v := range l.in {
			empty = false
			*l.out = []string{v.V}
			if err := refusal(policy.Policy{Name: "a", Namespace: "a", Rules: []policy.Rule{rule()}}); err != nil {
				s.fault(v.mark, "%s: %s", quote(v.V), err)
			}
			*l.out = nil
		}
	}
	if empty {
		s.fault(at, "is empty; give it a field, or leave the list it stands in out")
	}
}

// refusal returns why the policy engine refuses p, without its own words for
// where that is.
func refusal(p policy.Policy) error {
	_, err := newEngine(p)
	if joined, ok := err.(interface{ Unwrap() []error }); ok && len(joined.Unwrap()) > 0 {
		err = joined.Unwrap()[0]
	}
	if cause := errors.Unwrap(err); cause != nil {
		return cause
	}
	return err
}

// newEngine compiles policies for a workload that does not matter: faults are
// found in all of them, whether they select it or not.
func newEngine(policies ...policy.Policy) (*policy.Engine, error) {
	hooks := make(map[string]policy.Hook) // which there are is known to the service
	for _, p := range policies {
		if p.Action == policy.ActionCustom {
			hooks[p.Provider] = func(context.Context, *gatemesh.Call) error { return errors.New("none") }
		}
	}
	return policy.New(policy.Config{
		Workload:   gatemesh.Workload{Name: "a", TrustDomain: "a", Namespace: "a", ServiceAccount: "a"},
		Unselected: policy.Deny, Policies: policies, Hooks: hooks,
	})
}

// Policies returns all AuthorizationPolicies, in the order of files and lines.
// Each call returns new slices and maps.
func (set *Set) Policies() []policy.Policy {
	var out []policy.Policy
	for _, p := range set.policies {
		to := policy.Policy{
			Name: p.Metadata.Name.V, Namespace: p.Metadata.Namespace.V,
			Position: p.scope.position(p.mark), Selector: maps.Clone(p.Spec.Selector.MatchLabels.V), Gateways: p.Spec.Targets.names(),
			Action: actions[p.Spec.Action.V], Provider: p.Spec.Provider.Name.V,
		}
		for i := range p.Spec.Rules {
			to.Rules = append(to.Rules, p.Spec.Rules[i].policy(p.scope))
		}
		out = append(out, to)
	}
	return out
}

func (r *authRule) policy(s scope) policy.Rule {
	out := policy.Rule{Position: s.position(r.mark)}
	for i := range r.From {
		src := &r.From[i].Source
		to := policy.Source{Position: s.position(src.mark)}
		copyValues(src.lists(&to))
		out.From = append(out.From, to)
	}
	for i := range r.To {
		op := &r.To[i].Operation
		to := policy.Operation{Position: s.position(op.mark)}
		copyValues(op.lists(&to))
		out.To = append(out.To, to)
	}
	for i := range r.When {
		w := &r.When[i]
		to := policy.Condition{Position: s.position(w.mark), Key: w.Key.V}
		copyValues(w.lists(&to))
		out.When = append(out.When, to)
	}
	return out
}

func copyValues(lists []valueList) {
	for _, l := range lists {
		for _, v := range l.in {
			*l.out = append(*l.out, v.V)
		}
	}
}
