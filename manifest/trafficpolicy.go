package manifest

import (
	"cmp"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/routing/pool"
)

// trafficPolicy says how the endpoints of a service share its calls.
type trafficPolicy struct {
	mark              `refused:"connectionPool proxyProtocol retryBudget tunnel" why:"connectionPool=how many connections there are, and for how long, is the server's own configuration, and how many calls that of its breaker, so leave it out; proxyProtocol=it is not spoken; retryBudget=the budget is that of the server's breaker; tunnel=there are none"`
	LoadBalancer      loadBalancer     `json:"loadBalancer"`
	OutlierDetection  outlierDetection `json:"outlierDetection"`
	TLS               clientTLS        `json:"tls"`
	PortLevelSettings []portPolicy     `json:"portLevelSettings" check:"items=4096"`
}

// portPolicy stands in place of a trafficPolicy for one port.
type portPolicy struct {
	mark             `refused:"connectionPool" why:"connectionPool=how many connections there are, and for how long, is the server's own configuration, and how many calls that of its breaker, so leave it out"`
	Port             port             `json:"port" check:"required"`
	LoadBalancer     loadBalancer     `json:"loadBalancer"`
	OutlierDetection outlierDetection `json:"outlierDetection"`
	TLS              clientTLS        `json:"tls"`
}

// clientTLS says how a service is reached.
type clientTLS struct {
	mark `refused:"caCertCredentialName caCertificates caCrl clientCertificate credentialName insecureSkipVerify privateKey sni subjectAltNames" why:"caCertCredentialName=it does not go with ISTIO_MUTUAL; caCertificates=it does not go with ISTIO_MUTUAL; caCrl=it does not go with ISTIO_MUTUAL; clientCertificate=it does not go with ISTIO_MUTUAL; credentialName=it does not go with ISTIO_MUTUAL; insecureSkipVerify=it does not go with ISTIO_MUTUAL; privateKey=it does not go with ISTIO_MUTUAL; sni=it does not go with ISTIO_MUTUAL; subjectAltNames=it does not go with ISTIO_MUTUAL; mode=certificates that are none of the mesh are the server's own configuration"`
	Mode text `json:"mode" check:"default=DISABLE enum=DISABLE|ISTIO_MUTUAL not=SIMPLE|MUTUAL"`
}

type loadBalancer struct {
	mark               `refused:"backendUtilization localityLbSetting zoneAwareLbSetting" why:"backendUtilization=services do not report their load; zoneAwareLbSetting=the zone is the server's own configuration, and where its pool knows zones, calls stay in it as far as its endpoints can carry them, so leave it out; localityLbSetting=the zone is the server's own configuration, and where its pool knows zones, calls stay in it as far as its endpoints can carry them, so leave it out; simple=a call goes to an endpoint that the pool knows"`
	Simple             text           `json:"simple" check:"enum=UNSPECIFIED|ROUND_ROBIN|LEAST_REQUEST|LEAST_CONN|RANDOM not=PASSTHROUGH"`
	ConsistentHash     consistentHash `json:"consistentHash"`
	Warmup             warmup         `json:"warmup"`
	WarmupDurationSecs span           `json:"warmupDurationSecs" check:"format=duration"`
}

type consistentHash struct {
	mark                   `refused:"maglev minimumRingSize ringHash" why:"maglev=the ring is the only algorithm; minimumRingSize=the pool knows how large its ring has to be; ringHash=it is the only algorithm, and the pool knows how large its ring has to be"`
	HTTPHeaderName         text       `json:"httpHeaderName" check:"len=256 format=header"`
	HTTPCookie             hashCookie `json:"httpCookie"`
	UseSourceIP            boolean    `json:"useSourceIp"`
	HTTPQueryParameterName text       `json:"httpQueryParameterName" check:"len=256 format=token"`
}

type hashCookie struct {
	mark `refused:"attributes path ttl" why:"attributes=nobody sets the cookie; path=nobody sets the cookie; ttl=nobody sets the cookie"`
	Name text `json:"name" check:"required len=256 format=place"`
}

type warmup struct {
	mark
	Duration       span    `json:"duration" check:"required format=duration"`
	MinimumPercent number  `json:"minimumPercent" check:"min=1 max=100"`
	Aggression     decimal `json:"aggression" check:"max=10"`
}

