package routing

import (
	"net/http"
	"net/url"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// stages are the filters that a call goes through, in the order of requests:
// those of its route, of the route's backend, of the service's rule, and of the
// rule's backend. The zero stages do nothing.
type stages struct {
	all [4]*filters
	n   int
}

func stagesOf(c *gatemesh.Call) (s stages) {
	if r := c.Route(); r != nil {
		s.add(r.Rule)
	}
	if b := c.Backend(); b != nil {
		s.add(b.Rule)
	}
	if r := c.ServiceRoute(); r != nil {
		s.add(r.Rule)
	}
	if b := c.ServiceBackend(); b != nil {
		s.add(b.Rule)
	}
	return s
}

func (s *stages) add(of any) {
	var f *filters
	switch of := of.(type) {
	case *rule:
		f = of.filters
	case *backend:
		f = of.filters
	}
	if f != nil {
		s.all[s.n] = f
		s.n++
	}
}

// answer reports whether a stage answers by itself.
func (s *stages) answer() bool {
	for _, f := range s.all[:s.n] {
		if f.redirect != nil || f.answer != nil {
			return true
		}
	}
	return false
}

// gone reports whether what is called has ended at now: the route, or else the
// version.
func (d *dispatch) gone(now time.Time) bool {
	own := false
	for _, f := range d.stages.all[:d.stages.n] {
		if f.lifecycle.gone(now) {
			return true
		}
		own = own || f.lifecycle != nil
	}
	if own || len(d.table.versions) == 0 {
		return false
	}
	v, _ := d.table.version(d.call)
	return v != nil && v.lifecycle.gone(now)
}

// target returns the path that is sent on for that of c.
func (s *stages) target(path string) (_ string, denial *gatemesh.Denial) {
	for _, f := range s.all[:s.n] {
		if path, denial = f.path.apply(path); denial != nil {
			return "", denial
		}
	}
	return path, nil
}

// changeRequest makes of out, which is about to be sent with that path, what
// the stages want.
func (s *stages) changeRequest(out *http.Request) {
	for _, f := range s.all[:s.n] {
		if f.host != "" {
			out.Host = f.host
		}
		f.request.apply(out.Header)
	}
}

// changeResponse changes the header of an answer that nobody else changes after.
func (s *stages) changeResponse(h http.Header) {
	for i := s.n - 1; i >= 0; i-- {
		s.all[i].response.apply(h)
	}
}

// late does what the stages say of the answer whoever gives it, and layers before
// the proxy could not know: the rule of the service may have been chosen behind
// them. It reports whether it has answered.
func (p *proxy) late(w http.ResponseWriter, r *http.Request, d *dispatch) (answered bool) {
	if of := d.call.ServiceRoute(); of != nil {
		if own, ok := of.Rule.(*rule); ok && own.filters != nil && own.filters.lifecycle != nil {
			announce(w, own.filters.lifecycle)
		}
	}
	c := d.stages.cors()
	if c == nil || r.Context().Value(corsKey{}) == c {
		return false
	}
	return p.router.crossOrigin(w, r, d.call, c)
}

// setPath gives u a canonical path.
func setPath(u *url.URL, path string) {
	u.Path, _ = url.PathUnescape(path) // canonical paths unescape
	if u.RawPath = ""; u.EscapedPath() != path {
		u.RawPath = path
	}
}

// filter does to d, whose call is to be sent on, what can be said before, or says
// why it goes nowhere.
func (p *proxy) filter(d *dispatch) *gatemesh.Denial {
	if (d.stages.n > 0 || len(d.table.versions) > 0) && d.gone(time.Now()) {
		return denyGone
	}
	if d.stages.answer() {
		return nil
	}
	path, denial := d.stages.target(d.call.Path())
	if denial != nil {
		return denial
	}
	if path == d.call.Path() && len(d.table.versions) > 0 {
		path = d.table.stripped(d.call)
	}
	d.path = path
	return nil
}

// answer answers the call of d by itself.
func (p *proxy) answer(w http.ResponseWriter, r *http.Request, d *dispatch) {
	if denial := d.stages.serve(w, r, d); denial != nil {
		p.report(d.Context, d.call, denial)
		gatemesh.WriteDenial(w, r, denial)
	}
}

// changeResponse is the ModifyResponse of the proxy: the fields that end at this
// hop are gone already, so that the upstream cannot have ours taken off.
func changeResponse(resp *http.Response) error {
	d := dispatchFrom(resp.Request.Context())
	d.stages.changeResponse(resp.Header)
	return nil
}
