package main

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/manifest"
	"github.com/gatemesh-go/gatemesh/routing"
	"github.com/gatemesh-go/gatemesh/routing/pool"
)

// byList makes one upstream of those with the same name: each call goes to one
// of their URLs, none to one that fails, and what got no answer at one is tried
// at another if it may be made twice.
func (o *options) byList(b *built, observer gatemesh.Observer) error {
	byName := map[gatemesh.Destination][]routing.Upstream{}
	var names []gatemesh.Destination
	for _, u := range b.edge.Upstreams {
		d := serves(&u)
		if byName[d] == nil {
			names = append(names, d)
		}
		byName[d] = append(byName[d], u)
	}
	var all []routing.Upstream
	var errs []error
	for _, d := range names {
		list := byName[d]
		if len(list) > 1 {
			endpoints, err := o.static(&list[0], list, observer)
			if err != nil {
				errs = append(errs, fmt.Errorf("-upstream %s: %w", upstreamName(d), err))
			} else if endpoints != nil {
				b.follow(&list[0], endpoints)
			}
		}
		all = append(all, list[0])
	}
	b.edge.Upstreams = all
	return errors.Join(errs...)
}

// static has u go to the URLs of list. It returns no pool if one of them is
// faulty, of which checkUpstreams speaks.
func (o *options) static(u *routing.Upstream, list []routing.Upstream, observer gatemesh.Observer) (*balanced, error) {
	var addrs []string
	scheme := ""
	for _, one := range list {
		if faultOfURL(one.URL) != "" {
			return nil, nil
		}
		to, err := url.Parse(one.URL)
		switch {
		case err != nil:
			return nil, nil
		case strings.HasPrefix(to.Host, "_"):
			return nil, errors.New("an SRV name says all endpoints there are; give it alone")
		case scheme != "" && to.Scheme != scheme:
			return nil, fmt.Errorf("some URLs are %s and some %s; those of one name must have one scheme", scheme, to.Scheme)
		}
		scheme = to.Scheme
		addr := net.JoinHostPort(to.Hostname(), cmp.Or(to.Port(), defaultPort(scheme)))
		if slices.Contains(addrs, addr) {
			return nil, errors.New("is given twice with the same URL")
		}
		addrs = append(addrs, addr)
	}
	return o.balance(u, pool.Static(addrs...), manifest.TrafficPolicy{}, observer)
}

func defaultPort(scheme string) string {
	if scheme == "https" {
		return "443"
	}
	return "80"
}
