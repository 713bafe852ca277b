package routing

import (
	"net/http"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/internal/match"
)

// What one call may cost, in the steps of match.Work, as the client chooses the
// values that are compared: some five milliseconds to find its route, and less
// for the rest (F-10).
const (
	maxWork       = 1 << 20 // to find a route, or a rule of a service
	maxPathWork   = 1 << 19 // to change the path
	maxOriginWork = 1 << 19 // to judge an origin
)

var (
	denyLongPath = &gatemesh.Denial{
		Code: gatemesh.InvalidArgument, Status: http.StatusRequestURITooLong,
		Reason: "path_too_long", Detail: "The path is too long.",
	}
	denyLongQuery = &gatemesh.Denial{
		Code: gatemesh.InvalidArgument, Status: http.StatusRequestURITooLong,
		Reason: "query_too_long", Detail: "The query is too long.",
	}
	denyLongField = &gatemesh.Denial{
		Code: gatemesh.InvalidArgument, Status: http.StatusRequestHeaderFieldsTooLarge,
		Reason: "field_too_long", Detail: "A header field is too long.",
	}
)

// tooMuch refuses the call of s if it would have taken more work. That is so
// whatever else matches: another rule must not take what is for this one.
func (s *subject) tooMuch() *gatemesh.Denial {
	switch s.work.Over() {
	case match.Path:
		return denyLongPath
	case match.Query:
		return denyLongQuery
	case match.Field:
		return denyLongField
	}
	return nil
}
