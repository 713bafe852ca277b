package routing

import (
	"fmt"
	"net/textproto"
	"strings"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/internal/match"
)

// compiledMatch is a valid Match.
type compiledMatch struct {
	path       compiledPath
	conditions *conditions
}

// matches returns the valid matches of a route.
func (f *faults) matches(in *Route, at gatemesh.Position, field string) []compiledMatch {
	all := in.Matches
	if len(all) == 0 {
		all = []Match{{}}
	}
	valid := make([]compiledMatch, 0, len(all))
	for i := range all {
		before := len(f.errs)
		field := fmt.Sprintf("%s.Matches[%d]", field, i)
		m := compiledMatch{f.path(at, field+".Path", all[i].Path), f.conditions(at, field, &all[i])}
		if len(f.errs) == before {
			valid = append(valid, m)
		}
	}
	return valid
}

func (f *faults) path(at gatemesh.Position, field string, in PathMatch) compiledPath {
	out := compiledPath{kind: in.Type, foldCase: in.IgnoreCase}
	switch {
	case in.Type > PathRegex:
		f.add(at, "%s.Type %d is unknown", field, in.Type)
		return out
	case in.Type == PathRegex && in.Value == "":
		f.add(at, "%s.Value is required for a regular expression", field)
		return out
	case in.Type == PathRegex:
		var err error
		if out.regex, err = match.Compile(in.Value, in.IgnoreCase); err != nil {
			f.add(at, "%s.Value %q: %w", field, in.Value, err)
			return out
		}
		out.text, out.cost = match.Literal(in.Value, in.IgnoreCase), match.Cost(in.Value, in.IgnoreCase)
		return out
	case in.Value == "":
		in.Value = "/"
	}
	// Whether %2F is data is up to Entry; where it is not, a route with it never
	// matches.
	canonical, err := gatemesh.CanonicalPath(in.Value, gatemesh.PathOptions{KeepEncodedSlash: true, KeepPathParameters: true})
	if err != nil {
		f.add(at, "%s.Value %q: %w", field, in.Value, err)
	}
	out.text = gatemesh.MatchForm(canonical)
	if in.IgnoreCase {
		out.text = match.Lower(out.text)
	}
	if out.kind == PathStart && out.text == "/" {
		out.kind = PathPrefix
	}
	if out.kind == PathPrefix {
		out.text = strings.TrimSuffix(out.text, "/")
	}
	return out
}

func (f *faults) conditions(at gatemesh.Position, field string, in *Match) *conditions {
	if strings.Trim(in.Method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-_") != "" {
		f.add(at, "%s.Method %q must be upper case", field, in.Method)
	}
	if in.Method != "" && in.Methods != nil {
		f.add(at, "%s.Methods must not be set beside Method", field)
	}
	if in.Protocol > gatemesh.GRPC {
		f.add(at, "%s.Protocol %d is unknown", field, in.Protocol)
	}
	if in.Version != "" && len(f.cfg.Versions) == 0 {
		f.add(at, "%s.Version %q is never found: nothing says where versions are", field, in.Version)
	}
	more := moreConditions{
		methods: f.valueAt(at, field+".Methods", in.Methods), scheme: f.valueAt(at, field+".Scheme", in.Scheme),
		authority: f.valueAt(at, field+".Authority", in.Authority),
		protocol:  in.Protocol, port: in.Port, version: in.Version,
	}
	if s := in.Scheme; s != nil && s.Type == MatchExact && s.Value != "http" && s.Value != "https" {
		f.add(at, "%s.Scheme.Value %q is neither http nor https", field, s.Value)
	}
	if in.Authority != nil && in.Authority.Type == MatchExact {
		f.authority(at, field+".Authority", in.Authority.Value)
	}
	out := &conditions{method: in.Method, headers: f.headers(at, field, in.Headers), query: f.query(at, field, in.Query)}
	if more != (moreConditions{}) {
		out.more = &more
	}
	return out
}

// authority refuses what no call has, so that a rule that looks right cannot be
// passed by.
func (f *faults) authority(at gatemesh.Position, field, value string) {
	host, port, err := gatemesh.CanonicalHost(value)
	if strings.IndexByte(host, ':') >= 0 {
		host = "[" + host + "]"
	}
	if port != "" {
		host += ":" + port
	}
	switch {
	case err != nil || value == "":
		f.add(at, "%s.Value %q is not a host with or without a port", field, value)
	case host != value:
		f.add(at, "%s.Value %q must be written %q", field, value, host)
	}
}

func (f *faults) valueAt(at gatemesh.Position, field string, in *ValueMatch) *match.Value {
	if in == nil {
		return nil
	}
	v := f.value(at, field, in.Type, in.Value)
	return &v
}

func (f *faults) value(at gatemesh.Position, field string, t MatchType, value string) match.Value {
	if t > MatchPresent {
		f.add(at, "%s.Type %d is unknown", field, t)
		return match.Value{}
	}
	v, err := match.NewValue(match.Kind(t), value)
	if err != nil {
		f.add(at, "%s.Value %q: %w", field, value, err)
	}
	return v
}

func (f *faults) headers(at gatemesh.Position, field string, in []HeaderMatch) []match.Header {
	type key struct {
		name string
		not  bool
	}
	out, seen := make([]match.Header, 0, len(in)), map[key]bool{}
	for i := range in {
		h, field := &in[i], fmt.Sprintf("%s.Headers[%d]", field, i)
		name := textproto.CanonicalMIMEHeaderKey(h.Name) // as Call.Header looks it up
		switch {
		case name == "":
			f.add(at, "%s.Name is required", field)
		case !validFieldName(name):
			f.add(at, "%s.Name %q is not the name of a header field", field, name)
		case name == "Host":
			f.add(at, "%s.Name is Host; match the host by Hostnames", field)
		case name == "Connection" || gatemesh.CarriesIdentity(name):
			f.add(at, "%s.Name is %s, which no match ever sees", field, name)
		case seen[key{name, h.Not}]:
			f.add(at, "%s.Name %s appears twice in one match", field, name)
		}
		seen[key{name, h.Not}] = true
		out = append(out, match.Header{Name: name, Value: f.value(at, field, h.Type, h.Value), Not: h.Not})
	}
	return out
}

func (f *faults) query(at gatemesh.Position, field string, in []QueryMatch) []match.Parameter {
	out, seen := make([]match.Parameter, 0, len(in)), map[string]bool{}
	for i := range in {
		q, field := &in[i], fmt.Sprintf("%s.Query[%d]", field, i)
		switch {
		case q.Name == "":
			f.add(at, "%s.Name is required", field)
		case seen[q.Name]:
			f.add(at, "%s.Name %q appears twice in one match", field, q.Name)
		}
		seen[q.Name] = true
		out = append(out, match.Parameter{Name: q.Name, Value: f.value(at, field, q.Type, q.Value)})
	}
	return out
}

// validFieldName reports whether name is a token of RFC 9110 §5.6.2.
func validFieldName(name string) bool {
	for i := range len(name) {
		if !tokenByte[name[i]] {
			return false
		}
	}
	return true
}

var tokenByte = func() (t [256]bool) {
	for _, c := range []byte("!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") {
		t[c] = true
	}
	return t
}()
