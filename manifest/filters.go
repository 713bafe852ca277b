package manifest

import (
	"strings"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/routing"
)

// httpFilter is a filter of a rule of an HTTPRoute.
type httpFilter struct {
	mark            `refused:"extensionRef externalAuth" why:"extensionRef=no other kinds of filter are known; externalAuth=an AuthorizationPolicy with action CUSTOM asks others; type=see the field of this name"`
	Type            text           `json:"type" check:"required enum=RequestHeaderModifier|ResponseHeaderModifier|RequestRedirect|URLRewrite|RequestMirror|CORS not=ExtensionRef|ExternalAuth"`
	RequestHeader   headerModifier `json:"requestHeaderModifier"`
	ResponseHeader  headerModifier `json:"responseHeaderModifier"`
	RequestRedirect redirectFilter `json:"requestRedirect"`
	URLRewrite      rewriteFilter  `json:"urlRewrite"`
	RequestMirror   mirrorFilter   `json:"requestMirror"`
	CORS            corsFilter     `json:"cors"`
}

// backendFilter is a filter of a backend of an HTTPRoute.
type backendFilter struct {
	mark           `refused:"extensionRef externalAuth requestRedirect cors" why:"extensionRef=no other kinds of filter are known; externalAuth=an AuthorizationPolicy with action CUSTOM asks others; requestRedirect=a redirect has no backend, so that it is a filter of the rule; cors=which page may call is not up to the backend, so that it is a filter of the rule; type=see the field of this name"`
	Type           text           `json:"type" check:"required enum=RequestHeaderModifier|ResponseHeaderModifier|URLRewrite|RequestMirror not=RequestRedirect|CORS|ExtensionRef|ExternalAuth"`
	RequestHeader  headerModifier `json:"requestHeaderModifier"`
	ResponseHeader headerModifier `json:"responseHeaderModifier"`
	URLRewrite     rewriteFilter  `json:"urlRewrite"`
	RequestMirror  mirrorFilter   `json:"requestMirror"`
}

// grpcFilter is a filter of a rule or a backend of a GRPCRoute.
type grpcFilter struct {
	mark           `refused:"extensionRef" why:"extensionRef=no other kinds of filter are known; type=see the field of this name"`
	Type           text           `json:"type" check:"required enum=RequestHeaderModifier|ResponseHeaderModifier|RequestMirror not=ExtensionRef"`
	RequestHeader  headerModifier `json:"requestHeaderModifier"`
	ResponseHeader headerModifier `json:"responseHeaderModifier"`
	RequestMirror  mirrorFilter   `json:"requestMirror"`
}

// headerModifier changes the fields of a header, each at most once.
type headerModifier struct {
	mark
	Set    []headerField `json:"set" check:"items=16"`
	Add    []headerField `json:"add" check:"items=16"`
	Remove []text        `json:"remove" check:"items=16 len=256 format=field"`
}

type headerField struct {
	mark
	Name  text `json:"name" check:"required len=256 format=field"`
	Value text `json:"value" check:"required len=4096 format=value"`
}

type redirectFilter struct {
	mark
	Scheme     text         `json:"scheme" check:"enum=http|https"`
	Hostname   text         `json:"hostname" check:"format=host"`
	Path       pathModifier `json:"path"`
	Port       number       `json:"port" check:"min=1 max=65535"`
	StatusCode number       `json:"statusCode" check:"enum=301|302|303|307|308"`
}

type rewriteFilter struct {
	mark
	Hostname text         `json:"hostname" check:"format=host"`
	Path     pathModifier `json:"path"`
}

type pathModifier struct {
	mark
	Type               text `json:"type" check:"required enum=ReplaceFullPath|ReplacePrefixMatch"`
	ReplaceFullPath    text `json:"replaceFullPath" check:"len=1024 format=path"`
	ReplacePrefixMatch text `json:"replacePrefixMatch" check:"empty len=1024 format=path"`
}

type mirrorFilter struct {
	mark
	BackendRef backendObject `json:"backendRef" check:"required"`
	Percent    number        `json:"percent" check:"max=100"`
	Fraction   fraction      `json:"fraction"`
}

type fraction struct {
	mark
	Numerator   number `json:"numerator" check:"required max=2147483647"`
	Denominator number `json:"denominator" check:"min=1 max=2147483647"`
}

type corsFilter struct {
	mark
	AllowOrigins     []text  `json:"allowOrigins" check:"required items=64 len=253 format=origin"`
	AllowCredentials boolean `json:"allowCredentials"`
	AllowMethods     []text  `json:"allowMethods" check:"items=9 enum=GET|HEAD|POST|PUT|DELETE|CONNECT|OPTIONS|TRACE|PATCH|*"`
	AllowHeaders     []text  `json:"allowHeaders" check:"items=64 len=256 format=token"`
	ExposeHeaders    []text  `json:"exposeHeaders" check:"items=64 len=256 format=token"`
	MaxAge           number  `json:"maxAge" check:"min=1 max=2147483647"`
}

