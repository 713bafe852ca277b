package policytest

import (
	"strings"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/policy"
	"github.com/gatemesh-go/gatemesh/manifest"
)

// The verdicts to want.
const (
	Allow = policy.Allow
	Deny  = policy.Deny
)

// TB is what this package needs of a [testing.T]. Production code can then
// import it without package testing.
type TB interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// Policies are policies under test. Make them with [Load] or [New]; the zero
// Policies refuse every call. They are safe for concurrent use if their TB is.
type Policies struct {
	t        TB
	workload gatemesh.Workload
	engine   *policy.Engine
}

// Load returns the AuthorizationPolicies of the folder dir as they bind the
// workload w. Manifests of other kinds may stand beside them; a fault in any
// file ends the test. Calls to a workload that no ALLOW policy selects are
// refused. What cannot be written in YAML, such as another choice for these, is
// for [New].
func Load(t TB, dir string, w gatemesh.Workload) *Policies {
	t.Helper()
	set, err := manifest.LoadDir(dir)
	if err != nil {
		t.Fatalf("%v", err)
		return &Policies{t: t, workload: w, engine: &policy.Engine{}}
	}
	return New(t, policy.Config{Workload: w, Policies: set.Policies(), Unselected: policy.Deny})
}

// New returns policies as cfg has them: the configuration of a server itself.
// A fault in cfg ends the test.
func New(t TB, cfg policy.Config) *Policies {
	t.Helper()
	p := &Policies{t: t, workload: cfg.Workload.Clone(), engine: &policy.Engine{}}
	engine, err := policy.New(cfg)
	if err != nil {
		t.Fatalf("%v", err)
		return p
	}
	p.engine = engine
	return p
}

// Workload returns the workload NAME.NAMESPACE, such as
// "payment-service.production", as it usually runs: in the trust domain
// cluster.local, with a service account and a label "app" of its name. Change
// the fields where yours differs. Without a namespace it is invalid, which
// [Load] reports.
func Workload(name string) gatemesh.Workload {
	name, namespace, _ := strings.Cut(name, ".")
	return gatemesh.Workload{
		Name: name, TrustDomain: "cluster.local", Namespace: namespace, ServiceAccount: name,
		Labels: map[string]string{"app": name},
	}
}

// Engine returns the engine that judges, for what this package has no words for.
func (p *Policies) Engine() *policy.Engine { return p.engine }

// As begins a call by a workload with a verified identity:
//
//	order-service                         a service account in our own namespace
//	order-service.shop                    one in another namespace
//	cluster.local/ns/shop/sa/order.v2     a principal, as policies name it
//	spiffe://cluster.local/ns/shop/sa/x   a SPIFFE id
func (p *Policies) As(caller string) Call { return Call{policies: p, is: Case{Caller: caller}} }

// Anonymous begins a call by somebody without a verified identity.
func (p *Policies) Anonymous() Call { return Call{policies: p, is: Case{Caller: anonymous}} }

// Case begins a call as a table describes it.
func (p *Policies) Case(c Case) Call { return Call{policies: p, is: c} }

// Coverage holds routes against the policies; see [policy.Engine.Coverage].
// A fault in a route ends the test.
func (p *Policies) Coverage(routes ...string) *policy.Coverage {
	p.t.Helper()
	c, err := p.engine.Coverage(routes)
	if err != nil {
		p.t.Fatalf("%v", err)
		return &policy.Coverage{}
	}
	return c
}
