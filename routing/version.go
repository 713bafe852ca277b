package routing

import (
	"fmt"
	"net/http"
	"net/textproto"
	"slices"
	"strings"

	"github.com/gatemesh-go/gatemesh"
)

// Versioning says where calls name the version of an API that they want, for
// [Match.Version]. Its zero value is invalid: Versions and at least one of Path,
// Header, Vendor and Parameter are required. A version is never taken from the
// query.
//
// A call that names a version that is not among Versions is refused: with 404 if
// the path names it, 400 if a header field does, and 406 if the media type does.
// So is, with 400, one that names two. Answers that depend on a header field say
// so in Vary.
type Versioning struct {
	// Position is where it was written, for errors. Default: unknown.
	Position gatemesh.Position
	// Hostnames and Prefix, a path of whole segments, say for which calls it
	// holds. Of several the first counts. Default: all hosts, all paths.
	Hostnames []string
	Prefix    string
	// Path is the segment behind Prefix: v2 in /api/v2/users for the Prefix
	// /api. A segment that has not the form of any of Versions, where numbers are
	// alike, names no version.
	Path bool
	// StripPath takes that segment off what is sent on, unless a [Rewrite]
	// changes the path. Default: the upstream sees it.
	StripPath bool
	// Header is the name of a header field, such as "X-Api-Version". Default: none.
	Header string
	// Vendor is that of media types in Accept (RFC 6838 §3.2): "acme" finds v2 in
	// application/vnd.acme.v2+json. Default: none.
	Vendor string
	// Parameter is that of media types in Accept: "version" finds v2 in
	// application/json; version=v2. Default: none.
	Parameter string
	// Versions are those that there are. Required.
	Versions []APIVersion
	// Default is the version of calls that name none. It must be among Versions.
	// Default: they have none, and belong to matches without a Version.
	Default string
}

// APIVersion is one of the versions of an API. Its zero value is invalid.
type APIVersion struct {
	// Name is letters, digits, ".", "_" and "-", such as "v2" or "2026-01". It is
	// compared byte for byte, but in media types without regard to case. Required.
	Name string
	// Lifecycle announces the end of the version, unless the route that a call
	// takes has its own. Default: none.
	Lifecycle *Lifecycle
}

var (
	denyVersionPath   = gatemesh.Deny(gatemesh.NotFound, "version_unknown", "The API has no such version.")
	denyVersionHeader = gatemesh.Deny(gatemesh.InvalidArgument, "version_unknown", "The API has no such version.")
	denyVersionMedia  = &gatemesh.Denial{
		Code: gatemesh.InvalidArgument, Status: http.StatusNotAcceptable,
		Reason: "version_unknown", Detail: "The API has no such version.",
	}
	denyVersions = gatemesh.Deny(gatemesh.InvalidArgument, "version_ambiguous", "The request names two different versions of the API.")
)

// versioning is a compiled Versioning.
type versioning struct {
	hostnames []string // "" is every host
	prefix    string   // in the form of gatemesh.MatchForm, without the last slash
	path      bool
	strip     bool
	header    string
	vendor    string // with the tree and the last dot
	parameter string
	known     []*apiVersion
	unnamed   *apiVersion // of calls that name none
}

// apiVersion is a compiled APIVersion. nil is no version.
type apiVersion struct {
	name      string
	lifecycle *lifecycle
	vary      []gatemesh.Field
	fields    []gatemesh.Field // vary and those of the lifecycle
}

// String returns the name, "" of nil.
func (v *apiVersion) String() string {
	if v == nil {
		return ""
	}
	return v.name
}

func (v *apiVersion) announces() []gatemesh.Field {
	if v == nil {
		return nil
	}
	return v.fields
}

// version returns the API version that c asks for, nil if none is named or
// nobody has said where it would be, or why the call cannot be served.
func (t *table) version(c *gatemesh.Call) (*apiVersion, *gatemesh.Denial) {
	if v, rest := t.versioningOf(c); v != nil {
		return v.of(c, rest)
	}
	return nil, nil
}

// versioningOf returns the first that holds for c, and what follows its prefix
// in the path.
func (t *table) versioningOf(c *gatemesh.Call) (v *versioning, rest string) {
	for _, v := range t.versions {
		if rest, ok := cutPrefix(c.Path(), v.prefix, false); ok && (rest == "" || rest[0] == '/') && v.serves(c.Host()) {
			return v, rest
		}
	}
	return nil, ""
}