// backendObject is the Service that calls are for.
type backendObject struct {
	mark      `why:"kind=it is not read"`
	Group     text   `json:"group" check:"empty"`
	Kind      text   `json:"kind" check:"enum=Service not=ServiceImport"`
	Name      text   `json:"name" check:"required format=label"`
	Namespace text   `json:"namespace" check:"format=label"`
	Port      number `json:"port" check:"required min=1 max=65535"`
}

func (b *backendObject) check(s scope) { checkServiceGroup(s, &b.Group) }

func checkServiceGroup(s scope, group *text) {
	if group.V != "" {
		s.fault(group.mark, "%s is not supported by gatemesh; a backend is a Service, whose group is \"\"", quote(group.V))
	}
}

func (h *headerModifier) check(s scope) {
	if h.Set == nil && h.Add == nil && h.Remove == nil {
		s.fault(h.mark, "changes nothing; leave it out")
	}
	seen := make(names)
	once := func(name *text) {
		if first, twice := seen.first(strings.ToLower(name.V), name.mark); twice {
			s.fault(name.mark, "%s is changed by %s already", name.V, first.path)
		}
	}
	for i := range h.Set {
		once(&h.Set[i].Name)
	}
	for i := range h.Add {
		once(&h.Add[i].Name)
	}
	for i := range h.Remove {
		once(&h.Remove[i])
	}
}

func (p *pathModifier) check(s scope) {
	full, prefix := &p.ReplaceFullPath, &p.ReplacePrefixMatch
	if p.Type.V == "ReplacePrefixMatch" {
		full, prefix = prefix, full
	}
	if !full.present() {
		s.fault(p.mark, "must have the value for type %s", p.Type.V)
	}
	if prefix.present() {
		s.fault(prefix.mark, "does not go with type %s", p.Type.V)
	}
}

func (r *rewriteFilter) check(s scope) {
	if !r.Hostname.present() && !r.Path.present() {
		s.fault(r.mark, "changes nothing; leave it out")
	}
}

func (m *mirrorFilter) check(s scope) {
	if m.Percent.present() && m.Fraction.present() {
		s.fault(m.Fraction.mark, "percent says it already; leave out either")
	}
}

func (f *fraction) check(s scope) {
	if f.Numerator.V > f.denominator() {
		s.fault(f.Numerator.mark, "%d is more than the denominator, %d", f.Numerator.V, f.denominator())
	}
}

func (f *fraction) denominator() int64 {
	if f.Denominator.present() {
		return f.Denominator.V
	}
	return 100
}

func (c *corsFilter) check(s scope) {
	for _, list := range [][]text{c.AllowOrigins, c.AllowMethods, c.AllowHeaders, c.ExposeHeaders} {
		seen := make(names)
		for i := range list {
			if list[i].V == "*" && len(list) > 1 {
				s.fault(list[i].mark, "* is everything and cannot stand beside others")
			}
			if first, twice := seen.first(list[i].V, list[i].mark); twice {
				s.fault(list[i].mark, "is %s already", first.path)
			}
		}
	}
}

// filter is a filter of whatever kind of route. What its type has not, is nil.
type filter struct {
	mark
	kind              string
	request, response *headerModifier
	redirect          *redirectFilter
	rewrite           *rewriteFilter
	mirror            *mirrorFilter
	cors              *corsFilter
}

func (f *httpFilter) filter() filter {
	return filter{f.mark, f.Type.V, &f.RequestHeader, &f.ResponseHeader, &f.RequestRedirect, &f.URLRewrite, &f.RequestMirror, &f.CORS}
}

func (f *backendFilter) filter() filter {
	return filter{f.mark, f.Type.V, &f.RequestHeader, &f.ResponseHeader, nil, &f.URLRewrite, &f.RequestMirror, nil}
}

func (f *grpcFilter) filter() filter {
	return filter{f.mark, f.Type.V, &f.RequestHeader, &f.ResponseHeader, nil, nil, &f.RequestMirror, nil}
}

func (f *httpFilter) check(s scope)    { f.filter().check(s) }
func (f *backendFilter) check(s scope) { f.filter().check(s) }
func (f *grpcFilter) check(s scope)    { f.filter().check(s) }

// check reports a filter that has not the member that its type says, or others.
func (f filter) check(s scope) {
	for _, m := range []struct{ kind, name string }{
		{"RequestHeaderModifier", "requestHeaderModifier"}, {"ResponseHeaderModifier", "responseHeaderModifier"},
		{"RequestRedirect", "requestRedirect"}, {"URLRewrite", "urlRewrite"}, {"RequestMirror", "requestMirror"}, {"CORS", "cors"},
	} {
		at := f.member(m.kind)
		if m.kind == f.kind && !at.present() {
			s.fault(f.sub(m.name), "is required for type %s", f.kind)
		}
		if m.kind != f.kind && at.present() {
			s.fault(at, "does not go with type %s", f.kind)
		}
	}
}

