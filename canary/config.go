package canary

import "github.com/gatemesh-go/gatemesh"

// DefaultSalt is the default of [Config.Salt].
const DefaultSalt = "gatemesh/canary"

// Config configures a [Splitter]. The zero Config is valid and splits nothing.
type Config struct {
	// Salt decorrelates independent installations. It must be the same on every
	// replica, and changing it deals every user to a version anew. Default:
	// [DefaultSalt].
	Salt string
	// Services say which backends a call to a service has, such as a
	// routing.Router with its Services. Default: nothing is said about any.
	Services gatemesh.ServiceRouter
	// Splits hold rules for those who have no Services; at most one for a
	// service. A service that has a Split is not looked up in Services.
	// Default: none.
	Splits []Split
	// Observer receives the events of [Splitter.Handler]. Default: nobody.
	Observer gatemesh.Observer
}

// A Split deals the calls of one service to its versions. It is one
// VirtualService.
type Split struct {
	// Position is where the split was written, for errors. Default: unknown.
	Position gatemesh.Position
	// Service is the short name of the service, as in the Destination that the
	// route gave. Required.
	Service string
	// Namespace is the service's namespace. "" is the namespace "".
	Namespace string
	// Rules are tried in order, and the first that matches decides. A call that
	// matches none is refused with 404, as in Istio. Required.
	Rules []Rule
}

// A Rule deals the calls that match it to its targets.
type Rule struct {
	// Position is where the rule was written, for errors. Default: unknown.
	Position gatemesh.Position
	// Matches are alternatives. Default: every call matches.
	Matches []Match
	// Targets share the calls by weight. The first one is the stable version:
	// see [Splitter] for what the order means. Required; with several, the
	// weights must not all be 0.
	Targets []Target
}

// A Match holds for a call if all its header matches hold.
type Match struct {
	// Headers must all hold. Required.
	Headers []HeaderMatch
}

// HeaderKind says how a header field is compared.
type HeaderKind uint8

// The header kinds.
const (
	HeaderExact  HeaderKind = iota // by its whole value
	HeaderPrefix                   // by how its value begins
)

// HeaderMatch matches a header field that is present exactly once. A repeated
// field matches nothing.
type HeaderMatch struct {
	// Name is compared without regard to case. Required.
	Name string
	// Kind says how Value is compared. Default: HeaderExact.
	Kind HeaderKind
	// Value is compared byte for byte. An empty prefix matches every value.
	Value string
}

// A Target is a version of a service and its share of the calls.
type Target struct {
	// Service is the short name of the service to go to. Default: the service
	// of the Split, in the namespace of the Split.
	Service string
	// Namespace is the namespace of Service. It must be empty without one.
	Namespace string
	// Subset is the version, such as "v2". It becomes the call's Lane. Default:
	// any version, and no lane.
	Subset string
	// Port is the service port. Default: the port that the route gave.
	Port uint16
	// Weight is the share among the rule's targets, whatever they sum up to. 0
	// is never chosen, except that a single target needs no weight.
	Weight uint32
}
