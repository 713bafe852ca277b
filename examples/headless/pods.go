package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/gatemesh-go/gatemesh/examples/internal/crash"
	"github.com/gatemesh-go/gatemesh/examples/service/paymentspb"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
	"github.com/gatemesh-go/gatemesh/internal/dnstest"
	"github.com/gatemesh-go/gatemesh/meshtest"
	"github.com/gatemesh-go/gatemesh/serve"
)

const (
	service   = "payments"
	namespace = "shop"
	host      = service + "." + namespace + ".svc.cluster.local"

	// The pools look the name up every 2 s, which is their default. A pod that
	// leaves serves for longer than that.
	lameDuck = 3 * time.Second
	drain    = 5 * time.Second
)

// cluster is the service's pods and the DNS that names them.
type cluster struct {
	mesh *meshtest.Mesh
	dns  *dnstest.Server
	web  uint16 // the ports of every pod
	rpc  uint16
	last byte // of the addresses given out

	mu    sync.Mutex
	all   []*pod // that ever were
	named []*pod // in the DNS
}

// pod is one replica, on a loopback address of its own.
type pod struct {
	name string
	ip   netip.Addr

	term   context.CancelFunc // what SIGTERM does
	kill   func()             // what SIGKILL does
	killed bool
	ended  chan struct{}
	err    error // once ended is closed
}

func newCluster() (c *cluster, err error) {
	c = &cluster{}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	if c.mesh, err = meshtest.New(meshtest.Config{Namespace: namespace}); err != nil {
		return nil, err
	}
	if c.dns, err = dnstest.New(); err != nil {
		return nil, err
	}
	c.dns.SetTTL(5 * time.Second) // as in Kubernetes; nobody here caches
	return c, nil
}

// scale starts n more pods and names them in the DNS.
func (c *cluster) scale(n int) (added []*pod, err error) {
	for range n {
		p, err := c.start()
		if err != nil {
			return added, err
		}
		added = append(added, p)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.named = append(c.named, added...)
	c.publish()
	return added, nil
}

// withdraw takes p out of the DNS.
func (c *cluster) withdraw(p *pod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.named = slices.DeleteFunc(c.named, func(o *pod) bool { return o == p })
	c.publish()
}

func (c *cluster) publish() {
	var addrs []netip.Addr
	for _, p := range c.named {
		addrs = append(addrs, p.ip)
	}
	c.dns.Set(host, addrs...)
}

// pods returns those that the DNS names.
func (c *cluster) pods() []*pod {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.named)
}

// start runs a pod that nobody knows yet.
func (c *cluster) start() (*pod, error) {
	member, err := c.mesh.Join(service)
	if err != nil {
		return nil, err
	}
	// Mutual TLS and the gate behind it. What else services have in front of
	// them is the platform's subject.
	chain, err := member.Chain(meshtest.ServiceConfig{DisableIdentity: true, DisablePolicy: true})
	if err != nil {
		return nil, err
	}
	mesh, err := grpcmesh.NewServer(chain)
	if err != nil {
		return nil, err
	}
	server := grpc.NewServer(append(mesh.Options(), grpc.Creds(grpcmesh.Credentials(member.TLS(), nil)))...)
	ip, web, rpc, err := c.listen()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	p := &pod{name: fmt.Sprintf("pod-%d", len(c.all)+1), ip: ip, ended: make(chan struct{})}
	c.all = append(c.all, p)
	c.mu.Unlock()
	paymentspb.RegisterPaymentsServer(server, &payments{pod: p.name})
	ctx, cancel := context.WithCancel(context.Background())
	p.term = cancel
	p.kill = func() {
		p.killed = true
		web.Crash()
		rpc.Crash()
		cancel()
	}
	started := make(chan struct{})
	go func() {
		defer close(p.ended)
		p.err = serve.Run(ctx, serve.Config{
			Servers: []serve.Server{
				{Name: "http", Listener: web, Handler: chain.Handler(p), TLS: member.TLS().ServerConfig()},
				{Name: "grpc", Listener: rpc, GRPC: server},
			},
			LameDuck: lameDuck, Drain: drain, Logger: slog.New(slog.DiscardHandler),
			Started: func(map[string]net.Addr) { close(started) },
		})
	}()
	select {
	case <-started:
		return p, nil
	case <-p.ended:
		return nil, p.err
	}
}

// listen binds both ports of a pod on the next free loopback address.
func (c *cluster) listen() (ip netip.Addr, web, rpc *crash.Listener, err error) {
	for range 200 {
		c.last++
		ip = netip.AddrFrom4([4]byte{127, 0, 2, c.last})
		var w, r net.Listener
		if w, err = net.Listen("tcp", netip.AddrPortFrom(ip, c.web).String()); err != nil {
			continue // another program has it
		}
		if r, err = net.Listen("tcp", netip.AddrPortFrom(ip, c.rpc).String()); err != nil {
			_ = w.Close() // nobody has connected
			continue
		}
		c.web, c.rpc = port(w), port(r)
		return ip, crash.New(w), crash.New(r), nil
	}
	return ip, nil, nil, fmt.Errorf("no loopback address of 127.0.2.0/24 is free (Linux has them all): %w", err)
}

func port(l net.Listener) uint16 {
	addr, _ := netip.ParseAddrPort(l.Addr().String())
	return addr.Port()
}

// work takes the time that a call takes.
func work(ctx context.Context) {
	select {
	case <-time.After(time.Millisecond + rand.N(4*time.Millisecond)):
	case <-ctx.Done():
	}
}

// podField is the field in which a pod says who it is.
const podField = "Pod"

// ServeHTTP answers in one piece: of an answer that breaks off in the middle,
// nobody but the application knows what it has made of the beginning, and so
// nobody tries again.
func (p *pod) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	work(r.Context())
	w.Header().Set(podField, p.name)
	w.WriteHeader(http.StatusNoContent)
}

// payments is the same over gRPC.
type payments struct {
	paymentspb.UnimplementedPaymentsServer
	pod string
}

// Charge implements paymentspb.PaymentsServer.
func (p *payments) Charge(ctx context.Context, in *paymentspb.ChargeRequest) (*paymentspb.ChargeResponse, error) {
	work(ctx)
	return &paymentspb.ChargeResponse{Payment: in.GetPayment(), Replica: p.pod}, nil
}

// close ends all pods, without the time that those in use take to leave.
func (c *cluster) close() error {
	c.mu.Lock()
	all := c.all
	c.mu.Unlock()
	for _, p := range all {
		select {
		case <-p.ended: // with an error that a fact was about
		default:
			p.kill()
			<-p.ended
		}
	}
	var errs []error
	if c.dns != nil {
		errs = append(errs, c.dns.Close())
	}
	if c.mesh != nil {
		errs = append(errs, c.mesh.Close())
	}
	return errors.Join(errs...)
}
