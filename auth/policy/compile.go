package policy

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/gatemesh-go/gatemesh"
)

// state is a compiled configuration. It is immutable.
type state struct {
	observer     gatemesh.Observer
	workload     string // NAME.NAMESPACE, for texts
	unselected   Verdict
	selected     bool // a policy selects the workload
	allowPresent bool // an ALLOW policy does
	exempt       condition
	custom       []custom // one for each provider, as they first occur
	deny, allow  index
	audit        index
	allowRules   []*rule     // as written, to find the nearest miss
	missHeaders  []string    // the fields that finding it may read for a log line
	written      []ruleGroup // by policies that select the workload
	notices      []string
	dryRun       *dryRun // nil if there is no candidate
}

// custom is a hook and the rules that ask it.
type custom struct {
	provider string
	hook     Hook
	rules    index

	written []*rule // while building
}

// rule is a compiled rule with what an explanation says of it.
type rule struct {
	policy, namespace string
	number            int // from 1
	position          gatemesh.Position
	from, to          []clause
	when              clause
}

// compiler collects every fault of a configuration.
type compiler struct {
	errs []error
	// Where the value being read stands.
	position gatemesh.Position
	policy   string
	action   Action
	// The namespace of names without one.
	namespace string
}

func (k *compiler) fault(at string, err error) {
	where := "policy: "
	if p := k.position.String(); p != "" {
		where += p + ": "
	}
	if k.policy != "" {
		where += k.policy + ": "
	}
	k.errs = append(k.errs, fmt.Errorf("%s%s: %w", where, at, err))
}

func (k *compiler) at(p gatemesh.Position) {
	if p != (gatemesh.Position{}) {
		k.position = p
	}
}

func compile(cfg Config) (*state, error) {
	k := &compiler{}
	s := &state{
		observer: cfg.Observer, unselected: cfg.Unselected,
		workload: cfg.Workload.Name + "." + cfg.Workload.Namespace,
	}
	if err := cfg.Workload.Validate(); err != nil {
		k.fault("Config.Workload is required", err)
	}
	if cfg.Unselected != Allow && cfg.Unselected != Deny {
		k.fault("Config.Unselected", errors.New("is required, Allow or Deny"))
	}
	s.exempt = k.exempt(cfg.Exempt)
	root := cmp.Or(cfg.RootNamespace, "istio-system")
	seen := make(map[[2]string]gatemesh.Position)
	var deny, allow, audit []*rule
	for _, name := range slices.Sorted(maps.Keys(cfg.Hooks)) {
		if name == "" || cfg.Hooks[name] == nil {
			k.fault("Config.Hooks["+quote(name)+"]", errors.New("needs a name and a function"))
		}
	}
	for i := range cfg.Policies {
		p := &cfg.Policies[i]
		k.position, k.policy, k.action = p.Position, fmt.Sprintf("policy %q (%s)", p.Name, p.Namespace), p.Action
		k.namespace = p.Namespace
		if p.Name == "" || p.Namespace == "" {
			k.fault(fmt.Sprintf("Config.Policies[%d]", i), errors.New("Name and Namespace are required"))
		} else if first, twice := seen[[2]string{p.Namespace, p.Name}]; twice {
			k.fault(fmt.Sprintf("Config.Policies[%d]", i), fmt.Errorf("there is another policy of this name%s", at(first)))
		}
		seen[[2]string{p.Namespace, p.Name}] = p.Position
		rules := k.rules(p)
		if !selects(p, &cfg.Workload, root) {
			continue
		}
		s.selected = true
		s.written = append(s.written, ruleGroup{p.Action, rules})
		switch p.Action {
		case ActionDeny:
			deny = append(deny, rules...)
		case ActionAllow:
			s.allowPresent = true
			allow = append(allow, rules...)
		case ActionAudit:
			audit = append(audit, rules...)
		case ActionCustom:
			k.position = p.Position
			if cfg.Hooks[p.Provider] == nil {
				k.fault("Provider "+quote(p.Provider), errors.New("there is no hook of this name in Config.Hooks"))
			}
			i := slices.IndexFunc(s.custom, func(c custom) bool { return c.provider == p.Provider })
			if i < 0 {
				i = len(s.custom)
				s.custom = append(s.custom, custom{provider: p.Provider, hook: cfg.Hooks[p.Provider]})
			}
			s.custom[i].written = append(s.custom[i].written, rules...)
		}
		if p.Action <= ActionCustom {
			s.noticeRules(p, rules)
		}
	}
	s.dryRun = k.dryRun(cfg)
	if len(k.errs) > 0 {
		return nil, errors.Join(k.errs...)
	}
	if !s.allowPresent && s.unselected == Allow {
		s.notices = append(s.notices, fmt.Sprintf("no ALLOW policy selects %s: every call that no DENY policy matches is allowed", s.workload))
	}
	if len(cfg.Exempt) > 0 {
		s.notices = append(s.notices, "allowed without asking any policy: "+strings.Join(cfg.Exempt, ", "))
	}
	s.deny, s.allow, s.audit, s.allowRules = newIndex(deny), newIndex(allow), newIndex(audit), allow
	for i := range s.custom {
		s.custom[i].rules, s.custom[i].written = newIndex(s.custom[i].written), nil
	}
	s.missHeaders = headersOf(allow[:min(maxLogged, len(allow))])
	return s, nil
}

