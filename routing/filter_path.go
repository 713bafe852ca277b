package routing

import (
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/internal/match"
)

// pathChange is a compiled PathChange. nil changes nothing.
type pathChange struct {
	full     string
	prefixes []PathMatch // those to replace, longest first; nil if that is not the change
	prefix   string      // in place of them, without the last slash
	start    string      // the same with it, where what follows is no whole segment
	regex    *regexp.Regexp
	cost     int // of regex, for each byte
	parts    []part
	escapes  gatemesh.PathOptions // what the configured texts bring along
}

// part is a literal text, or the group of that number.
type part struct {
	text  string
	group int // -1 is the text
}

const maxRegexPath = 8 << 10

var (
	denyRewritten  = gatemesh.Deny(gatemesh.InvalidArgument, "path_rewritten", "The path cannot be served.")
	errLongPath    = errors.New("routing: what the regular expression makes of the path is too long")
	errManyMatches = errors.New("routing: the regular expression matches too often in the path")
)

// apply returns what becomes of a canonical path.
func (p *pathChange) apply(path string) (string, *gatemesh.Denial) {
	if p == nil || path == "*" { // the "*" of OPTIONS is no path
		return path, nil
	}
	changed := p.full
	switch {
	case p.prefixes != nil:
		changed = p.replacePrefix(path)
	case p.regex != nil:
		found, denial := p.find(path)
		if denial != nil {
			return "", denial
		}
		if changed = p.substitute(path, found); len(changed) > 2*maxRegexPath {
			return "", denyRewritten.WithCause(errLongPath)
		}
	}
	// What nobody has asked for and nobody has configured must not come about.
	canonical, err := gatemesh.CanonicalPath(changed, gatemesh.PathOptions{
		KeepEncodedSlash:   p.escapes.KeepEncodedSlash || strings.Contains(path, "%2F"),
		KeepPathParameters: p.escapes.KeepPathParameters || hasParameter(path),
	})
	if err != nil {
		return "", denyRewritten.WithCause(err)
	}
	return canonical, nil
}

func hasParameter(path string) bool {
	return strings.IndexByte(path, ';') >= 0 || strings.Contains(path, "%3B")
}

func (p *pathChange) replacePrefix(path string) string {
	for i := range p.prefixes {
		m := &p.prefixes[i]
		rest, ok := cutPrefix(path, m.Value, m.IgnoreCase)
		switch {
		case !ok:
		case rest == "" || rest[0] == '/':
			if rest = p.prefix + rest; rest == "" {
				return "/"
			}
			return rest
		case m.Type == PathStart:
			return p.start + rest
		}
	}
	return path
}

// cutPrefix takes prefix, which is in the form of gatemesh.MatchForm, off path,
// which may have escaped what prefix has not.
func cutPrefix(path, prefix string, ignoreCase bool) (rest string, ok bool) {
	for prefix != "" {
		if path == "" {
			return "", false
		}
		n := 1
		if path[0] == '%' && len(path) >= 3 {
			n = 3
		}
		one := gatemesh.MatchForm(path[:n])
		if len(prefix) < len(one) {
			return "", false
		}
		if have := prefix[:len(one)]; have != one && !(ignoreCase && strings.EqualFold(have, one)) {
			return "", false
		}
		path, prefix = path[n:], prefix[len(one):]
	}
	return path, true
}

// find returns where the regular expression matches, unless it would take too
// long to find out: each search may go through all that remains of the path.
func (p *pathChange) find(path string) ([][]int, *gatemesh.Denial) {
	searches := maxPathWork / (p.cost * len(path))
	if searches == 0 || len(path) > maxRegexPath {
		return nil, denyLongPath
	}
	found := p.regex.FindAllStringSubmatchIndex(path, searches)
	if len(found) == searches {
		return nil, denyRewritten.WithCause(errManyMatches)
	}
	return found, nil
}

func (p *pathChange) substitute(path string, found [][]int) string {
	var b strings.Builder
	end := 0
	for _, at := range found {
		b.WriteString(path[end:at[0]])
		for _, s := range p.parts {
			switch {
			case s.group < 0:
				b.WriteString(s.text)
			case at[2*s.group] >= 0:
				b.WriteString(path[at[2*s.group]:at[2*s.group+1]])
			}
		}
		if end = at[1]; b.Len() > 2*maxRegexPath {
			break // apply refuses it
		}
	}
	b.WriteString(path[end:])
	return b.String()
}

