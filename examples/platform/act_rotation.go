package main

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/gatemesh-go/gatemesh/mtls"
)

// rotations is how often act h replaces everything.
const rotations = 3

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
	before := p.running("order-service", "")[0].member.TLS().Credentials().Certificate.Leaf
	for range rotations {
		if err := p.rotate(ctx, l); err != nil {
			return err
		}
	}
	after := p.running("order-service", "")[0].member.TLS().Credentials().Certificate.Leaf
	l.report(r, "h")
	r.same("h", "certificates of order-service are others", true, after.SerialNumber.Cmp(before.SerialNumber) != 0)
	r.same("h", "roots that are trusted at the end", 1, len(p.mesh.CA().Bundle()))
	return nil
}

// rotate replaces everything once: the new root is trusted before anybody has a
// certificate of it, and the old one until nobody uses one of its own.
func (p *platform) rotate(ctx context.Context, l *load) error {
	ca := p.mesh.CA()
	if err := ca.Rotate(); err != nil {
		return err
	}
	if p.broken == "h" {
		if err := ca.Retire(); err != nil {
			return err
		}
	}
	if err := l.advance(ctx, 20); err != nil {
		return err
	}
	if err := p.mesh.Renew(); err != nil {
		return err
	}
	if err := p.edge.renew(); err != nil {
		return err
	}
	// Requests that were under way at the renewal have ended by then.
	if err := l.advance(ctx, 4*workers); err != nil {
		return err
	}
	if err := ca.Retire(); err != nil {
		return err
	}
	return l.advance(ctx, 20)
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
