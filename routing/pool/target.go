package pool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

const (
	maxWeight = 1_000
	maxLabels = 16
)

// Target is an endpoint as a [TargetResolver] knows it.
type Target struct {
	// Address is "host:port".
	Address string
	// Zone is where it runs, such as "eu-central-1a". "" is in no zone. At most
	// 253 bytes.
	Zone string
	// Weight is its share beside the others. 0 is 1; at most 1,000.
	Weight int
	// Labels are for [Config.Selector]. At most 16, each name and value of at
	// most 253 bytes.
	Labels map[string]string
}

// TargetResolver is a [Resolver] that knows more of the endpoints than where
// they are. The pool asks Targets then, and not Resolve.
type TargetResolver interface {
	Resolver
	// Targets returns the endpoints in any order. Of several with one address
	// the first counts. What is no valid Target makes the lookup a failed one.
	// The pool changes nothing in what it gets, and keeps it.
	Targets(ctx context.Context) ([]Target, error)
}

// StaticTargets returns a Resolver that always answers targets, of which it
// keeps a copy, and otherwise is like [Static].
func StaticTargets(targets ...Target) TargetResolver {
	s := slices.Clone(targets)
	for i := range s {
		s[i].Labels = maps.Clone(s[i].Labels)
	}
	return static(s)
}

// canonical returns t with its one spelling.
func (t Target) canonical() (Target, error) {
	addr, err := canonicalAddr(t.Address)
	if err != nil {
		return t, err
	}
	t.Address = addr
	if t.Weight == 0 {
		t.Weight = 1
	}
	switch {
	case t.Weight < 1 || t.Weight > maxWeight:
		return t, fmt.Errorf("the weight %d of %s is not between 1 and %d", t.Weight, addr, maxWeight)
	case !validZone(t.Zone):
		return t, fmt.Errorf("the zone %q of %s is not a name", short(t.Zone), addr)
	}
	if err := checkLabels(t.Labels); err != nil {
		return t, fmt.Errorf("the labels of %s: %w", addr, err)
	}
	return t, nil
}

func (t *Target) equal(o *Target) bool {
	return t.Address == o.Address && t.Zone == o.Zone && t.Weight == o.Weight && maps.Equal(t.Labels, o.Labels)
}

// selected reports whether t has all labels of selector.
func (t *Target) selected(selector map[string]string) bool {
	for name, want := range selector {
		if v, ok := t.Labels[name]; !ok || v != want {
			return false
		}
	}
	return true
}

// canonical returns those of targets that have the labels of selector, in their
// one spelling and order, each address once, and at most limit of them, and how
// many there were.
func canonical(targets []Target, selector map[string]string, limit int) (kept []Target, total int, err error) {
	kept = make([]Target, 0, min(len(targets), limitMaxEndpoints))
	for _, t := range targets {
		c, err := t.canonical()
		if err != nil {
			return nil, 0, err
		}
		if c.selected(selector) {
			kept = append(kept, c)
		}
	}
	slices.SortStableFunc(kept, func(a, b Target) int { return cmp.Compare(a.Address, b.Address) })
	kept = slices.CompactFunc(kept, func(a, b Target) bool { return a.Address == b.Address })
	total = len(kept)
	return kept[:min(total, limit)], total, nil
}

// asTargets returns addrs without anything else.
func asTargets(addrs []string) []Target {
	targets := make([]Target, len(addrs))
	for i, a := range addrs {
		targets[i].Address = a
	}
	return targets
}

var errTooManyLabels = fmt.Errorf("there are more than %d", maxLabels)

func checkLabels(labels map[string]string) error {
	if len(labels) > maxLabels {
		return errTooManyLabels
	}
	for name, value := range labels {
		if name == "" || len(name) > maxNameLen || len(value) > maxNameLen {
			return errors.New("a name or value is empty or longer than 253 bytes")
		}
	}
	return nil
}

// validZone reports whether s can stand in a file and on a page.
func validZone(s string) bool { return len(s) <= maxNameLen && visible(s) }

// validToken reports whether s is a name of a field or cookie, or empty (RFC
// 9110 §5.6.2).
func validToken(s string) bool {
	return len(s) <= maxNameLen &&
		strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~") == ""
}