// pathChange compiles a PathChange of the rule r.
func (f *faults) pathChange(at gatemesh.Position, field string, in *PathChange, r *Route) *pathChange {
	kinds := 0
	for _, set := range [...]bool{in.Full != "", in.ReplacePrefix, in.Regex != ""} {
		if set {
			kinds++
		}
	}
	p := &pathChange{}
	if kinds > 1 {
		f.add(at, "%s: Full, ReplacePrefix and Regex exclude one another", field)
	}
	if in.Prefix != "" && !in.ReplacePrefix {
		f.add(at, "%s.Prefix needs ReplacePrefix", field)
	}
	if in.Substitution != "" && in.Regex == "" {
		f.add(at, "%s.Substitution needs Regex", field)
	}
	if kinds != 1 {
		return nil
	}
	switch {
	case in.Full != "":
		p.full = f.pathText(at, field+".Full", in.Full)
	case in.ReplacePrefix:
		p.start = "/"
		if in.Prefix != "" {
			p.start = f.pathText(at, field+".Prefix", in.Prefix)
		}
		p.prefix = strings.TrimSuffix(p.start, "/")
		p.prefixes = f.prefixes(at, field+".ReplacePrefix", r)
	default:
		var err error
		if p.regex, p.cost, err = match.CompileSearch(in.Regex); err != nil {
			f.add(at, "%s.Regex %q: %w", field, in.Regex, err)
			return nil
		}
		p.parts = f.substitution(at, field+".Substitution", in.Substitution, p.regex.NumSubexp())
	}
	texts := p.full + p.start + in.Substitution
	p.escapes = gatemesh.PathOptions{
		KeepEncodedSlash:   strings.Contains(strings.ToUpper(texts), "%2F"),
		KeepPathParameters: hasParameter(strings.ToUpper(texts)),
	}
	return p
}

// pathText returns a configured path in canonical form.
func (f *faults) pathText(at gatemesh.Position, field, path string) string {
	canonical, err := gatemesh.CanonicalPath(path, gatemesh.PathOptions{KeepEncodedSlash: true, KeepPathParameters: true})
	if err != nil {
		f.add(at, "%s %q: %w", field, path, err)
		return "/"
	}
	return canonical
}

// prefixes returns what the matches of r may have matched, longest first and
// without the last slash.
func (f *faults) prefixes(at gatemesh.Position, field string, r *Route) []PathMatch {
	found := []PathMatch{}
	for i := range r.Matches {
		m := r.Matches[i].Path
		if m.Type != PathPrefix && m.Type != PathStart {
			f.add(at, "%s needs matches for the prefix of a path; Matches[%d] is another one", field, i)
			continue
		}
		if m.Value == "" {
			m.Value = "/"
		}
		// Where it is no path, that is said of the match itself.
		canonical, _ := gatemesh.CanonicalPath(m.Value, gatemesh.PathOptions{KeepEncodedSlash: true, KeepPathParameters: true})
		m.Value = strings.TrimSuffix(gatemesh.MatchForm(canonical), "/")
		found = append(found, m)
	}
	if len(r.Matches) == 0 {
		found = append(found, PathMatch{}) // the default, "/"
	}
	slices.SortStableFunc(found, func(a, b PathMatch) int { return len(b.Value) - len(a.Value) })
	return found
}

// substitution splits a text with \0 to \9 and \\ into parts.
func (f *faults) substitution(at gatemesh.Position, field, text string, groups int) (parts []part) {
	for text != "" {
		i := strings.IndexByte(text, '\\')
		if i < 0 {
			return append(parts, part{text, -1})
		}
		if i > 0 {
			parts = append(parts, part{text[:i], -1})
		}
		if i+1 == len(text) {
			f.add(at, "%s ends with a backslash", field)
			return parts
		}
		switch c := text[i+1]; {
		case c == '\\':
			parts = append(parts, part{`\`, -1})
		case c < '0' || c > '9':
			f.add(at, "%s: \\%c is neither a group nor a backslash", field, c)
		case int(c-'0') > groups:
			f.add(at, "%s: the regular expression has %d groups and no \\%c", field, groups, c)
		default:
			parts = append(parts, part{"", int(c - '0')})
		}
		text = text[i+2:]
	}
	return parts
}
