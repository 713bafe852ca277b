package policy

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

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
	switch {
	case p.Gateways != nil && len(p.Gateways) == 0:
		k.fault("Gateways", errEmptyList)
	case p.Gateways != nil && p.Selector != nil:
		k.fault("Gateways", errors.New("stand in place of Selector"))
	case slices.Contains(p.Gateways, ""):
		k.fault("Gateways", errEmpty)
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
