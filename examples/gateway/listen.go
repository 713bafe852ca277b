package main

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/gatemesh-go/gatemesh/manifest"
	"github.com/gatemesh-go/gatemesh/serve"
)

// listenFlag is where the front door is. Each has a port of the Gateway, or
// there is one with 0.
type listenFlag []listen

type listen struct {
	port uint16
	addr string
}

func (f *listenFlag) String() string { return "" }

func (f *listenFlag) Set(s string) error {
	port, addr, mapped := strings.Cut(s, "=")
	if !mapped {
		*f = append(*f, listen{0, s})
		return nil
	}
	p, err := strconv.ParseUint(port, 10, 16)
	if err != nil || p == 0 {
		return fmt.Errorf("%q is not a port", port)
	}
	*f = append(*f, listen{uint16(p), addr})
	return nil
}

// buildListeners binds the addresses of ports of the Gateway, as the routes have
// to know at which local port a call arrives that is for one of them.
func (o *options) buildListeners(b *built) error {
	var errs []error
	seen := map[uint16]bool{}
	for _, l := range o.listen {
		switch {
		case l.port == 0 && len(o.listen) > 1:
			return errors.New("-listen is given several times; say which port of the Gateway each is for, as in -listen 80=ADDR -listen 443=ADDR")
		case l.port == 0:
			return nil
		case o.manifests == "":
			return fmt.Errorf("-listen %d=%s: without -manifests there is no Gateway with ports; give an address alone", l.port, l.addr)
		case seen[l.port]:
			errs = append(errs, fmt.Errorf("-listen %d=%s: port %d is given twice", l.port, l.addr, l.port))
			continue
		}
		seen[l.port] = true
		bound, err := net.Listen("tcp", l.addr)
		if err != nil {
			errs = append(errs, fmt.Errorf("-listen %d=%s: %w", l.port, l.addr, err))
			continue
		}
		b.closes = append(b.closes, bound.Close)
		local, err := netip.ParseAddrPort(bound.Addr().String())
		if err != nil {
			errs = append(errs, fmt.Errorf("-listen %d=%s: %w", l.port, l.addr, err))
			continue
		}
		if b.bound == nil {
			b.bound, b.edge.Ports, b.encrypted = map[uint16]net.Listener{}, map[uint16]uint16{}, map[uint16]bool{}
		}
		b.bound[l.port], b.edge.Ports[l.port] = bound, local.Port()
	}
	return errors.Join(errs...)
}

// checkListeners compares the Gateway's listeners with the flags, and with what
// is served already: servers do not come and go with a file.
func (o *options) checkListeners(b *built, set *manifest.Set) error {
	var errs []error
	list := set.Listeners()
	ports := map[uint16]bool{} // whether they are for TLS
	tls := false
	for _, l := range list {
		if other, known := ports[l.Port]; known && other != l.HTTPS {
			errs = append(errs, fmt.Errorf("%s: listener %s: port %d has listeners of HTTP and of HTTPS", l.Position, l.Name, l.Port))
		}
		ports[l.Port] = l.HTTPS
		tls = tls || l.HTTPS
	}
	for _, l := range list {
		if tls != o.tls.given() && (l.HTTPS || !tls) {
			errs = append(errs, fmt.Errorf("%s: listener %s: HTTPS takes -tls-cert and -tls-key, or -tls-dir, HTTP takes none of them", l.Position, l.Name))
		}
	}
	if b.bound == nil {
		if len(ports) > 1 {
			errs = append(errs, fmt.Errorf("the Gateway has the ports %s; say where each is, as in %s", portNames(ports), examplesOf(ports)))
		}
		return errors.Join(errs...)
	}
	for _, l := range list {
		if was, known := b.encrypted[l.Port]; known && was != l.HTTPS {
			errs = append(errs, fmt.Errorf("%s: listener %s: whether port %d speaks TLS cannot change while it is served", l.Position, l.Name, l.Port))
		}
	}
	for _, p := range sortedPorts(ports) {
		if b.bound[p] == nil {
			errs = append(errs, fmt.Errorf("the Gateway has port %d, and no -listen %d=ADDR says where that is", p, p))
		}
	}
	for _, l := range o.listen {
		if _, known := ports[l.port]; !known {
			errs = append(errs, fmt.Errorf("-listen %d=%s: the Gateway has no port %d; it has %s", l.port, l.addr, l.port, portNames(ports)))
		}
	}
	if len(errs) == 0 && len(b.encrypted) == 0 {
		for p, s := range ports {
			b.encrypted[p] = s
		}
	}
	return errors.Join(errs...)
}

func sortedPorts(ports map[uint16]bool) []uint16 {
	var list []uint16
	for p := range ports {
		list = append(list, p)
	}
	slices.Sort(list)
	return list
}

func portNames(ports map[uint16]bool) string {
	var names []string
	for _, p := range sortedPorts(ports) {
		names = append(names, strconv.Itoa(int(p)))
	}
	return cmp.Or(strings.Join(names, ", "), "none")
}

func examplesOf(ports map[uint16]bool) string {
	var flags []string
	for _, p := range sortedPorts(ports) {
		flags = append(flags, fmt.Sprintf("-listen %d=ADDR", p))
	}
	return strings.Join(flags, " ")
}

// servers are those of the front door.
func (o *options) servers(b *built, to serve.Server) (list []serve.Server) {
	if b.bound == nil {
		to.Name, to.Addr, to.TLS = "public", o.listen[0].addr, b.tls
		return []serve.Server{to}
	}
	for _, p := range sortedPorts(b.encrypted) {
		one := to
		one.Name, one.Listener = fmt.Sprintf("public %d", p), b.bound[p]
		if b.encrypted[p] {
			one.TLS = b.tls
		}
		list = append(list, one)
	}
	return list
}
