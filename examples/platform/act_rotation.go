package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/gatemesh-go/gatemesh/mtls"
)

// rotation says how often act h replaces certificates, and in what time.
type rotation struct {
	leaves, roots int
	over          time.Duration
}

// The short one is over when the load has seen every certificate; the full one,
// for -full, is F-04 of the project's threat table.
var (
	shortRotation = rotation{leaves: 6, roots: 3}
	fullRotation  = rotation{leaves: 100, roots: 5, over: time.Minute}
)

// actRotation replaces every leaf certificate of mesh and gateway and the root
// of the mesh, again and again, while requests flow over HTTP/1.1, HTTP/2, new
// connections and gRPC.
func actRotation(ctx context.Context, p *platform, r *report) error {
	users, err := p.users("rotation", 100)
	if err != nil {
		return err
	}
	mesh, err := p.meshFlows(ctx)
	if err != nil {
		return err
	}
	front := func(name string, c *http.Client, method, path string) flow {
		return flow{"gateway " + name, func(ctx context.Context, i int) error {
			s, err := p.expect(ctx, c, method, path, users[i%len(users)], 200)
			for _, o := range s.Calls {
				if err == nil && o.Error != "" {
					err = fmt.Errorf("%s: %s", o.Call, o.Error)
				}
			}
			return err
		}}
	}
	l := startLoad(ctx, append(mesh,
		front("h2", p.http, http.MethodGet, "/v1/users/1"),
		front("h1", p.client(true, false), http.MethodGet, "/v1/users/1"),
		front("new connection", p.client(false, true), http.MethodGet, "/v1/users/1"),
		front("gRPC behind it", p.http, http.MethodPost, "/v1/orders/1/charges"),
	)...)
	defer l.end()
	if err := l.advance(ctx, 20); err != nil {
		return err
	}
	order := p.running("order-service", "")[0].member.TLS()
	leaves, roots := map[string]bool{}, map[string]bool{}
	plan := shortRotation
	if p.full {
		plan = fullRotation
	}
	begin, stale := time.Now(), 0
	for i := range plan.leaves {
		if err := until(ctx, begin.Add(plan.over*time.Duration(i)/time.Duration(plan.leaves))); err != nil {
			return err
		}
		// A root once in so many certificates.
		late, err := p.rotate(ctx, l, i%(plan.leaves/plan.roots) == 0)
		if err != nil {
			return err
		}
		stale += late
		leaves[order.Credentials().Certificate.Leaf.SerialNumber.String()] = true
		for _, c := range p.mesh.CA().Bundle() {
			roots[c.SerialNumber.String()] = true
		}
	}
	took := time.Since(begin)
	l.report(r, "h")
	r.holds("h", "certificates of order-service, roots", fmt.Sprintf("%d, %d", plan.leaves, plan.roots),
		fmt.Sprintf("%d, %d in %s", len(leaves), len(roots), took.Round(100*time.Millisecond)),
		len(leaves) == plan.leaves && len(roots) == plan.roots)
	r.same("h", "new connections that still met the old certificate", 0, stale)
	r.same("h", "roots that are trusted at the end", 1, len(p.mesh.CA().Bundle()))
	return nil
}

// until waits for at.
func until(ctx context.Context, at time.Time) error {
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// rotate replaces every certificate once, and the root of the mesh if root is
// set: a new root is trusted before anybody has a certificate of it, and the
// old one until nobody uses one of its own. It returns how many workloads
// presented their old certificate to a connection made after that.
func (p *platform) rotate(ctx context.Context, l *load, root bool) (stale int, err error) {
	ca := p.mesh.CA()
	if root {
		if err := ca.Rotate(); err != nil {
			return 0, err
		}
		if p.broken == "h" {
			if err := ca.Retire(); err != nil {
				return 0, err
			}
		}
		if err := l.advance(ctx, 20); err != nil {
			return 0, err
		}
	}
	if err := p.mesh.Renew(); err != nil {
		return 0, err
	}
	if err := p.edge.renew(); err != nil {
		return 0, err
	}
	if stale, err = p.stale(ctx); err != nil {
		return stale, err
	}
	// Requests that were under way at the renewal have ended by then.
	if err := l.advance(ctx, 4*workers); err != nil {
		return stale, err
	}
	if root {
		err = ca.Retire()
	}
	return stale, err
}

// stale counts the echo services that do not present today's certificate.
func (p *platform) stale(ctx context.Context) (n int, err error) {
	for _, r := range p.running("echo-service", "") {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", r.http)
		if err != nil {
			return n, err
		}
		// Only the server's half counts here, so the caller needs no name.
		client := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}) //nolint:gosec // see above
		err = client.HandshakeContext(ctx)
		leaf := r.member.TLS().Credentials().Certificate.Leaf
		if err == nil && !client.ConnectionState().PeerCertificates[0].Equal(leaf) {
			n++
		}
		if err = errors.Join(err, conn.Close()); err != nil {
			return n, err
		}
	}
	return n, nil
}

// meshFlows are calls of order-service to a service that speaks HTTP/2, one
// that speaks HTTP/1.1, and over a new connection each.
func (p *platform) meshFlows(ctx context.Context) ([]flow, error) {
	order := p.running("order-service", "")[0].member
	callee, err := mtls.Exactly(spiffeID("echo-service"))
	if err != nil {
		return nil, err
	}
	var flows []flow
	for _, f := range []struct {
		name         string
		http1, fresh bool
	}{{"mesh h2", false, false}, {"mesh h1", true, false}, {"mesh new connection", false, true}} {
		version := map[bool]string{false: "h2", true: "h1"}[f.http1]
		if len(p.running("echo-service", version)) == 0 {
			if _, err := p.deploy(service{name: "echo-service", version: version, http1: f.http1, bare: true, handler: echo}); err != nil {
				return nil, err
			}
		}
		t, err := order.TLS().Transport(callee)
		if err != nil {
			return nil, err
		}
		var rt http.RoundTripper = t
		if f.fresh {
			config, err := order.TLS().ClientConfig(callee)
			if err != nil {
				return nil, err
			}
			rt = &http.Transport{TLSClientConfig: config, DisableKeepAlives: true, ForceAttemptHTTP2: true}
		} else {
			p.closing(closer(func() error { t.CloseIdleConnections(); return nil }))
		}
		url := "https://" + p.running("echo-service", version)[0].http + "/"
		proto := map[bool]int{false: 2, true: 1}[f.http1]
		flows = append(flows, flow{f.name, func(ctx context.Context, _ int) error {
			r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, http.NoBody)
			if err != nil {
				return err
			}
			resp, err := rt.RoundTrip(r)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			_, err = io.Copy(io.Discard, resp.Body)
			if resp.StatusCode != http.StatusOK || resp.ProtoMajor != proto && !f.fresh {
				return fmt.Errorf("%s %s", resp.Proto, resp.Status)
			}
			return err
		}})
	}
	return flows, nil
}

func echo(*replica) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
}
