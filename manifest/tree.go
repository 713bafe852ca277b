package manifest

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

const (
	maxFile  = 1 << 20
	maxDepth = 100 // managedFields of real objects are about 20 deep
)

// documents parses a stream of YAML documents. It returns the roots of those
// that say one thing only: no anchors, no tags, no key twice. If there are
// others, it reports false.
func documents(s scope, data []byte) (roots []*yaml.Node, all bool) {
	line := func(at int) int { return 1 + bytes.Count(data[:at], []byte("\n")) }
	switch bad := invalidUTF8(data); {
	case len(data) > maxFile:
		s.fault(mark{}, "the file is larger than 1 MiB")
		return nil, false
	case bytes.HasPrefix(data, []byte("\xef\xbb\xbf")):
		s.fault(mark{line: 1}, "the file starts with a byte order mark; save it without")
		return nil, false
	case bad >= 0:
		s.fault(mark{line: line(bad)}, "the file is not UTF-8")
		return nil, false
	}
	found, all := false, true
	d := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc yaml.Node
		err := d.Decode(&doc)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			syntaxFault(s, data, err)
			return roots, false
		}
		if len(doc.Content) != 1 {
			continue
		}
		root := doc.Content[0]
		if root.Kind == yaml.ScalarNode && root.ShortTag() == "!!null" && root.Value == "" && root.Anchor == "" {
			continue // nothing between two separators
		}
		found = true
		if unambiguous(s, root, mark{line: root.Line}, 0) {
			roots = append(roots, root)
		} else {
			all = false
		}
	}
	// A file that was cut off must not read as one that asks for nothing.
	if !found {
		s.fault(mark{}, "there is no document in the file")
		all = false
	}
	return roots, all
}

// invalidUTF8 returns the index of the first byte that is not UTF-8, or -1.
func invalidUTF8(data []byte) int {
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return -1
}

var (
	syntaxError = regexp.MustCompile(`^yaml: (?:line ([0-9]+): )?(.*)$`)
	noAnchor    = regexp.MustCompile(`^unknown anchor '(.*)' referenced$`)
	tabIndent   = regexp.MustCompile(`(?m)^ *\t`)
)

func syntaxFault(s scope, data []byte, err error) {
	text, at := err.Error(), mark{}
	if m := syntaxError.FindStringSubmatch(text); m != nil {
		at.line, _ = strconv.Atoi(m[1]) // 0 if it names no line
		text = m[2]
	}
	if m := noAnchor.FindStringSubmatch(text); m != nil {
		at.line = 1 + bytes.Count(data[:max(0, bytes.Index(data, []byte("*"+m[1])))], []byte("\n"))
	}
	if tab := tabIndent.FindIndex(data); tab != nil && strings.Contains(text, "token") {
		at.line = 1 + bytes.Count(data[:tab[0]], []byte("\n"))
		text = "a tab is used for indentation; YAML takes spaces only"
	}
	s.fault(at, "%s", text)
}

// unambiguous reports everything in a tree that two readers may understand
// differently, or that only a reader of all of YAML understands.
func unambiguous(s scope, n *yaml.Node, at mark, depth int) bool {
	at.line = n.Line
	ok := true
	no := func(at mark, format string, args ...any) {
		s.fault(at, format, args...)
		ok = false
	}
	if depth > maxDepth {
		no(at, "nested deeper than %d levels", maxDepth)
		return false
	}
	if n.Anchor != "" {
		no(at, "anchors are not supported; write the value out")
	}
	if n.Style&yaml.TaggedStyle != 0 {
		no(at, "tags are not supported; leave %s out", quote(n.Tag))
	}
	switch n.Kind {
	case yaml.AliasNode:
		no(at, "aliases are not supported; write the value out")
	case yaml.SequenceNode:
		for i, e := range n.Content {
			ok = unambiguous(s, e, mark{path: at.path + "[" + strconv.Itoa(i) + "]"}, depth+1) && ok
		}
	case yaml.MappingNode:
		seen := make(map[string]int, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			field := mark{key.Line, child(at.path, key.Value)}
			switch {
			case key.Kind != yaml.ScalarNode || key.Anchor != "" || key.Style&yaml.TaggedStyle != 0:
				no(mark{key.Line, at.path}, "a key must be a plain string")
				continue
			case key.ShortTag() == "!!merge":
				no(field, "merge keys are not supported; write the fields out")
				continue
			// Numbers are the keys of one map alone, for which see portKey.
			case key.ShortTag() != "!!str" && (key.ShortTag() != "!!int" || at.path != "spec.portLevelMtls"):
				no(field, "the key is not a string; quote it")
			case seen[key.Value] != 0:
				no(field, "the field stands in line %d already", seen[key.Value])
			}
			seen[key.Value] = key.Line
			ok = unambiguous(s, value, field, depth+1) && ok
		}
	}
	return ok
}