func (v *versioning) serves(host string) bool {
	for _, h := range v.hostnames {
		if suffix, wild := strings.CutPrefix(h, "*"); h == "" || h == host || wild && strings.HasSuffix(host, suffix) {
			return true
		}
	}
	return false
}

func (v *versioning) of(c *gatemesh.Call, rest string) (found *apiVersion, denial *gatemesh.Denial) {
	if v.path {
		segment := firstSegment(rest)
		if found = v.find(segment); found == nil && v.resembles(segment) {
			return nil, denyVersionPath
		}
	}
	h := c.Header()
	if v.header != "" {
		for i := range h.Count(v.header) {
			if found, denial = v.another(found, v.find(strings.Trim(h.At(v.header, i), " \t")), denyVersionHeader); denial != nil {
				return nil, denial
			}
		}
	}
	if v.vendor != "" || v.parameter != "" {
		for i := range h.Count("Accept") {
			for list := h.At("Accept", i); list != ""; {
				var media string
				media, list = cutUnquoted(list, ',')
				if found, denial = v.ofMedia(found, media); denial != nil {
					return nil, denial
				}
			}
		}
	}
	if found == nil {
		found = v.unnamed
	}
	return found, nil
}

// another adds a version that was named to the one that was before.
func (v *versioning) another(before, named *apiVersion, unknown *gatemesh.Denial) (*apiVersion, *gatemesh.Denial) {
	switch {
	case named == nil:
		return nil, unknown
	case before != nil && before != named:
		return nil, denyVersions
	}
	return named, nil
}

// ofMedia adds what a media range of Accept names, such as
// application/vnd.acme.v2+json;q=0.5.
func (v *versioning) ofMedia(found *apiVersion, media string) (_ *apiVersion, denial *gatemesh.Denial) {
	name, parameters := cutUnquoted(media, ';')
	name = strings.Trim(name, " \t")
	if refused(parameters) {
		return found, nil
	}
	if v.vendor != "" && len(name) > len(v.vendor) && strings.EqualFold(name[:len(v.vendor)], v.vendor) {
		version, _, _ := strings.Cut(name[len(v.vendor):], "+")
		if k := v.findFold(version); k != nil || v.resembles(version) {
			if found, denial = v.another(found, k, denyVersionMedia); denial != nil {
				return nil, denial
			}
		}
	}
	for parameters != "" {
		var p string
		p, parameters = cutUnquoted(parameters, ';')
		name, value := parameter(p)
		if v.parameter != "" && strings.EqualFold(name, v.parameter) {
			if found, denial = v.another(found, v.findFold(value), denyVersionMedia); denial != nil {
				return nil, denial
			}
		}
	}
	return found, nil
}

// refused reports whether a media range is not acceptable (RFC 9110 §12.4.2), so
// that nobody asks for what it names.
func refused(parameters string) bool {
	for parameters != "" {
		var p string
		p, parameters = cutUnquoted(parameters, ';')
		if name, value := parameter(p); strings.EqualFold(name, "q") && strings.Trim(value, "0.") == "" {
			return true
		}
	}
	return false
}

func parameter(p string) (name, value string) {
	name, value, _ = strings.Cut(p, "=")
	value = strings.Trim(value, " \t")
	if len(value) >= 2 && value[0] == '"' {
		value = strings.Trim(value, `"`)
	}
	return strings.Trim(name, " \t"), value
}

// cutUnquoted cuts s at the first sep that stands outside of a quoted string.
func cutUnquoted(s string, sep byte) (before, after string) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			quoted = !quoted
		case quoted && s[i] == '\\':
			i++
		case !quoted && s[i] == sep:
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

func firstSegment(rest string) string {
	segment, _, _ := strings.Cut(strings.TrimPrefix(rest, "/"), "/")
	return segment
}

func (v *versioning) find(name string) *apiVersion {
	for _, k := range v.known {
		if k.name == name {
			return k
		}
	}
	return nil
}

func (v *versioning) findFold(name string) *apiVersion {
	for _, k := range v.known {
		if strings.EqualFold(k.name, name) {
			return k
		}
	}
	return nil
}

// resembles reports whether name has the form of a version: it is the name of
// one but for the numbers.
func (v *versioning) resembles(name string) bool {
	return slices.ContainsFunc(v.known, func(k *apiVersion) bool { return sameForm(k.name, name) })
}

