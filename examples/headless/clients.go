package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/breaker"
	"github.com/gatemesh-go/gatemesh/examples/service/paymentspb"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
	"github.com/gatemesh-go/gatemesh/meshtest"
	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/routing/pool"
)

// guards are what -break takes away.
var guards = map[string]string{"retry": "retries", "resolve": "lookups"}

// client is one way to call the service. It returns which pod answered.
type client struct {
	name, what string
	ours       bool // the facts are about it
	call       func(ctx context.Context) (pod string, err error)
}

// clients are all of them, and what is to be closed after them.
type clients struct {
	list   []*client
	cl     *cluster
	member *meshtest.Member
	callee mtls.Authorizer
	config config
	url    string
	closes []func() error // in the order of closing
}

// dialAll connects the clients to the pods of cl.
func dialAll(ctx context.Context, cl *cluster, cfg config) (_ *clients, err error) {
	c := &clients{cl: cl, config: cfg, url: "https://" + net.JoinHostPort(host, strconv.Itoa(int(cl.web))) + "/"}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	if c.member, err = cl.mesh.Join("orders"); err != nil {
		return nil, err
	}
	if c.callee, err = mtls.Exactly(gatemesh.Workload{TrustDomain: c.member.Workload().TrustDomain, Namespace: namespace, ServiceAccount: service}.SPIFFEID()); err != nil {
		return nil, err
	}
	for _, dial := range []func(context.Context) (*client, error){c.pooled, c.grpc, c.plain, c.sidecar} {
		one, err := dial(ctx)
		if err != nil {
			return nil, err
		}
		c.list = append(c.list, one)
	}
	return c, nil
}

func (c *clients) closing(f func() error) { c.closes = append(c.closes, f) }

func (c *clients) close() error {
	var errs []error
	for _, f := range c.closes {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

// outbound is what stands around every call to the service, and around each of
// its attempts.
func (c *clients) outbound() (*gatemesh.Outbound, error) {
	deadline, err := breaker.NewDeadline(breaker.DeadlineConfig{Timeout: c.config.patience})
	if err != nil {
		return nil, err
	}
	again, err := breaker.NewRetry(breaker.RetryConfig{Idempotent: func(c *gatemesh.Call) bool {
		return c.Path() == paymentspb.Payments_Charge_FullMethodName // it names its payment
	}})
	if err != nil {
		return nil, err
	}
	health, err := breaker.NewGate(breaker.GateConfig{})
	if err != nil {
		return nil, err
	}
	layers := []gatemesh.Layer{deadline.Layer(), again.Layer(), health.Layer()}
	if c.config.broken == "retry" {
		layers = slices.Delete(layers, 1, 2)
	}
	return gatemesh.NewOutbound(gatemesh.OutboundConfig{
		Mesh:   gatemesh.MeshHosts(map[string]gatemesh.Destination{host: {Service: service, Namespace: namespace}}),
		Layers: layers,
	})
}

// pool follows the pods at one of their ports.
func (c *clients) pool(ctx context.Context, port uint16) (*pool.Pool, error) {
	dns, err := pool.NewDNS(pool.DNSConfig{Host: host + ".", Port: port, Network: "ip4", Resolver: c.cl.dns.Resolver()})
	if err != nil {
		return nil, err
	}
	cfg := pool.Config{Name: service + "." + namespace, Resolver: dns}
	if c.config.broken == "resolve" {
		cfg.Interval = time.Hour
	}
	p, err := pool.New(cfg)
	if err != nil {
		return nil, err
	}
	c.closing(p.Close)
	return p, p.WaitReady(ctx)
}

// direct is the way to the pods with no proxy on it.
func (c *clients) direct(ctx context.Context) (http.RoundTripper, error) {
	out, err := c.outbound()
	if err != nil {
		return nil, err
	}
	base, err := c.member.TLS().Transport(c.callee)
	if err != nil {
		return nil, err
	}
	endpoints, err := c.pool(ctx, c.cl.web)
	if err != nil {
		return nil, err
	}
	c.closing(func() error { base.CloseIdleConnections(); return nil })
	return out.Transport(endpoints.Transport(base)), nil
}

func (c *clients) pooled(ctx context.Context) (*client, error) {
	t, err := c.direct(ctx)
	if err != nil {
		return nil, err
	}
	return &client{"pooled", "http.Client on a pool", true, get(&http.Client{Transport: t}, c.url)}, nil
}

func (c *clients) grpc(ctx context.Context) (*client, error) {
	out, err := c.outbound()
	if err != nil {
		return nil, err
	}
	endpoints, err := c.pool(ctx, c.cl.rpc)
	if err != nil {
		return nil, err
	}
	conn, err := grpcmesh.Dial(grpcmesh.DialConfig{Service: host, Outbound: out, Pool: endpoints, TLS: c.member.TLS(), Callee: c.callee})
	if err != nil {
		return nil, err
	}
	c.closes = slices.Insert(c.closes, len(c.closes)-1, conn.Close) // before its pool
	payments := paymentspb.NewPaymentsClient(conn)
	return &client{"grpc", "gRPC on a pool", true, func(ctx context.Context) (string, error) {
		resp, err := payments.Charge(ctx, &paymentspb.ChargeRequest{Payment: "1"})
		return resp.GetReplica(), err
	}}, nil
}

func (c *clients) plain(context.Context) (*client, error) {
	config, err := c.member.TLS().ClientConfig(c.callee)
	if err != nil {
		return nil, err
	}
	t := transport(config)
	t.DialContext = (&net.Dialer{Resolver: c.cl.dns.Resolver()}).DialContext
	c.closing(func() error { t.CloseIdleConnections(); return nil })
	return &client{"plain", "http.Client alone", false, get(&http.Client{Transport: t, Timeout: c.config.patience}, c.url)}, nil
}

// sidecar is a plain client of a proxy in this process, which is a hop of two
// sockets more, as one in a container beside it would be.
func (c *clients) sidecar(ctx context.Context) (*client, error) {
	direct, err := c.direct(ctx)
	if err != nil {
		return nil, err
	}
	to, err := url.Parse(c.url)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	server := &http.Server{ReadHeaderTimeout: c.config.patience, ErrorLog: log.New(io.Discard, "", 0), Handler: &httputil.ReverseProxy{
		Transport: direct, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) },
		ErrorLog:     log.New(io.Discard, "", 0),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(l) // ends with Close
	}()
	t := transport(nil)
	c.closing(func() error {
		t.CloseIdleConnections()
		err := server.Close()
		<-ended
		return err
	})
	return &client{"sidecar", "http.Client, a proxy on a pool", false, get(&http.Client{Transport: t, Timeout: c.config.patience}, "http://"+l.Addr().String()+"/")}, nil
}

// transport is http.DefaultTransport with connections enough for the load.
func transport(config *tls.Config) *http.Transport {
	return &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 64, IdleConnTimeout: 90 * time.Second}
}

func get(client *http.Client, url string) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
		if err != nil {
			return "", err
		}
		resp, err := client.Do(r)
		if err != nil {
			return "", err
		}
		if err := resp.Body.Close(); err != nil {
			return "", err
		}
		if resp.StatusCode != http.StatusNoContent {
			return "", fmt.Errorf("status %d", resp.StatusCode)
		}
		return resp.Header.Get(podField), nil
	}
}
