package gatemesh

import (
	"maps"
	"net/http"
)

// HostTransports returns a RoundTripper that sends a request through the one in
// m for the host of its URL, looked up as by [MeshHosts], and all others
// through others; nil is [http.DefaultTransport]. It is the base of an
// [Outbound] that has more than one callee: a transport that is pinned to one
// of them must not carry what is for another.
func HostTransports(m map[string]http.RoundTripper, others http.RoundTripper) http.RoundTripper {
	if others == nil {
		others = http.DefaultTransport
	}
	return &hostTransports{maps.Clone(m), others}
}

type hostTransports struct {
	hosts  map[string]http.RoundTripper
	others http.RoundTripper
}

func (t *hostTransports) RoundTrip(r *http.Request) (*http.Response, error) {
	if next, ok := lookupHost(t.hosts, r.URL.Host); ok && next != nil {
		return next.RoundTrip(r)
	}
	return t.others.RoundTrip(r)
}

// lookupHost looks an authority up, first as "name:port", then as "name".
func lookupHost[T any](m map[string]T, authority string) (v T, ok bool) {
	name, port, err := CanonicalHost(authority)
	if err != nil {
		return v, false
	}
	if v, ok = m[name+":"+port]; !ok {
		v, ok = m[name]
	}
	return v, ok
}
