package manifest

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/gatemesh-go/gatemesh"
)

const (
	maxFaults = 50   // that one error lists
	maxKept   = 1000 // among which the first are found
)

// fault is one thing that is wrong, and where.
type fault struct {
	file, object, path, text string
	line                     int
}

// Error returns "file:line: kind namespace/name: field: what is wrong".
func (f fault) Error() string {
	parts := make([]string, 0, 4)
	where := gatemesh.Position{File: f.file, Line: f.line}.String()
	if f.line == 0 {
		where = f.file
	}
	for _, p := range []string{where, f.object, f.path, f.text} {
		if p != "" {
			parts = append(parts, p)
		}
	}
	return strings.Join(parts, ": ")
}

// faults collects what is wrong with a set.
type faults struct {
	list    []fault
	count   int
	regexes int // what all of them compile to, see costOf
}

func (f *faults) add(one fault) {
	f.count++
	if len(f.list) < maxKept {
		f.list = append(f.list, one)
	}
}

// err joins the faults in the order of files and lines.
func (f *faults) err() error {
	slices.SortStableFunc(f.list, func(a, b fault) int {
		return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.line, b.line))
	})
	errs := make([]error, 0, maxFaults+1)
	for i, one := range f.list {
		if i == maxFaults {
			errs = append(errs, fmt.Errorf("and %d more faults", f.count-i))
			break
		}
		errs = append(errs, one)
	}
	return errors.Join(errs...)
}

// mark is where a value stands. The zero mark belongs to an absent value.
type mark struct {
	line int
	path string
}

func (m *mark) set(line int, path string) { m.line, m.path = line, path }
func (m mark) present() bool              { return m.line > 0 }

// sub returns the mark of a field of m that is not there itself.
func (m mark) sub(name string) mark { return mark{m.line, child(m.path, name)} }

// names remembers where each name was met first.
type names map[string]mark

// first returns where name was met before, or else keeps at.
func (n names) first(name string, at mark) (mark, bool) {
	if m, ok := n[name]; ok {
		return m, true
	}
	n[name] = at
	return at, false
}

// scope is an object, as far as faults name it.
type scope struct {
	faults *faults
	file   string
	object string // "HTTPRoute production/user-service-route"
}

func (s scope) fault(at mark, format string, args ...any) {
	s.faults.add(fault{
		file: s.file, object: s.object, path: at.path, line: at.line, text: fmt.Sprintf(format, args...),
	})
}

func (s scope) position(at mark) gatemesh.Position {
	return gatemesh.Position{File: s.file, Line: at.line}
}

// child returns the path of a field.
func child(path, name string) string {
	plain := name != "" && strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == ""
	switch {
	case !plain || len(name) > maxQuoted:
		return path + "[" + quote(name) + "]"
	case path == "":
		return name
	}
	return path + "." + name
}

const maxQuoted = 100

// quote quotes a value of a file and bounds its length.
func quote(s string) string {
	if len(s) > maxQuoted {
		return fmt.Sprintf("%q...", s[:maxQuoted])
	}
	return fmt.Sprintf("%q", s)
}