func sameForm(a, b string) bool {
	numbers := false
	for a != "" && b != "" {
		restA, restB := strings.TrimLeft(a, "0123456789"), strings.TrimLeft(b, "0123456789")
		if (len(restA) == len(a)) != (len(restB) == len(b)) {
			return false
		}
		numbers = numbers || len(restA) < len(a)
		if a, b = restA, restB; a == "" || b == "" {
			break
		}
		if a[0]|0x20 != b[0]|0x20 {
			return false
		}
		a, b = a[1:], b[1:]
	}
	return a == b && numbers
}

// stripped returns the path of c without the segment that names its version, if
// that is to be taken off.
func (t *table) stripped(c *gatemesh.Call) string {
	path := c.Path()
	v, rest := t.versioningOf(c)
	if v == nil || !v.strip {
		return path
	}
	segment := firstSegment(rest)
	if v.find(segment) == nil {
		return path
	}
	if path = path[:len(path)-len(rest)] + rest[1+len(segment):]; path == "" {
		return "/"
	}
	return path
}

func (f *faults) versionings(in []Versioning) []*versioning {
	var all []*versioning
	for i := range in {
		all = append(all, f.versioning(&in[i], fmt.Sprintf("Config.Versions[%d]", i)))
	}
	return all
}

func (f *faults) versioning(in *Versioning, field string) *versioning {
	at := in.Position
	v := &versioning{
		hostnames: f.hostnames(&Route{Position: at, Hostnames: in.Hostnames}, field),
		path:      in.Path, strip: in.StripPath,
		header: textproto.CanonicalMIMEHeaderKey(in.Header), parameter: in.Parameter,
	}
	if in.Prefix != "" {
		v.prefix = strings.TrimSuffix(gatemesh.MatchForm(f.pathText(at, field+".Prefix", in.Prefix)), "/")
	}
	if !in.Path && in.Header == "" && in.Vendor == "" && in.Parameter == "" {
		f.add(at, "%s needs Path, Header, Vendor or Parameter", field)
	}
	if in.StripPath && !in.Path {
		f.add(at, "%s.StripPath needs Path", field)
	}
	var vary []string
	if in.Header != "" {
		_, ok := untouchable[fold(in.Header)]
		switch {
		case !validFieldName(in.Header):
			f.add(at, "%s.Header %q is not the name of a header field", field, in.Header)
		case ok || gatemesh.CarriesIdentity(in.Header):
			f.add(at, "%s.Header %s cannot name a version", field, in.Header)
		}
		vary = append(vary, v.header)
	}
	if in.Vendor != "" {
		if v.vendor = "application/vnd." + in.Vendor + "."; !validFieldName(in.Vendor) {
			f.add(at, "%s.Vendor %q is not a part of a media type", field, in.Vendor)
		}
	}
	if in.Parameter != "" && (!validFieldName(in.Parameter) || strings.EqualFold(in.Parameter, "q")) {
		f.add(at, "%s.Parameter %q is not the name of a parameter, or that of the weight", field, in.Parameter)
	}
	if in.Vendor != "" || in.Parameter != "" {
		vary = append(vary, "Accept")
	}
	v.unnamed = &apiVersion{}
	if vary != nil {
		v.unnamed.vary = []gatemesh.Field{{Name: "Vary", Value: strings.Join(vary, ", ")}}
		v.unnamed.fields = v.unnamed.vary
	}
	if len(in.Versions) == 0 {
		f.add(at, "%s.Versions is required", field)
	}
	for i := range in.Versions {
		f.apiVersion(at, fmt.Sprintf("%s.Versions[%d]", field, i), &in.Versions[i], v)
	}
	if in.Default != "" {
		if v.unnamed = v.find(in.Default); v.unnamed == nil {
			f.add(at, "%s.Default %q is not among Versions", field, in.Default)
		}
	}
	return v
}

func (f *faults) apiVersion(at gatemesh.Position, field string, in *APIVersion, v *versioning) {
	k := &apiVersion{name: in.Name, vary: v.unnamed.vary}
	switch {
	case in.Name == "":
		f.add(at, "%s.Name is required", field)
	case strings.Trim(in.Name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != "" || strings.Trim(in.Name, ".") == "":
		f.add(at, "%s.Name %q has other characters than letters, digits, \".\", \"_\" and \"-\"", field, in.Name)
	case v.findFold(in.Name) != nil:
		f.add(at, "%s.Name %q is taken by an earlier version", field, in.Name)
	}
	if in.Lifecycle != nil {
		k.lifecycle = f.lifecycle(at, field+".Lifecycle", in.Lifecycle)
		k.fields = slices.Concat(k.vary, k.lifecycle.fields)
	} else {
		k.fields = k.vary
	}
	v.known = append(v.known, k)
}
