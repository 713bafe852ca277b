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
	// Services say which backends a call to a service has, for this call's method,
	// path and header: a routing.Router with its Services, or a
	// [gatemesh.ServiceRouter] of one's own. Default: nothing is said about any.
	Services gatemesh.ServiceRouter
	// Rollouts decide the shares of their two subsets, where a rule has both
	// among its backends; at most one for a service. The rule says what the two
	// have together, and what other backends have. A service of which neither a
	// Split nor Services say anything consists of the two. Default: none.
	Rollouts []*Rollout
	// Observer receives the events of [Splitter.Handler]. Default: nobody.
	Observer gatemesh.Observer
}