func at(p gatemesh.Position) string {
	if s := p.String(); s != "" {
		return " at " + s
	}
	return ""
}

func selects(p *Policy, w *gatemesh.Workload, root string) bool {
	if p.Namespace != w.Namespace && p.Namespace != root {
		return false
	}
	for name, want := range p.Selector {
		if got, ok := w.Labels[name]; !ok || got != want {
			return false
		}
	}
	return true
}

// noticeRules remembers what an operator should know about rules without conditions.
func (s *state) noticeRules(p *Policy, rules []*rule) {
	for _, r := range rules {
		if len(r.from) == 0 && len(r.to) == 0 && len(r.when) == 0 {
			verb := [...]string{ActionAllow: "allows", ActionDeny: "denies", ActionAudit: "audits", ActionCustom: "asks its hook about"}
			s.notices = append(s.notices, fmt.Sprintf("rule %d of policy %q (%s)%s has no conditions: it %s every call to %s",
				r.number, p.Name, p.Namespace, at(r.position), verb[p.Action], s.workload))
		}
	}
}

func (k *compiler) exempt(paths []string) condition {
	c := condition{field: fieldPath}
	var patterns []pattern
	for i, value := range paths {
		p, err := parsePattern(fieldPath, value)
		if err == nil && p.kind != exact {
			err = errors.New("must be exact")
		}
		if canonical, cerr := gatemesh.CanonicalPath(value, gatemesh.PathOptions{}); err == nil && (cerr != nil || canonical != value) {
			err = errors.New("is not canonical")
		}
		if err != nil {
			k.fault(fmt.Sprintf("Config.Exempt[%d] %s", i, quote(value)), err)
		}
		patterns = append(patterns, p)
	}
	c.setPatterns(patterns)
	return c
}

func (k *compiler) rules(p *Policy) []*rule {
	switch {
	case p.Action > ActionCustom:
		k.fault("Action", fmt.Errorf("unknown action %d", p.Action))
	case p.Action == ActionCustom && p.Provider == "":
		k.fault("Provider", errors.New("is required for CUSTOM, the name of a hook in Config.Hooks"))
	case p.Action != ActionCustom && p.Provider != "":
		k.fault("Provider "+quote(p.Provider), fmt.Errorf("is for CUSTOM alone, and the action is %s", p.Action))
	}
	for _, name := range slices.Sorted(maps.Keys(p.Selector)) {
		if name == "" || strings.Contains(name+p.Selector[name], "*") {
			k.fault(fmt.Sprintf("Selector[%s]", quote(name)), errors.New("labels are exact, without `*`, and have a name"))
		}
	}
	rules := make([]*rule, 0, len(p.Rules))
	for i := range p.Rules {
		in := &p.Rules[i]
		k.position = p.Position
		k.at(in.Position)
		r := &rule{policy: p.Name, namespace: p.Namespace, number: i + 1, position: k.position}
		name := fmt.Sprintf("Rules[%d]", i)
		if in.From != nil && len(in.From) == 0 {
			k.fault(name+".From", errEmptyList)
		}
		if in.To != nil && len(in.To) == 0 {
			k.fault(name+".To", errEmptyList)
		}
		if in.When != nil && len(in.When) == 0 {
			k.fault(name+".When", errEmptyList)
		}
		for j := range in.From {
			k.position = r.position
			k.at(in.From[j].Position)
			r.from = append(r.from, k.source(fmt.Sprintf("%s.From[%d]", name, j), &in.From[j]))
		}
		for j := range in.To {
			k.position = r.position
			k.at(in.To[j].Position)
			r.to = append(r.to, k.operation(fmt.Sprintf("%s.To[%d]", name, j), &in.To[j]))
		}
		for j := range in.When {
			k.position = r.position
			k.at(in.When[j].Position)
			r.when = append(r.when, k.when(fmt.Sprintf("%s.When[%d]", name, j), &in.When[j])...)
		}
		rules = append(rules, r)
	}
	return rules
}

