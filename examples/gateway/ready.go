package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/gatemesh-go/gatemesh/auth"
	"github.com/gatemesh-go/gatemesh/routing/pool"
)

// readiness is what has to be there before the gateway asks for traffic: who
// would come earlier is refused although another replica could serve him.
//
// What has been there once is not asked again. An outage later hits every
// replica alike: to leave the load balancer then would only take away what
// still works, such as tokens that were verified before.
//
// The zero readiness waits for nothing. It is safe for concurrent use once it
// is filled.
type readiness struct {
	mu      sync.Mutex
	waiting []dependency
}

type dependency struct {
	name  string
	there func() bool
}

// pool waits for the DNS to say where a service is. That nobody serves it is an
// answer, too: one service that is scaled to nothing must not keep us from
// serving the others.
func (r *readiness) pool(name string, p *pool.Pool) {
	now, cancel := context.WithCancel(context.Background())
	cancel()
	r.waiting = append(r.waiting, dependency{"endpoints of " + name, func() bool {
		err := p.WaitReady(now)
		var answer *net.DNSError
		return err == nil || errors.As(err, &answer) && answer.IsNotFound
	}})
}

// keys waits for the first fetch of a key set.
func (r *readiness) keys(j *auth.JWKS) {
	r.waiting = append(r.waiting, dependency{fmt.Sprint(j), func() bool { return j.Keys(time.Now()).Len() > 0 }})
}

// check reports what is not there yet, or nil.
func (r *readiness) check() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting = slices.DeleteFunc(r.waiting, func(d dependency) bool { return d.there() })
	var errs []error
	for _, d := range r.waiting {
		errs = append(errs, fmt.Errorf("waiting for %s", d.name))
	}
	return errors.Join(errs...)
}
