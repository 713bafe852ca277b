package manifest

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/gatemesh-go/gatemesh"
)

// What a rule of a VirtualService does to calls.
type (
	httpRedirect struct {
		mark         `refused:"derivePort" why:"derivePort=write port; without it, the port is that of scheme, and else that of the call"`
		URI          text   `json:"uri" check:"len=1024 format=path"`
		Authority    text   `json:"authority" check:"format=host"`
		Port         number `json:"port" check:"min=1 max=65535"`
		Scheme       text   `json:"scheme" check:"enum=http|https"`
		RedirectCode number `json:"redirectCode" check:"enum=301|302|303|307|308"`

		PrefixRewrite text `json:"prefixRewrite" check:"len=1024 format=path"`
	}
	directResponse struct {
		mark
		Status number       `json:"status" check:"required min=200 max=599"`
		Body   responseBody `json:"body"`
	}
	responseBody struct {
		mark   `refused:"bytes" why:"bytes=write string"`
		String literal `json:"string" check:"required"`
	}
	httpRewrite struct {
		mark
		URI             text         `json:"uri" check:"len=1024 format=path"`
		Authority       text         `json:"authority" check:"format=host"`
		URIRegexRewrite regexRewrite `json:"uriRegexRewrite"`
	}
	regexRewrite struct {
		mark
		Match   text    `json:"match" check:"required len=1024 format=regex"`
		Rewrite literal `json:"rewrite" check:"required"`
	}
	httpRetries struct {
		mark          `refused:"retryIgnorePreviousHosts retryRemoteLocalities" why:"retryIgnorePreviousHosts=another endpoint is tried first anyway, if there is one; retryRemoteLocalities=it is up to the pool"`
		Attempts      number `json:"attempts" check:"required max=1000"`
		PerTryTimeout span   `json:"perTryTimeout" check:"format=duration"`
		RetryOn       text   `json:"retryOn" check:"len=1024"`
		Backoff       span   `json:"backoff" check:"format=duration"`
	}
	httpFault struct {
		mark
		Delay faultDelay `json:"delay"`
		Abort faultAbort `json:"abort"`
	}
	faultDelay struct {
		mark       `refused:"exponentialDelay percent" why:"exponentialDelay=write fixedDelay; percent=write percentage"`
		FixedDelay span       `json:"fixedDelay" check:"required format=duration"`
		Percentage percentage `json:"percentage" check:"required"`
	}
	faultAbort struct {
		mark       `refused:"http2Error" why:"http2Error=write httpStatus or grpcStatus"`
		HTTPStatus number     `json:"httpStatus" check:"min=200 max=599"`
		GRPCStatus text       `json:"grpcStatus"`
		Percentage percentage `json:"percentage" check:"required"`
	}
	percentage struct {
		mark
		Value decimal `json:"value" check:"required max=100"`
	}
	httpMirror struct {
		mark
		Destination destination `json:"destination" check:"required"`
		Percentage  percentage  `json:"percentage"`
	}
	corsPolicy struct {
		mark             `refused:"allowOrigin unmatchedPreflights" why:"allowOrigin=write allowOrigins; unmatchedPreflights=they are answered without permission"`
		AllowOrigins     []stringMatch `json:"allowOrigins" check:"required items=64"`
		AllowMethods     []text        `json:"allowMethods" check:"items=64 len=64 format=token"`
		AllowHeaders     []text        `json:"allowHeaders" check:"items=64 len=256 format=token"`
		ExposeHeaders    []text        `json:"exposeHeaders" check:"items=64 len=256 format=token"`
		MaxAge           span          `json:"maxAge" check:"format=duration"`
		AllowCredentials boolean       `json:"allowCredentials"`
	}
	headerRules struct {
		mark
		Request  headerRule `json:"request"`
		Response headerRule `json:"response"`
	}
	headerRule struct {
		mark
		Set    labels `json:"set"`
		Add    labels `json:"add"`
		Remove []text `json:"remove" check:"len=256 format=field"`
	}
)

func (d *directResponse) check(s scope) {
	if len(d.Body.String.V) > 0 && (d.Status.V == 204 || d.Status.V == 304) {
		s.fault(d.Body.mark, "does not go with status %d, which has no body", d.Status.V)
	}
}

