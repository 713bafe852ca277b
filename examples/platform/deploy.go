package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/examples/internal/crash"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
	"github.com/gatemesh-go/gatemesh/meshtest"
	"github.com/gatemesh-go/gatemesh/serve"
)

const (
	// Clients look the services up every second, so that within two everybody
	// has seen that a replica has left.
	lookup   = time.Second
	lameDuck = 2 * lookup
	drain    = 5 * time.Second
)

// service is what a replica runs.
type service struct {
	name, version string
	// handler answers HTTP calls, on behalf of self.
	handler func(self *replica) http.Handler
	// register puts gRPC services on a server. nil: none.
	register func(self *replica, to *grpc.Server)
	// bare leaves identity and policy out, http1 HTTP/2.
	bare, http1 bool
}

// host is the name of the service in the DNS, as Kubernetes gives a headless
// service.
func (s service) host() string {
	name := s.name
	if s.version != "" {
		name += "-" + s.version
	}
	return name + "." + namespace + ".svc.cluster.local."
}

// replica is one instance of a service, with a loopback address of its own. To
// the others it looks like a process: they know it from the DNS.
type replica struct {
	service
	ip     netip.Addr
	http   string // address
	grpc   string // address, or ""
	member *meshtest.Member
	calls  *caller

	term   context.CancelFunc // what SIGTERM does
	kill   func()             // what SIGKILL does: no goodbye on any connection
	killed atomic.Bool
	ended  chan struct{}
	err    error // once ended is closed
}

// fleet is the replicas that are announced, by host.
type fleet struct {
	mu       sync.Mutex
	replicas map[string][]*replica
	ports    map[string][2]uint16 // HTTP and gRPC, by host: replicas differ in their address alone
	last     byte                 // of the addresses given out
	all      []*replica
}

// listen binds both ports of a new replica on the next free loopback address.
func (f *fleet) listen(host string, withGRPC bool) (ip netip.Addr, http, grpc net.Listener, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ports, known := f.ports[host]
	for range 200 {
		f.last++
		ip = netip.AddrFrom4([4]byte{127, 0, 1, f.last})
		http, err = net.Listen("tcp", netip.AddrPortFrom(ip, ports[0]).String())
		if err != nil {
			continue // another program has it
		}
		if !withGRPC {
			break
		}
		grpc, err = net.Listen("tcp", netip.AddrPortFrom(ip, ports[1]).String())
		if err == nil {
			break
		}
		_ = http.Close() // nobody has connected
	}
	if err != nil {
		return ip, nil, nil, fmt.Errorf("no loopback address of 127.0.1.0/24 is free (Linux has them all): %w", err)
	}
	if !known {
		ports[0] = port(http)
		if grpc != nil {
			ports[1] = port(grpc)
		}
		f.ports[host] = ports
	}
	return ip, http, grpc, nil
}

func port(l net.Listener) uint16 {
	addr, _ := netip.ParseAddrPort(l.Addr().String())
	return addr.Port()
}

// deploy starts a replica and announces it.
func (p *platform) deploy(s service) (*replica, error) {
	r, err := p.launch(s)
	if err == nil {
		p.announce(r)
	}
	return r, err
}

// announce puts r into the DNS.
func (p *platform) announce(r *replica) {
	p.fleet.mu.Lock()
	defer p.fleet.mu.Unlock()
	p.fleet.replicas[r.host()] = append(p.fleet.replicas[r.host()], r)
	p.publish(r.host())
}

// withdraw takes r out of the DNS, as Kubernetes does with a pod that ends.
func (p *platform) withdraw(r *replica) {
	p.fleet.mu.Lock()
	defer p.fleet.mu.Unlock()
	p.fleet.replicas[r.host()] = slices.DeleteFunc(p.fleet.replicas[r.host()], func(o *replica) bool { return o == r })
	p.publish(r.host())
}

// publish writes the addresses of host into the DNS. The caller holds the lock.
func (p *platform) publish(host string) {
	var addrs []netip.Addr
	for _, r := range p.fleet.replicas[host] {
		addrs = append(addrs, r.ip)
	}
	p.dns.Set(host, addrs...)
}

