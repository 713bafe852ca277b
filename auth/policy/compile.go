package policy

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// state is a compiled configuration. It is immutable.
type state struct {
	observer     gatemesh.Observer
	workload     string // NAME.NAMESPACE, for texts
	recheck      time.Duration
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
		observer: cfg.Observer, unselected: cfg.Unselected, recheck: cmp.Or(cfg.Recheck, time.Minute),
		workload: cfg.Workload.Name + "." + cfg.Workload.Namespace,
	}
	if cfg.Recheck < 0 {
		k.fault("Config.Recheck", errors.New("must not be negative"))
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
	if p.Gateways != nil {
		return p.Namespace == w.Namespace && w.Serves(p.Gateways)
	}
	return (p.Namespace == w.Namespace || p.Namespace == root) && w.HasLabels(p.Selector)
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