func (r *httpRewrite) check(s scope) {
	switch {
	case r.URI.present() && r.URIRegexRewrite.present():
		s.fault(r.URIRegexRewrite.mark, "uri says it already; leave out either")
	case !r.URI.present() && !r.URIRegexRewrite.present() && !r.Authority.present():
		s.fault(r.mark, "changes nothing; leave it out")
	}
}

func (f *httpFault) check(s scope) {
	if !f.Delay.present() && !f.Abort.present() {
		s.fault(f.mark, "must have a delay or an abort")
	}
}

func (a *faultAbort) check(s scope) {
	if a.HTTPStatus.present() == a.GRPCStatus.present() {
		s.fault(a.mark, "must have one of httpStatus and grpcStatus")
	}
	if _, ok := codeNames[a.GRPCStatus.V]; a.GRPCStatus.present() && (!ok || a.GRPCStatus.V == "OK") {
		s.fault(a.GRPCStatus.mark, "%s is not the name of a code, such as UNAVAILABLE", quote(a.GRPCStatus.V))
	}
}

// codeNames are the codes of gRPC, as its own documents write them.
var codeNames = map[string]gatemesh.Code{
	"CANCELLED": gatemesh.Canceled, "UNKNOWN": gatemesh.Unknown, "INVALID_ARGUMENT": gatemesh.InvalidArgument,
	"DEADLINE_EXCEEDED": gatemesh.DeadlineExceeded, "NOT_FOUND": gatemesh.NotFound, "ALREADY_EXISTS": gatemesh.AlreadyExists,
	"PERMISSION_DENIED": gatemesh.PermissionDenied, "RESOURCE_EXHAUSTED": gatemesh.ResourceExhausted,
	"FAILED_PRECONDITION": gatemesh.FailedPrecondition, "ABORTED": gatemesh.Aborted, "OUT_OF_RANGE": gatemesh.OutOfRange,
	"UNIMPLEMENTED": gatemesh.Unimplemented, "INTERNAL": gatemesh.Internal, "UNAVAILABLE": gatemesh.Unavailable,
	"DATA_LOSS": gatemesh.DataLoss, "UNAUTHENTICATED": gatemesh.Unauthenticated,
}

func (h *headerRules) check(s scope) {
	if !h.Request.present() && !h.Response.present() {
		s.fault(h.mark, "changes nothing; leave it out")
	}
}

func (h *headerRule) check(s scope) {
	if !h.Set.present() && !h.Add.present() && h.Remove == nil {
		s.fault(h.mark, "changes nothing; leave it out")
	}
	for _, list := range []*labels{&h.Set, &h.Add} {
		for _, name := range slices.Sorted(maps.Keys(list.V)) {
			value := text{list.marks[name], list.V[name]}
			if wrong := formatFault("field", name); wrong != "" {
				s.fault(value.mark, "%s %s", quote(name), wrong)
			}
			c := checks{length: 4096}
			c.text(s, &value)
			if strings.Contains(value.V, "%") {
				s.fault(value.mark, "not supported by gatemesh: Istio replaces what stands between percent signs by what it knows of the call")
			}
		}
	}
}

// checkRewrite reports a uri for which it is not clear what it replaces: with a
// prefix it replaces that, with an exact match the whole path.
func (r *httpRule) checkRewrite(s scope) {
	if p := &r.Redirect.PrefixRewrite; p.present() {
		if _, prefix := r.uriMatches(); !prefix {
			s.fault(p.mark, "every match of the rule must have the prefix that it replaces")
		}
		if r.Redirect.URI.present() {
			s.fault(p.mark, "uri says it already; leave out either")
		}
	}
	if uri := &r.Rewrite.URI; uri.present() {
		if exact, prefix := r.uriMatches(); exact == prefix {
			s.fault(uri.mark, "not supported by gatemesh unless every match of the rule has an exact uri, or every match a prefix; write a rule for each, or uriRegexRewrite")
		}
	}
}

// uriMatches reports whether all matches of r have an exact uri, and whether
// all have a prefix.
func (r *httpRule) uriMatches() (exact, prefix bool) {
	exact, prefix = len(r.Match) > 0, len(r.Match) > 0
	for i := range r.Match {
		exact = exact && r.Match[i].URI.Exact.present()
		prefix = prefix && r.Match[i].URI.Prefix.present()
	}
	return exact, prefix
}

