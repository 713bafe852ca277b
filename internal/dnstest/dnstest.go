// Package dnstest is a small DNS server on loopback, over UDP and TCP, whose
// records change while it runs. It is for tests and demonstrations of what
// follows the DNS: it knows names and nothing of zones, and answers A, AAAA and
// SRV.
package dnstest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Mode says how a Server answers.
type Mode uint8

// The modes of a Server.
const (
	// Answer answers from the records: NXDOMAIN for names without any.
	Answer Mode = iota
	// Drop takes queries and never answers.
	Drop
	// ServFail answers SERVFAIL.
	ServFail
)

// SRV is a service record (RFC 2782).
type SRV struct {
	Target                 string
	Port, Priority, Weight uint16
}

// Server is a running DNS server. Its methods are safe for concurrent use. Make
// it with [New] and close it.
type Server struct {
	addr string
	udp  net.PacketConn
	tcp  net.Listener
	done sync.WaitGroup

	mu      sync.Mutex // guards what follows
	records map[string]records
	ttl     time.Duration
	mode    Mode
	modes   map[string]Mode // of single names
	queries map[string]int
	conns   map[net.Conn]struct{}
	closed  bool
}

type records struct {
	addrs []netip.Addr
	srv   []SRV
}

// New returns a Server without records and with a TTL of 5 s, on a free port of
// loopback.
func New() (*Server, error) {
	s := &Server{records: map[string]records{}, ttl: 5 * time.Second, modes: map[string]Mode{}, queries: map[string]int{}, conns: map[net.Conn]struct{}{}}
	var err error
	for range 10 { // the port that UDP got may be taken for TCP
		if s.udp, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
			return nil, fmt.Errorf("dnstest: %w", err)
		}
		s.addr = s.udp.LocalAddr().String()
		if s.tcp, err = net.Listen("tcp", s.addr); err == nil {
			s.done.Go(s.serveUDP)
			s.done.Go(s.serveTCP)
			return s, nil
		}
		_ = s.udp.Close() // nobody knows of it
	}
	return nil, fmt.Errorf("dnstest: %w", err)
}

// Close stops the server and waits for its goroutines. Closing twice is
// harmless.
func (s *Server) Close() error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		_ = s.udp.Close() // so that the goroutines end; there is nothing to lose
		_ = s.tcp.Close()
		for c := range s.conns {
			_ = c.Close()
		}
	}
	s.mu.Unlock()
	s.done.Wait()
	return nil
}

// Addr returns "host:port", the same for UDP and TCP.
func (s *Server) Addr() string { return s.addr }

// Resolver returns a resolver that asks s and nobody else, except for what the
// machine's hosts file names. A lookup that is given up leaves no goroutine
// behind, as one of package net would for seconds.
func (s *Server) Resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, network, s.addr)
		if err == nil {
			context.AfterFunc(ctx, func() { _ = c.Close() })
		}
		return c, err
	}}
}

// Set makes addrs the addresses of name, A and AAAA. Without any, the name
// exists and its answer is empty.
func (s *Server) Set(name string, addrs ...netip.Addr) {
	s.change(name, func(r *records) { r.addrs = append([]netip.Addr(nil), addrs...) })
}

// SetSRV makes srv the service records of name.
func (s *Server) SetSRV(name string, srv ...SRV) {
	s.change(name, func(r *records) { r.srv = append([]SRV(nil), srv...) })
}

func (s *Server) change(name string, f func(*records)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.records[canonical(name)]
	f(&r)
	s.records[canonical(name)] = r
}

// Remove takes name away, so that the answer is NXDOMAIN.
func (s *Server) Remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.records, canonical(name))
}

// SetTTL changes the TTL of the answers, in whole seconds.
func (s *Server) SetTTL(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ttl = d
}

// SetMode changes how queries are answered from now on: those for names, or all
// if none are given.
func (s *Server) SetMode(m Mode, names ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(names) == 0 {
		s.mode = m
		clear(s.modes)
	}
	for _, n := range names {
		s.modes[canonical(n)] = m
	}
}

// Queries returns how many queries for name have come, of all types and in all
// modes.
func (s *Server) Queries(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queries[canonical(name)]
}

// canonical returns name in lower case and with its last dot.
func canonical(name string) string { return strings.TrimSuffix(strings.ToLower(name), ".") + "." }

// answer returns the response to a query in at most limit bytes, or nil for
// none. A limit of 0 is that which the query names.
func (s *Server) answer(query []byte, limit int) []byte {
	var q dnsmessage.Message
	if err := q.Unpack(query); err != nil || q.Response || len(q.Questions) != 1 {
		return nil
	}
	name := canonical(q.Questions[0].Name.String())
	s.mu.Lock()
	s.queries[name]++
	r, known := s.records[name]
	mode, ttl := s.mode, uint32(s.ttl/time.Second)
	if m, ok := s.modes[name]; ok {
		mode = m
	}
	s.mu.Unlock()
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: q.ID, Response: true, Authoritative: true, RecursionDesired: q.RecursionDesired},
		Questions: q.Questions,
	}
	switch {
	case mode == Drop:
		return nil
	case mode == ServFail:
		m.RCode = dnsmessage.RCodeServerFailure
	case !known:
		m.RCode = dnsmessage.RCodeNameError
	default:
		m.Answers = r.answers(q.Questions[0], ttl)
	}
	if limit == 0 {
		limit = 512 // RFC 1035 §4.2.1, unless EDNS says more
		for _, o := range q.Additionals {
			if o.Header.Type == dnsmessage.TypeOPT {
				limit = max(limit, int(o.Header.Class))
			}
		}
	}
	out, err := m.Pack()
	if err == nil && len(out) > limit {
		m.Truncated, m.Answers = true, nil
		out, err = m.Pack()
	}
	if err != nil { // a name that is none
		return nil
	}
	return out
}

// answers returns the records that q asks for.
func (r *records) answers(q dnsmessage.Question, ttl uint32) (found []dnsmessage.Resource) {
	add := func(body dnsmessage.ResourceBody) {
		found = append(found, dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: ttl}, Body: body})
	}
	switch q.Type {
	case dnsmessage.TypeA:
		for _, a := range r.addrs {
			if a.Is4() {
				add(&dnsmessage.AResource{A: a.As4()})
			}
		}
	case dnsmessage.TypeAAAA:
		for _, a := range r.addrs {
			if a.Is6() {
				add(&dnsmessage.AAAAResource{AAAA: a.As16()})
			}
		}
	case dnsmessage.TypeSRV:
		for _, v := range r.srv {
			// A name that is too long makes an answer that cannot be packed.
			target, _ := dnsmessage.NewName(canonical(v.Target))
			add(&dnsmessage.SRVResource{Priority: v.Priority, Weight: v.Weight, Port: v.Port, Target: target})
		}
	}
	return found
}
