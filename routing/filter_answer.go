package routing

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"

	"github.com/gatemesh-go/gatemesh"
)

// redirect is a compiled Redirect.
type redirect struct {
	scheme, host, port string // "" is that of the request
	path               *pathChange
	status             int
}

func (f *faults) redirect(at gatemesh.Position, field string, in *Redirect, r *Route) *redirect {
	c := &redirect{scheme: in.Scheme, host: in.Hostname, status: in.Status, path: f.pathChange(at, field+".Path", &in.Path, r)}
	if in.Scheme != "" && in.Scheme != "http" && in.Scheme != "https" {
		f.add(at, "%s.Scheme must be http or https", field)
	}
	if name, port, err := gatemesh.CanonicalHost(in.Hostname); err != nil || port != "" || in.Hostname != "" && in.Hostname != authority(name, "") {
		f.add(at, "%s.Hostname %q is not a host name in lower case", field, in.Hostname)
	}
	if in.Port != 0 {
		c.port = strconv.Itoa(int(in.Port))
	}
	switch in.Status {
	case 0:
		c.status = http.StatusFound
	case 301, 302, 303, 307, 308:
	default:
		f.add(at, "%s.Status %d is not 301, 302, 303, 307 or 308", field, in.Status)
	}
	return c
}

// location returns where the request r of the call c is sent. It is absolute and
// made of what was judged, so that no path can be taken for a host.
func (d *redirect) location(t *table, r *http.Request, c *gatemesh.Call) (string, *gatemesh.Denial) {
	path, denial := d.path.apply(c.Path())
	if denial != nil {
		return "", denial
	}
	if path == "*" {
		path = "/"
	}
	scheme, host, port := d.scheme, d.host, d.port
	if scheme == "" {
		scheme = c.Scheme()
	}
	if host == "" {
		host = authority(c.Host(), "")
	}
	if port == "" && d.scheme == "" {
		port = t.askedAt(r, c)
	}
	if port == defaultPort(scheme) {
		port = ""
	}
	if port != "" {
		host += ":" + port
	}
	query := c.RawQuery()
	if d.host != "" && d.host != authority(c.Host(), "") || c.Scheme() == "https" && scheme == "http" {
		query = c.ForwardedQuery() // a credential stays between the client and us
	}
	if query != "" {
		query = "?" + escapeQuery(query)
	}
	return scheme + "://" + host + path + query, nil
}

// askedAt returns the port that the client has asked at: that of the listener,
// as the Gateway API wants it. Behind a proxy that ends TLS it is not ours.
func (t *table) askedAt(r *http.Request, c *gatemesh.Call) string {
	if p := t.publicPort(c); p != 0 && c.Encrypted() == (c.Scheme() == "https") {
		return strconv.Itoa(int(p))
	}
	_, port, _ := gatemesh.CanonicalHost(r.Host) // which Entry has judged
	return port
}

func (t *table) publicPort(c *gatemesh.Call) uint16 {
	if t.listeners != nil {
		if l, err := t.listeners.of(c); err == nil && l != nil && l.public != 0 {
			return l.public
		}
	}
	return c.LocalPort()
}

func defaultPort(scheme string) string {
	if scheme == "https" {
		return "443"
	}
	return "80"
}

// escapeQuery escapes what must not stand raw in a URI: servers take such
// queries, but not everybody who reads a Location.
func escapeQuery(q string) string {
	raw := func(c byte) bool { return c <= ' ' || c >= 0x7f || strings.IndexByte("\"<>\\^`{|}#", c) >= 0 }
	n := 0
	for i := range len(q) {
		if raw(q[i]) {
			n++
		}
	}
	if n == 0 {
		return q
	}
	const hex = "0123456789ABCDEF"
	out := make([]byte, 0, len(q)+2*n)
	for i := range len(q) {
		if c := q[i]; raw(c) {
			out = append(out, '%', hex[c>>4], hex[c&15])
		} else {
			out = append(out, c)
		}
	}
	return string(out)
}

// answer is a compiled Response.
type answer struct {
	status      int
	body        []byte
	contentType string
}

const maxAnswer = 64 << 10

func (f *faults) answer(at gatemesh.Position, field string, in *Response) *answer {
	if in.Status < 200 || in.Status > 599 {
		f.add(at, "%s.Status must be 200 to 599", field)
	}
	switch {
	case len(in.Body) == 0:
		if in.ContentType != "" {
			f.add(at, "%s.ContentType needs a Body", field)
		}
	case len(in.Body) > maxAnswer:
		f.add(at, "%s.Body must not be longer than 64 KiB", field)
	case in.Status == http.StatusNoContent, in.Status == http.StatusResetContent, in.Status == http.StatusNotModified:
		f.add(at, "%s.Body: an answer with status %d has none", field, in.Status)
	default:
		f.fieldValue(at, field+".ContentType", in.ContentType)
	}
	return &answer{in.Status, bytes.Clone(in.Body), in.ContentType}
}

// serve answers with the redirect or response of a stage.
func (s *stages) serve(w http.ResponseWriter, r *http.Request, d *dispatch) *gatemesh.Denial {
	h := w.Header()
	for _, f := range s.all[:s.n] {
		switch {
		case f.redirect != nil:
			location, denial := f.redirect.location(d.table, r, d.call)
			if denial != nil {
				return denial
			}
			h.Set("Location", location)
			h.Set("Content-Length", "0")
			s.changeResponse(h)
			w.WriteHeader(f.redirect.status)
			return nil
		case f.answer != nil:
			a := f.answer
			if len(a.body) > 0 {
				h.Set("Content-Type", a.contentType)
				h.Set("X-Content-Type-Options", "nosniff")
			}
			if a.status != http.StatusNoContent && a.status != http.StatusNotModified {
				h.Set("Content-Length", strconv.Itoa(len(a.body)))
			}
			s.changeResponse(h)
			w.WriteHeader(a.status)
			if r.Method != http.MethodHead {
				_, _ = w.Write(a.body) // the client may be gone, which concerns nobody else
			}
			return nil
		}
	}
	return nil
}