type outlierDetection struct {
	mark                     `refused:"consecutiveErrors consecutiveLocalOriginFailures failurePercentageThreshold outlierDetectionHttpErrorCodes splitExternalLocalOriginErrors" why:"failurePercentageThreshold=an endpoint that fails much more often than the others is out anyway; outlierDetectionHttpErrorCodes=what is a failure, consecutive5xxErrors or consecutiveGatewayErrors says; consecutiveErrors=write consecutiveGatewayErrors; consecutiveLocalOriginFailures=one endpoint that cannot be reached is out at once; splitExternalLocalOriginErrors=one endpoint that cannot be reached is out at once"`
	Consecutive5xxErrors     number `json:"consecutive5xxErrors" check:"max=1000"`
	ConsecutiveGatewayErrors number `json:"consecutiveGatewayErrors" check:"max=1000"`
	Interval                 span   `json:"interval" check:"format=duration"`
	BaseEjectionTime         span   `json:"baseEjectionTime" check:"format=duration"`
	MaxEjectionPercent       number `json:"maxEjectionPercent" check:"min=1 max=100"`
	MinHealthPercent         number `json:"minHealthPercent" check:"max=100"`
}

func (t *trafficPolicy) check(s scope) {
	if !t.LoadBalancer.present() && !t.OutlierDetection.present() && !t.TLS.present() && t.PortLevelSettings == nil {
		s.fault(t.mark, "says nothing; leave it out")
	}
	seen := make(map[int64]mark)
	for i := range t.PortLevelSettings {
		p := &t.PortLevelSettings[i]
		if first, twice := seen[p.Port.Number.V]; twice {
			s.fault(p.Port.Number.mark, "%d is the port of %s already", p.Port.Number.V, first.path)
		}
		seen[p.Port.Number.V] = p.mark
	}
}

func (l *loadBalancer) check(s scope) {
	if l.Simple.present() && l.ConsistentHash.present() {
		s.fault(l.ConsistentHash.mark, "simple says it already; leave out either")
	}
	if l.Warmup.present() && l.WarmupDurationSecs.present() {
		s.fault(l.WarmupDurationSecs.mark, "warmup says it already; leave out either")
	}
	at := l.Warmup.mark
	if l.WarmupDurationSecs.present() {
		at = l.WarmupDurationSecs.mark
	}
	if at.present() && l.ConsistentHash.present() {
		s.fault(at, "has no effect with consistentHash, where a key belongs to its endpoint at once")
	}
	if d := cmp.Or(l.Warmup.Duration.V, l.WarmupDurationSecs.V); d > time.Hour {
		s.fault(at, "is longer than 1h")
	}
	if !l.Simple.present() && !l.ConsistentHash.present() && !at.present() {
		s.fault(l.mark, "says nothing; leave it out")
	}
}

func (c *consistentHash) check(s scope) {
	n := 0
	for _, m := range []mark{c.HTTPHeaderName.mark, c.HTTPCookie.mark, c.UseSourceIP.mark, c.HTTPQueryParameterName.mark} {
		if m.present() {
			n++
		}
	}
	if n != 1 || c.UseSourceIP.present() && !c.UseSourceIP.V {
		s.fault(c.mark, "must have one of httpHeaderName, httpCookie, useSourceIp: true and httpQueryParameterName")
	}
}

func (w *warmup) check(s scope) {
	if a := &w.Aggression; a.present() && a.V < 0.1 {
		s.fault(a.mark, "must be at least 0.1")
	}
}

func (o *outlierDetection) check(s scope) {
	all, gateway := &o.Consecutive5xxErrors, &o.ConsecutiveGatewayErrors
	if gateway.V > 0 && (!all.present() || all.V > 0) {
		s.fault(gateway.mark, "not supported by gatemesh beside consecutive5xxErrors, which is 5 if it is not there: either is counted, so write consecutive5xxErrors: 0")
	}
	for _, d := range []struct {
		span *span
		low  time.Duration
	}{{&o.Interval, time.Second}, {&o.BaseEjectionTime, time.Millisecond}} {
		if d.span.present() && (d.span.V < d.low || d.span.V > time.Hour) {
			s.fault(d.span.mark, "is not between %v and 1h", d.low)
		}
	}
}

// TrafficPolicy is what a DestinationRule says about the endpoints of a
// destination. It is for the pool that serves the destination; see
// [TrafficPolicy.Configure].
type TrafficPolicy struct {
	// Position is where it was written.
	Position gatemesh.Position
	// Balancer, HashKey, Warmup, MinHealthPercent and Ejection are those of
	// [pool.Config]. Zero is the pool's own default, also where Istio has another.
	Balancer         pool.Balancer
	HashKey          pool.HashKey
	Warmup           pool.Warmup
	MinHealthPercent int
	Ejection         pool.Ejection
	// TLS says how connections are made. It is for who makes them, and no part of
	// [TrafficPolicy.Configure]: who cannot make them so has to say so, and not
	// make others.
	TLS TLSMode
}

// TLSMode is how connections to a service are made.
type TLSMode uint8

