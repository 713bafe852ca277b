package manifest

import (
	"reflect"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// The types of leaves. Each knows where it stands; one that is absent has the
// zero mark.
type (
	text struct {
		mark
		V string
	}
	number struct {
		mark
		V int64
	}
	// stamp is a time. null is none, because generators of manifests write it.
	stamp struct {
		mark
		V time.Time
	}
	// labels is a free map of strings.
	labels struct {
		mark
		V     map[string]string
		marks map[string]mark // of the keys
	}
	// skipped is a part that changes no behaviour and is not read.
	skipped struct{ mark }
)

// leaf reads itself.
type leaf interface {
	decode(s scope, n *yaml.Node, c checks)
}

// marked remembers where it stands.
type marked interface{ set(line int, path string) }

// checker is a struct with rules about its fields together. It is asked once
// each field by itself is sound.
type checker interface{ check(s scope) }

// decode reads n into v: a leaf, a struct whose fields have the tags json and
// check, or a slice of those.
func (s scope) decode(n *yaml.Node, v reflect.Value, at mark, c checks) {
	at.line = n.Line
	target := v.Addr().Interface()
	if m, ok := target.(marked); ok {
		m.set(at.line, at.path)
	}
	if l, ok := target.(leaf); ok {
		l.decode(s, n, c)
		return
	}
	switch {
	case v.Kind() == reflect.Struct:
		s.decodeStruct(n, v, at)
	case c.keyed:
		s.decodeKeyed(n, v, at, c)
	default:
		s.decodeList(n, v, at, c)
	}
}

func (s scope) decodeStruct(n *yaml.Node, v reflect.Value, at mark) {
	if !s.expect(n, at, yaml.MappingNode) {
		return
	}
	before := s.faults.count
	fields, upstream := fieldsOf(v.Type())
	seen := make(map[string]bool, len(fields))
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		f, known := find(fields, key.Value)
		if !known {
			s.fault(mark{key.Line, child(at.path, key.Value)}, "%s", upstream.unknown(key.Value, fields))
			continue
		}
		seen[f.name] = true
		s.decode(value, v.Field(f.index), at.sub(f.name), f.checks)
	}
	for _, f := range fields {
		if seen[f.name] {
			continue
		}
		if _, free := v.Field(f.index).Addr().Interface().(interface{ optional() }); f.checks.required && !free {
			s.fault(at.sub(f.name), "is required")
		}
		if t, ok := v.Field(f.index).Addr().Interface().(*text); ok {
			t.V = f.checks.fallback
		}
	}
	if c, ok := v.Addr().Interface().(checker); ok && s.faults.count == before {
		c.check(s)
	}
}

func (s scope) decodeList(n *yaml.Node, v reflect.Value, at mark, c checks) {
	if !s.expect(n, at, yaml.SequenceNode) || !c.size(s, at, len(n.Content), "list") {
		return
	}
	list := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, e := range n.Content {
		s.decode(e, list.Index(i), mark{path: at.path + "[" + strconv.Itoa(i) + "]"}, c)
	}
	v.Set(list)
}

// decodeKeyed reads a mapping with free keys into a slice of structs, in the
// order of the file. Their field Key takes the key.
func (s scope) decodeKeyed(n *yaml.Node, v reflect.Value, at mark, c checks) {
	if !s.expect(n, at, yaml.MappingNode) || !c.size(s, at, len(n.Content)/2, "map") {
		return
	}
	list := reflect.MakeSlice(v.Type(), len(n.Content)/2, len(n.Content)/2)
	for i := range list.Len() {
		key, e := n.Content[2*i], list.Index(i)
		field := mark{key.Line, child(at.path, key.Value)}
		s.decode(key, e.FieldByName("Key"), field, c)
		s.decode(n.Content[2*i+1], e, field, checks{})
	}
	v.Set(list)
}

func (t *text) decode(s scope, n *yaml.Node, c checks) {
	if s.isText(n, t.mark) {
		t.V = n.Value
		c.text(s, t)
	}
}

func (i *number) decode(s scope, n *yaml.Node, c checks) {
	if !s.expect(n, i.mark, yaml.ScalarNode) {
		return
	}
	v, err := strconv.ParseInt(n.Value, 10, 64)
	switch {
	case n.ShortTag() == "!!str" && err == nil:
		s.fault(i.mark, "must be a number; write it without quotes: %d", v)
	case n.ShortTag() == "!!float":
		s.fault(i.mark, "must be a whole number")
	case n.ShortTag() != "!!int":
		s.fault(i.mark, "must be a whole number, not %s", describe(n))
	case err != nil || strconv.FormatInt(v, 10) != n.Value:
		s.fault(i.mark, "must be written in plain decimal digits")
	default:
		i.V = v
		c.number(s, i)
	}
}

func (t *stamp) decode(s scope, n *yaml.Node, _ checks) {
	if n.ShortTag() == "!!null" {
		return
	}
	if !s.expect(n, t.mark, yaml.ScalarNode) {
		return
	}
	var err error
	if t.V, err = time.Parse(time.RFC3339, n.Value); err != nil {
		s.fault(t.mark, "must be a time such as 2026-01-31T12:00:00Z")
	}
}

func (l *labels) decode(s scope, n *yaml.Node, c checks) {
	if !s.expect(n, l.mark, yaml.MappingNode) || !c.size(s, l.mark, len(n.Content)/2, "map") {
		return
	}
	l.V, l.marks = make(map[string]string, len(n.Content)/2), make(map[string]mark, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		field := mark{key.Line, child(l.path, key.Value)}
		if key.Value == "" {
			s.fault(field, "the key is empty")
		}
		if s.isText(key, field) && s.isText(value, field) {
			l.V[key.Value], l.marks[key.Value] = value.Value, field
		}
	}
}

func (*skipped) decode(scope, *yaml.Node, checks) {}

// expect reports whether n is of kind k. Null never is.
func (s scope) expect(n *yaml.Node, at mark, k yaml.Kind) bool {
	if n.ShortTag() == "!!null" {
		s.fault(at, "is null; give it a value, or leave it out")
		return false
	}
	if n.Kind != k {
		want := map[yaml.Kind]string{yaml.MappingNode: "a mapping", yaml.SequenceNode: "a list", yaml.ScalarNode: "a single value"}
		s.fault(at, "must be %s, not %s", want[k], describe(n))
		return false
	}
	return true
}

// isText reports whether every reader of YAML takes n for a string.
func (s scope) isText(n *yaml.Node, at mark) bool {
	if !s.expect(n, at, yaml.ScalarNode) {
		return false
	}
	switch {
	case n.ShortTag() != "!!str":
		s.fault(at, "must be a string, not %s; quote it: %s", describe(n), quote(n.Value))
	case n.Style == 0 && boolWords[strings.ToLower(n.Value)]:
		s.fault(at, "some readers of YAML take it for a boolean; quote it: %s", quote(n.Value))
	default:
		return true
	}
	return false
}

// boolWords are booleans in YAML 1.1, which kubectl reads.
var boolWords = map[string]bool{"y": true, "n": true, "yes": true, "no": true, "on": true, "off": true}

// describe says what n is, for "must be a string, not a number".
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!str":
		return "a string"
	case "!!bool":
		return "a boolean"
	case "!!int", "!!float":
		return "a number"
	case "!!timestamp":
		return "a date"
	}
	return "a special value"
}
