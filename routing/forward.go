package routing

import (
	"maps"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strings"

	"github.com/gatemesh-go/gatemesh"
)

// rewrite makes the request to the upstream. ReverseProxy has removed the
// hop-by-hop fields and those that are made anew here.
func rewrite(pr *httputil.ProxyRequest) {
	d := dispatchFrom(pr.In.Context())
	u := pr.Out.URL
	u.Scheme, u.Host = d.upstream.scheme, d.upstream.host
	// ReverseProxy drops parameters that net/url cannot parse, but policies
	// and upstreams are to see the same query, but for a credential in it.
	u.RawQuery = d.call.ForwardedQuery()
	forwarding(pr.In, pr.Out.Header, d.call, &d.forwarded)
	if d.path != d.call.Path() {
		setPath(u, d.path)
	}
	if d.stages.n > 0 {
		d.stages.changeRequest(pr.Out)
		d.mirror(pr.Out)
	}
}

// forwarding sets the fields that say whom and what the request came from.
// Entry has dropped those of callers that are not trusted.
func forwarding(in *http.Request, h http.Header, c *gatemesh.Call, made *[3][1]string) {
	remote := c.RemoteAddr().Addr().Unmap().WithZone("")
	var chain, forwarded []string
	host := in.Host
	if c.Trusted() {
		chain, forwarded = in.Header["X-Forwarded-For"], in.Header["Forwarded"]
		if first, ok := c.Header().Only("X-Forwarded-Host"); ok {
			host = first // the one that the client asked for
		}
	}
	if remote.IsValid() { // not on a Unix socket
		chain = append(chain[:len(chain):len(chain)], remote.String())
	}
	if len(chain) > 0 {
		set(h, "X-Forwarded-For", strings.Join(chain, ", "), &made[0])
	}
	set(h, "X-Forwarded-Host", host, &made[1])
	set(h, "X-Forwarded-Proto", c.Scheme(), &made[2])
	if len(forwarded) > 0 && wellFormed(forwarded) {
		h.Set("Forwarded", strings.Join(forwarded, ", ")+", "+forwardedElement(remote, in))
	}
}

// set is h.Set for a name in canonical form, with room for the value.
func set(h http.Header, name, value string, room *[1]string) {
	room[0] = value
	h[name] = room[:]
}

// wellFormed reports whether the values of Forwarded are by the grammar of RFC
// 7239 §4. To others nothing can be added: what a string that does not end
// leaves open would swallow it.
func wellFormed(values []string) bool {
	for _, v := range values {
		for more := true; more; {
			if v, more = forwardedPair(v); v == malformed {
				return false
			}
		}
	}
	return true
}

const malformed = "\x00" // no field value has it

// forwardedPair returns what follows the first pair of v, which may be empty,
// and whether a comma or semicolon says that another one follows.
func forwardedPair(v string) (rest string, more bool) {
	v = strings.TrimLeft(v, " \t")
	if name := tokenLength(v); name > 0 {
		if v = v[name:]; v == "" || v[0] != '=' {
			return malformed, false
		}
		v = v[1:]
		n := tokenLength(v)
		if n == 0 {
			n = quotedLength(v)
		}
		if n == 0 {
			return malformed, false
		}
		v = strings.TrimLeft(v[n:], " \t")
	}
	switch {
	case v == "":
		return "", false
	case v[0] == ',' || v[0] == ';':
		return v[1:], true
	}
	return malformed, false
}

func tokenLength(s string) int {
	for i := range len(s) {
		if !tokenByte[s[i]] {
			return i
		}
	}
	return len(s)
}

// quotedLength returns the length of the quoted string (RFC 9110 §5.6.4) that s
// begins with, or 0.
func quotedLength(s string) int {
	if s == "" || s[0] != '"' {
		return 0
	}
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return i + 1
		case c == '\\':
			i++
		case c < ' ' && c != '\t' || c == 0x7f:
			return 0
		}
	}
	return 0
}

// forwardedElement describes this hop as in RFC 7239 §4.
func forwardedElement(remote netip.Addr, in *http.Request) string {
	node := "unknown"
	switch {
	case remote.Is4():
		node = remote.String()
	case remote.Is6():
		node = `"[` + remote.String() + `]"`
	}
	proto := "http"
	if in.TLS != nil {
		proto = "https"
	}
	return "for=" + node + `;host="` + in.Host + `";proto=` + proto
}

// isWebsocket reports whether r is a websocket handshake as RFC 6455 §4.1
// describes it, and no attempt at another protocol beside it.
func isWebsocket(r *http.Request) bool {
	return r.Method == http.MethodGet && r.ProtoMajor == 1 && r.ProtoMinor >= 1 &&
		only(r.Header, "Upgrade", "websocket") && only(r.Header, "Sec-Websocket-Version", "13") &&
		len(r.Header["Sec-Websocket-Key"]) == 1 && r.Header["Http2-Settings"] == nil
}

func only(h http.Header, name, value string) bool {
	v := h[name]
	return len(v) == 1 && strings.EqualFold(v[0], value)
}

// withoutUpgrade returns h without what asks for another protocol. It copies h
// only if there is such a thing.
func withoutUpgrade(h http.Header) http.Header {
	if h["Upgrade"] == nil && h["Http2-Settings"] == nil {
		return h
	}
	h = maps.Clone(h)
	delete(h, "Upgrade")
	delete(h, "Http2-Settings")
	return h
}
