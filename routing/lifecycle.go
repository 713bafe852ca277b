package routing

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

var denyGone = &gatemesh.Denial{
	Code: gatemesh.NotFound, Status: http.StatusGone,
	Reason: "gone", Detail: "This is not served any more.",
}

// lifecycle is a compiled Lifecycle. nil announces nothing.
type lifecycle struct {
	fields []gatemesh.Field
	end    time.Time // zero is never
}

func (l *lifecycle) gone(now time.Time) bool {
	return l != nil && !l.end.IsZero() && !now.Before(l.end)
}

func (f *faults) lifecycle(at gatemesh.Position, field string, in *Lifecycle) *lifecycle {
	l := &lifecycle{}
	if *in == (Lifecycle{}) {
		f.add(at, "%s announces nothing", field)
	}
	relation := "sunset"
	if !in.Deprecated.IsZero() {
		relation = "deprecation"
		// A date of structured fields, RFC 9651 §3.3.7.
		l.fields = append(l.fields, gatemesh.Field{Name: "Deprecation", Value: "@" + strconv.FormatInt(in.Deprecated.Unix(), 10)})
	}
	if !in.Sunset.IsZero() {
		if in.Sunset.Before(in.Deprecated) { // RFC 9745 §4
			f.add(at, "%s.Sunset must not be before Deprecated", field)
		}
		l.fields = append(l.fields, gatemesh.Field{Name: "Sunset", Value: in.Sunset.UTC().Format(http.TimeFormat)})
	}
	if in.Link != "" {
		if in.Deprecated.IsZero() && in.Sunset.IsZero() {
			f.add(at, "%s.Link needs Deprecated or Sunset", field)
		}
		l.fields = append(l.fields, f.link(at, field+".Link", in.Link, relation))
	}
	if in.Successor != "" {
		l.fields = append(l.fields, f.link(at, field+".Successor", in.Successor, "successor-version"))
	}
	if in.GoneAfterSunset {
		if l.end = in.Sunset; in.Sunset.IsZero() {
			f.add(at, "%s.GoneAfterSunset needs Sunset", field)
		}
	}
	return l
}

// announce puts the fields of l on the answer that w writes.
func announce(w http.ResponseWriter, l *lifecycle) {
	out, ok := gatemesh.Writer(w)
	if !ok { // there is a Call, which only a chain makes
		return
	}
	out.Before(func(_ int, h http.Header) {
		for _, f := range l.fields {
			if f.Name == "Link" {
				h.Add(f.Name, f.Value)
			} else {
				h.Set(f.Name, f.Value)
			}
		}
	})
}

// link returns a field of RFC 8288 §3.
func (f *faults) link(at gatemesh.Position, field, target, relation string) gatemesh.Field {
	u, err := url.Parse(target)
	if err != nil || strings.ContainsFunc(target, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(`<>"\^{|}`+"`", r) }) ||
		!(u.Scheme == "https" || u.Scheme == "http") && !strings.HasPrefix(target, "/") || u.User != nil {
		f.add(at, "%s is not a URL with http or https, nor a path", field)
	}
	return gatemesh.Field{Name: "Link", Value: "<" + target + `>; rel="` + relation + `"`}
}

// announced returns the response fields of calls of that version by a rule with
// these filters. If both have a lifecycle, that of the rule holds.
func announced(v *apiVersion, f *filters) []gatemesh.Field {
	switch {
	case f == nil || f.lifecycle == nil:
		return v.announces()
	case v == nil || v.vary == nil:
		return f.lifecycle.fields
	}
	return slices.Concat(v.vary, f.lifecycle.fields)
}