var errEmptyList = errors.New("the list is empty; leave it out to restrict nothing")

// list is one field of a Source or an Operation.
type list struct {
	name   string
	field  field
	not    bool
	values []string
}

func (k *compiler) source(at string, s *Source) clause {
	if len(s.ServiceAccounts)+len(s.NotServiceAccounts) > 0 && len(s.Principals)+len(s.NotPrincipals)+len(s.Namespaces)+len(s.NotNamespaces) > 0 {
		k.fault(at, errors.New("service accounts cannot stand beside principals or namespaces"))
	}
	return k.clause(at, []list{
		{"Principals", fieldPrincipal, false, s.Principals},
		{"NotPrincipals", fieldPrincipal, true, s.NotPrincipals},
		{"RequestPrincipals", fieldUser, false, s.RequestPrincipals},
		{"NotRequestPrincipals", fieldUser, true, s.NotRequestPrincipals},
		{"Namespaces", fieldNamespace, false, s.Namespaces},
		{"NotNamespaces", fieldNamespace, true, s.NotNamespaces},
		{"ServiceAccounts", fieldServiceAccount, false, s.ServiceAccounts},
		{"NotServiceAccounts", fieldServiceAccount, true, s.NotServiceAccounts},
		{"IPBlocks", fieldAddr, false, s.IPBlocks},
		{"NotIPBlocks", fieldAddr, true, s.NotIPBlocks},
		{"RemoteIPBlocks", fieldClient, false, s.RemoteIPBlocks},
		{"NotRemoteIPBlocks", fieldClient, true, s.NotRemoteIPBlocks},
	})
}

func (k *compiler) operation(at string, o *Operation) clause {
	return k.clause(at, []list{
		{"Hosts", fieldHost, false, o.Hosts},
		{"NotHosts", fieldHost, true, o.NotHosts},
		{"Methods", fieldMethod, false, o.Methods},
		{"NotMethods", fieldMethod, true, o.NotMethods},
		{"Paths", fieldPath, false, o.Paths},
		{"NotPaths", fieldPath, true, o.NotPaths},
		{"Ports", fieldPort, false, o.Ports},
		{"NotPorts", fieldPort, true, o.NotPorts},
	})
}

func (k *compiler) clause(at string, lists []list) clause {
	var out clause
	empty := true
	for _, l := range lists {
		if l.values == nil {
			continue
		}
		empty = false
		if len(l.values) == 0 {
			k.fault(at+"."+l.name, errEmptyList)
			continue
		}
		out = append(out, k.condition(at+"."+l.name, condition{field: l.field, not: l.not}, l.values))
	}
	if empty {
		k.fault(at, errors.New("at least one field is required"))
	}
	return out
}

// when reads a condition of a rule.
func (k *compiler) when(at string, w *Condition) clause {
	c, err := parseKey(w.Key)
	if err != nil {
		k.fault(at+".Key "+quote(w.Key), keyError{err})
		return nil
	}
	var out clause
	for _, l := range []list{{"Values", c.field, false, w.Values}, {"NotValues", c.field, true, w.NotValues}} {
		switch {
		case l.values == nil:
		case len(l.values) == 0:
			k.fault(at+"."+l.name, errEmptyList)
		default:
			c.not = l.not
			out = append(out, k.condition(at+"."+l.name, c, l.values))
		}
	}
	if w.Values == nil && w.NotValues == nil {
		k.fault(at, errors.New("Values or NotValues is required"))
	}
	return out
}

// condition completes c with its values.
func (k *compiler) condition(at string, c condition, values []string) condition {
	c.unknown, c.values = k.action != ActionAllow, slices.Clone(values)
	if c.field == fieldServiceAccount && len(values) > maxServiceAccounts {
		k.fault(at, fmt.Errorf("there are more than %d", maxServiceAccounts))
	}
	var patterns []pattern
	var blocks []netip.Prefix
	for i, value := range values {
		var err error
		switch c.field {
		case fieldAddr, fieldClient, fieldLocal:
			var b netip.Prefix
			if b, err = parseBlock(value); err == nil {
				blocks = append(blocks, b)
			}
		case fieldPort:
			var port uint16
			port, err = parsePort(value)
			c.ports = append(c.ports, port)
		default:
			if c.field == fieldServiceAccount {
				c.values[i] = qualified(value, k.namespace)
			}
			var p pattern
			p, err = parsePattern(c.field, c.values[i])
			patterns = append(patterns, p)
		}
		if err != nil {
			k.fault(fmt.Sprintf("%s[%d] %s", at, i, quote(value)), err)
		}
	}
	c.setPatterns(patterns)
	c.blocks = newIPSet(blocks)
	return c
}