// running returns the announced replicas of a service.
func (p *platform) running(name, version string) []*replica {
	p.fleet.mu.Lock()
	defer p.fleet.mu.Unlock()
	return slices.Clone(p.fleet.replicas[service{name: name, version: version}.host()])
}

// launch runs a replica that nobody knows yet.
func (p *platform) launch(s service) (*replica, error) {
	member, err := p.mesh.Join(s.name)
	if err != nil {
		return nil, err
	}
	tracer, err := p.telemetry.tracer(s.name)
	if err != nil {
		return nil, err
	}
	calls, err := p.caller(s.name, member, tracer)
	if err != nil {
		return nil, err
	}
	chain, err := member.Chain(meshtest.ServiceConfig{
		First: []gatemesh.Layer{tracer.Layer()}, Observer: p.logs.observer(s.name),
		InsecureAcceptStrangers: p.broken == "e", DisablePolicy: p.broken == "d" || s.bare, DisableIdentity: s.bare,
	})
	if err != nil {
		return nil, err
	}
	ip, web, rpc, err := p.fleet.listen(s.host(), s.register != nil)
	if err != nil {
		return nil, err
	}
	r := &replica{service: s, ip: ip, http: web.Addr().String(), member: member, calls: calls, ended: make(chan struct{})}
	servers := []serve.Server{p.web(r, chain, web)}
	lines := []*crash.Listener{}
	if rpc != nil {
		server, err := p.rpc(r, chain)
		if err != nil {
			return nil, errors.Join(err, web.Close(), rpc.Close())
		}
		r.grpc = rpc.Addr().String()
		servers = append(servers, serve.Server{Name: s.name + " grpc", GRPC: server, Listener: rpc})
	}
	// Only a replica that may be killed needs to know its connections: serve
	// accepts better from a listener of the system.
	if p.killable(s) {
		for i := range servers {
			l := crash.New(servers[i].Listener)
			servers[i].Listener, lines = l, append(lines, l)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.term = cancel
	r.kill = func() {
		r.killed.Store(true)
		for _, l := range lines {
			l.Crash()
		}
		cancel()
	}
	started := make(chan struct{})
	go func() {
		defer close(r.ended)
		r.err = serve.Run(ctx, serve.Config{
			Servers: servers, Logger: p.logs.logger(s.name), LameDuck: p.lameDuck(), Drain: drain,
			Started: func(map[string]net.Addr) { close(started) },
		})
	}()
	select {
	case <-started:
	case <-r.ended:
		return nil, r.err
	}
	p.fleet.mu.Lock()
	p.fleet.all = append(p.fleet.all, r)
	p.fleet.mu.Unlock()
	return r, nil
}

// killable says which services lose a replica without a goodbye.
func (p *platform) killable(s service) bool {
	return s.name == "payment-service" || p.broken == "k"
}

// lameDuck is none where nothing is rolled: the platform ends faster.
func (p *platform) lameDuck() time.Duration {
	if p.rolls {
		return lameDuck
	}
	return 0
}

func (p *platform) web(r *replica, chain *gatemesh.Chain, l net.Listener) serve.Server {
	config := r.member.TLS().ServerConfig()
	if p.broken == "e" {
		acceptStrangers(config)
	}
	if r.http1 {
		config.NextProtos = []string{"http/1.1"}
	}
	return serve.Server{Name: r.name, Listener: l, Handler: chain.Handler(r.handler(r)), TLS: config}
}

func (p *platform) rpc(r *replica, chain *gatemesh.Chain) (*grpc.Server, error) {
	mesh, err := grpcmesh.NewServer(chain)
	if err != nil {
		return nil, err
	}
	options := append(mesh.Options(), grpc.Creds(grpcmesh.Credentials(r.member.TLS(), nil)))
	if p.broken == "j" { // mutual TLS, and nothing behind it
		options = []grpc.ServerOption{grpc.Creds(grpcmesh.Credentials(r.member.TLS(), nil))}
	}
	server := grpc.NewServer(options...)
	r.register(r, server)
	return server, nil
}
