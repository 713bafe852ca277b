package manifest

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// checks is the tag check of a field: words, and settings NAME=VALUE.
type checks struct {
	required bool
	empty    bool     // "" and the empty list are values
	keyed    bool     // a list that is written as a mapping
	fallback string   // default=: a text that is absent
	enum     []string // enum=: what a text may be
	refused  []string // not=: what upstream allows besides
	format   string   // format=: see formatFault
	length   int      // len=: the longest text
	items    int      // items=: the longest list
	min, max int64    // of a number
}

// field is a field of a struct.
type field struct {
	name   string
	index  int
	checks checks
}

// upstream holds the fields that the real API has and gatemesh does not act
// on. It comes from the tags refused and why of the embedded mark.
type upstream struct {
	fields []string
	why    map[string]string
}

// fieldsOf returns the fields of a struct type that files may set.
func fieldsOf(t reflect.Type) (fields []field, up upstream) {
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			up.fields = strings.Fields(f.Tag.Get("refused"))
			up.why = make(map[string]string)
			for _, pair := range strings.Split(f.Tag.Get("why"), "; ") {
				name, why, _ := strings.Cut(pair, "=")
				up.why[name] = why
			}
			continue
		}
		if name := f.Tag.Get("json"); name != "" {
			fields = append(fields, field{name, i, parseChecks(f.Tag.Get("check"))})
		}
	}
	return fields, up
}

func parseChecks(tag string) (c checks) {
	for _, word := range strings.Fields(tag) {
		name, value, _ := strings.Cut(word, "=")
		n, _ := strconv.ParseInt(value, 10, 64) // 0 for words, which do not use it
		switch name {
		case "required":
			c.required = true
		case "empty":
			c.empty = true
		case "keyed":
			c.keyed = true
		case "default":
			c.fallback = value
		case "enum":
			c.enum = strings.Split(value, "|")
		case "not":
			c.refused = strings.Split(value, "|")
		case "format":
			c.format = value
		case "len":
			c.length = int(n)
		case "items":
			c.items = int(n)
		case "min":
			c.min = n
		case "max":
			c.max = n
		}
	}
	return c
}

func find(fields []field, name string) (field, bool) {
	i := slices.IndexFunc(fields, func(f field) bool { return f.name == name })
	if i < 0 {
		return field{}, false
	}
	return fields[i], true
}

// unknown says what is wrong with a field that is none of fields.
func (u upstream) unknown(name string, fields []field) string {
	if slices.Contains(u.fields, name) {
		if why := u.why[name]; why != "" {
			return "not supported by gatemesh: " + why
		}
		return "not supported by gatemesh"
	}
	fold := func(s string) string {
		return strings.ToLower(strings.NewReplacer("-", "", "_", "").Replace(s))
	}
	for _, f := range fields {
		if fold(f.name) == fold(name) {
			return "unknown field; did you mean " + f.name + "?"
		}
	}
	return "unknown field"
}

func (c *checks) text(s scope, t *text) {
	switch {
	case t.V == "":
		if !c.empty {
			s.fault(t.mark, "is empty")
		}
		return
	case strings.TrimSpace(t.V) != t.V:
		s.fault(t.mark, "%s has white space around it", quote(t.V))
	case strings.ContainsFunc(t.V, func(r rune) bool { return r < 0x20 || r == 0x7f }):
		s.fault(t.mark, "%s contains a control character", quote(t.V))
	case c.length > 0 && len(t.V) > c.length:
		s.fault(t.mark, "is longer than %d characters", c.length)
	case slices.Contains(c.refused, t.V):
		s.fault(t.mark, "%s is not supported by gatemesh; it must be %s", t.V, strings.Join(c.enum, " or "))
	case len(c.enum) > 0 && !slices.Contains(c.enum, t.V):
		s.fault(t.mark, "%s is unknown; it must be %s", quote(t.V), strings.Join(c.enum, " or "))
	case c.format != "":
		if wrong := s.formatFault(c.format, t.V); wrong != "" {
			s.fault(t.mark, "%s %s", quote(t.V), wrong)
		}
	}
}

func (c *checks) number(s scope, n *number) {
	if len(c.enum) > 0 {
		if !slices.Contains(c.enum, strconv.FormatInt(n.V, 10)) {
			s.fault(n.mark, "%d is unknown; it must be %s", n.V, strings.Join(c.enum, " or "))
		}
		return
	}
	if n.V < c.min || n.V > c.max {
		s.fault(n.mark, "%d is not between %d and %d", n.V, c.min, c.max)
	}
}

// size reports whether a list or a map has an acceptable length. An empty one
// reads like an absent one to some and like "nothing" to others.
func (c *checks) size(s scope, at mark, n int, what string) bool {
	switch {
	case n == 0 && !c.empty:
		s.fault(at, "the %s is empty; fill it, or leave it out", what)
	case c.items > 0 && n > c.items:
		s.fault(at, "the %s has %d entries; at most %d are allowed", what, n, c.items)
	default:
		return true
	}
	return false
}

// String describes c for people who write manifests.
func (c *checks) String() string {
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if len(c.enum) > 0 {
		add("%s", strings.Join(c.enum, " or "))
	}
	if c.format != "" {
		add("%s", formatNames[c.format])
	}
	if c.length > 0 {
		add("at most %d characters", c.length)
	}
	if c.items > 0 {
		add("at most %d entries", c.items)
	}
	if c.max > 0 {
		add("%d to %d", c.min, c.max)
	}
	if c.fallback != "" {
		add("default %s", c.fallback)
	}
	return strings.Join(out, "; ")
}