func (r *httpRule) checkMirrors(s scope) {
	if r.Mirrors != nil && r.Mirror.present() {
		s.fault(r.Mirror.mark, "mirrors say it already; leave out either")
	}
	if r.MirrorPercentage.present() && !r.Mirror.present() {
		s.fault(r.MirrorPercentage.mark, "is for mirror, which is not there; a mirror of mirrors has its own percentage")
	}
	for i := range r.Mirrors {
		r.Mirrors[i].Percentage.checkShare(s)
	}
	r.MirrorPercentage.checkShare(s)
}

// checkShare reports a percentage that has more digits than mirrors can tell.
func (p *percentage) checkShare(s scope) {
	if _, ok := p.Value.perMillion(); !ok {
		s.fault(p.Value.mark, "has more than four decimal places")
	}
}

// retryWords are those of retryOn that there is an exact answer to.
var retryWords = map[string]gatemesh.RetryPolicy{
	"5xx":                {Broken: true, Statuses: statuses(500, 599)},
	"gateway-error":      {Broken: true, Statuses: []int{502, 503, 504}},
	"retriable-4xx":      {Statuses: []int{409}},
	"cancelled":          {Codes: []gatemesh.Code{gatemesh.Canceled}},
	"deadline-exceeded":  {Codes: []gatemesh.Code{gatemesh.DeadlineExceeded}},
	"internal":           {Codes: []gatemesh.Code{gatemesh.Internal}},
	"resource-exhausted": {Codes: []gatemesh.Code{gatemesh.ResourceExhausted}},
	"unavailable":        {Codes: []gatemesh.Code{gatemesh.Unavailable}},
	"reset":              {Broken: true},
}

func statuses(low, high int) (all []int) {
	for s := low; s <= high; s++ {
		all = append(all, s)
	}
	return all
}

func (r *httpRetries) check(s scope) {
	if r.Attempts.V == 0 && (r.RetryOn.present() || r.PerTryTimeout.present() || r.Backoff.present()) {
		s.fault(r.Attempts.mark, "0 is never again, so that the rest of retries has no effect")
	}
	if r.RetryOn.present() {
		r.policy(s)
	}
}

// policy returns what r asks for. It reports words of retryOn that cannot be
// carried out exactly.
func (r *httpRetries) policy(s scope) *gatemesh.RetryPolicy {
	out := &gatemesh.RetryPolicy{Attempts: int(r.Attempts.V) + 1, Backoff: r.Backoff.V}
	if !r.RetryOn.present() {
		// As in Istio: connections that fail, and the statuses and codes that
		// say that the service is not there, which are also the Retrier's.
		out.Broken = true
		return out
	}
	var fails, coded bool
	for _, word := range strings.Split(r.RetryOn.V, ",") {
		word = strings.TrimSpace(word)
		known, ok := retryWords[word]
		status, err := strconv.Atoi(word)
		switch {
		case ok:
			out.Broken = out.Broken || known.Broken
			out.Statuses = append(out.Statuses, known.Statuses...)
			out.Codes = append(out.Codes, known.Codes...)
		case err == nil && status >= 400 && status <= 599 && len(word) == 3:
			out.Statuses = append(out.Statuses, status)
		case word == "connect-failure" || word == "refused-stream":
			fails = true
		case word == "retriable-status-codes":
			coded = true
		default:
			s.fault(r.RetryOn.mark, "%s is not supported by gatemesh; it must be 5xx, gateway-error, reset, connect-failure, refused-stream, retriable-4xx, a status, or cancelled, deadline-exceeded, internal, resource-exhausted or unavailable", quote(word))
			return out
		}
	}
	slices.Sort(out.Statuses)
	slices.Sort(out.Codes)
	out.Statuses, out.Codes = slices.Compact(out.Statuses), slices.Compact(out.Codes)
	switch {
	case fails && !out.Broken:
		s.fault(r.RetryOn.mark, "connect-failure and refused-stream stand with reset, 5xx or gateway-error, because a retry does not tell them from other calls without an answer")
	case coded && len(out.Statuses) == 0:
		s.fault(r.RetryOn.mark, "retriable-status-codes stands with a status, such as 503")
	case len(out.Statuses)+len(out.Codes) == 0:
		s.fault(r.RetryOn.mark, "must have a status or a code besides, because a list without any is that of the Retrier")
	}
	return out
}