// The modes.
const (
	// TLSUnset leaves it to the server: with mutual TLS, if it is a member of the
	// mesh.
	TLSUnset TLSMode = iota
	// TLSMesh is mutual TLS between members of the mesh, Istio's ISTIO_MUTUAL.
	TLSMesh
	// TLSDisable is no TLS.
	TLSDisable
)

// Configure puts p into the configuration of a pool.
func (p *TrafficPolicy) Configure(cfg *pool.Config) {
	cfg.Balancer, cfg.HashKey, cfg.Warmup = p.Balancer, p.HashKey, p.Warmup
	cfg.MinHealthPercent, cfg.Ejection = p.MinHealthPercent, p.Ejection
}

// TrafficPolicy returns what the DestinationRules say about d, or false if they
// say nothing. As in Istio, a subset replaces parts of what is said about its
// service, and what is said about a port stands for all of it.
func (set *Set) TrafficPolicy(d gatemesh.Destination) (TrafficPolicy, bool) {
	rule := set.ruleOf[service{d.Service, d.Namespace}]
	if rule == nil {
		return TrafficPolicy{}, false
	}
	levels := []*trafficPolicy{&rule.Spec.TrafficPolicy}
	for i := range rule.Spec.Subsets {
		if s := &rule.Spec.Subsets[i]; d.Subset != "" && s.Name.V == d.Subset {
			levels = append(levels, &s.TrafficPolicy)
		}
	}
	var out TrafficPolicy
	said := false
	take := func(at mark, l *loadBalancer, o *outlierDetection, c *clientTLS) {
		if l.present() || o.present() || c.present() {
			said, out.Position = true, rule.scope.position(at)
		}
		if l.present() {
			l.configure(&out)
		}
		if o.present() {
			o.configure(&out)
		}
		if c.present() {
			out.TLS = tlsModes[c.Mode.V]
		}
	}
	var port *portPolicy
	for _, t := range levels {
		take(t.mark, &t.LoadBalancer, &t.OutlierDetection, &t.TLS)
		for i := range t.PortLevelSettings {
			if p := &t.PortLevelSettings[i]; d.Port != 0 && p.Port.Number.V == int64(d.Port) {
				port = p
			}
		}
	}
	if port != nil {
		out, said = TrafficPolicy{}, false
		take(port.mark, &port.LoadBalancer, &port.OutlierDetection, &port.TLS)
	}
	return out, said
}

// As in Istio, a tls that does not say how is none.
var tlsModes = map[string]TLSMode{"DISABLE": TLSDisable, "ISTIO_MUTUAL": TLSMesh}

var balancers = map[string]pool.Balancer{
	"ROUND_ROBIN": pool.RoundRobin, "LEAST_REQUEST": pool.LeastRequest, "LEAST_CONN": pool.LeastRequest, "RANDOM": pool.Random,
}

func (l *loadBalancer) configure(p *TrafficPolicy) {
	p.Balancer, p.HashKey, p.Warmup = balancers[l.Simple.V], pool.HashKey{}, pool.Warmup{}
	if c := &l.ConsistentHash; c.present() {
		p.Balancer = pool.RingHash
		p.HashKey = pool.HashKey{
			Header: c.HTTPHeaderName.V, Cookie: c.HTTPCookie.Name.V, Query: c.HTTPQueryParameterName.V, ClientAddress: c.UseSourceIP.V,
		}
	}
	p.Warmup = pool.Warmup{
		Duration:       cmp.Or(l.Warmup.Duration.V, l.WarmupDurationSecs.V),
		MinimumPercent: int(l.Warmup.MinimumPercent.V), Aggression: l.Warmup.Aggression.V,
	}
}

// What Istio and Envoy take if nothing is said.
const (
	istioErrors      = 5
	istioEjection    = 30 * time.Second
	istioMaxEjection = 300 * time.Second
)

func (o *outlierDetection) configure(p *TrafficPolicy) {
	p.MinHealthPercent = int(o.MinHealthPercent.V)
	if o.MinHealthPercent.present() {
		p.MinHealthPercent = max(p.MinHealthPercent, 1) // 0 is that somebody has to be in, too
	}
	e := pool.Ejection{
		Base: cmp.Or(o.BaseEjectionTime.V, istioEjection), MaxPercent: int(o.MaxEjectionPercent.V), Window: o.Interval.V,
		Failures: istioErrors, Server5xx: true,
	}
	e.Max = max(istioMaxEjection, e.Base)
	switch {
	case o.ConsecutiveGatewayErrors.V > 0:
		e.Failures, e.Server5xx = int(o.ConsecutiveGatewayErrors.V), false
	case o.Consecutive5xxErrors.V > 0:
		e.Failures = int(o.Consecutive5xxErrors.V)
	case o.Consecutive5xxErrors.present():
		e = pool.Ejection{Disable: true}
	}
	p.Ejection = e
}