// member is where the part of f for a type of filter stands.
func (f filter) member(kind string) mark {
	switch {
	case kind == "RequestHeaderModifier":
		return f.request.mark
	case kind == "ResponseHeaderModifier":
		return f.response.mark
	case kind == "RequestMirror":
		return f.mirror.mark
	case kind == "RequestRedirect" && f.redirect != nil:
		return f.redirect.mark
	case kind == "URLRewrite" && f.rewrite != nil:
		return f.rewrite.mark
	case kind == "CORS" && f.cors != nil:
		return f.cors.mark
	}
	return mark{}
}

// listed is a list of filters that stand together.
func listed[T any, P interface {
	*T
	filter() filter
}](list []T) []filter {
	out := make([]filter, 0, len(list))
	for i := range list {
		out = append(out, P(&list[i]).filter())
	}
	return out
}

// checkFilters reports filters that cannot stand together.
func checkFilters(s scope, list []filter) {
	seen := make(names)
	for _, f := range list {
		if f.kind == "RequestMirror" {
			continue
		}
		if first, twice := seen.first(f.kind, f.mark); twice {
			s.fault(f.mark, "%s is the type of %s already", f.kind, first.path)
		}
		if (f.kind == "URLRewrite" && seen["RequestRedirect"].present()) || (f.kind == "RequestRedirect" && seen["URLRewrite"].present()) {
			s.fault(f.mark, "a redirect and a rewrite cannot stand together")
		}
	}
}

// prefixChange is where list replaces the prefix that was matched, or absent.
func prefixChange(list []filter) mark {
	for _, f := range list {
		if f.redirect != nil && f.redirect.Path.Type.V == "ReplacePrefixMatch" {
			return f.redirect.Path.mark
		}
		if f.rewrite != nil && f.rewrite.Path.Type.V == "ReplacePrefixMatch" {
			return f.rewrite.Path.mark
		}
	}
	return mark{}
}

// filtersOf returns what a list of filters in a namespace does.
func filtersOf(list []filter, namespace string) (out routing.Filters) {
	for _, f := range list {
		switch f.kind {
		case "RequestHeaderModifier":
			out.RequestHeader = f.request.routing()
		case "ResponseHeaderModifier":
			out.ResponseHeader = f.response.routing()
		case "RequestRedirect":
			r := f.redirect
			out.Redirect = &routing.Redirect{
				Scheme: r.Scheme.V, Hostname: r.Hostname.V, Port: uint16(r.Port.V), Path: r.Path.routing(), Status: int(r.StatusCode.V),
			}
		case "URLRewrite":
			out.Rewrite = &routing.Rewrite{Hostname: f.rewrite.Hostname.V, Path: f.rewrite.Path.routing()}
		case "RequestMirror":
			out.Mirrors = append(out.Mirrors, f.mirror.routing(namespace))
		case "CORS":
			out.CORS = f.cors.routing()
		}
	}
	return out
}

func (h *headerModifier) routing() (out routing.HeaderChange) {
	for _, f := range h.Set {
		out.Set = append(out.Set, gatemesh.Field{Name: f.Name.V, Value: f.Value.V})
	}
	for _, f := range h.Add {
		out.Add = append(out.Add, gatemesh.Field{Name: f.Name.V, Value: f.Value.V})
	}
	out.Remove = strs(h.Remove)
	return out
}

// strs returns the values of a list, nil if there are none.
func strs(list []text) (out []string) {
	for _, t := range list {
		out = append(out, t.V)
	}
	return out
}

func (p *pathModifier) routing() routing.PathChange {
	switch p.Type.V {
	case "ReplaceFullPath":
		return routing.PathChange{Full: p.ReplaceFullPath.V}
	case "ReplacePrefixMatch":
		return routing.PathChange{ReplacePrefix: true, Prefix: p.ReplacePrefixMatch.V}
	}
	return routing.PathChange{}
}

func (m *mirrorFilter) routing(namespace string) routing.Mirror {
	out := routing.Mirror{Destination: m.BackendRef.destination(namespace)}
	switch {
	case m.Percent.present():
		out.Numerator, out.Denominator = uint32(m.Percent.V), 100
	case m.Fraction.present():
		out.Numerator, out.Denominator = uint32(m.Fraction.Numerator.V), uint32(m.Fraction.denominator())
	}
	return out
}

func (b *backendObject) destination(namespace string) gatemesh.Destination {
	if b.Namespace.present() {
		namespace = b.Namespace.V
	}
	return gatemesh.Destination{Service: b.Name.V, Namespace: namespace, Port: uint16(b.Port.V)}
}

func (c *corsFilter) routing() *routing.CORS {
	out := &routing.CORS{
		AllowOrigins: strs(c.AllowOrigins), AllowMethods: strs(c.AllowMethods), AllowHeaders: strs(c.AllowHeaders),
		ExposeHeaders: strs(c.ExposeHeaders), AllowCredentials: c.AllowCredentials.V, MaxAge: defaultMaxAge,
	}
	if c.MaxAge.present() {
		out.MaxAge = time.Duration(c.MaxAge.V) * time.Second
	}
	return out
}

// defaultMaxAge is that of the CRD.
const defaultMaxAge = 5 * time.Second
