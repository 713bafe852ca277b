package canary

import (
	"bytes"
	"crypto/sha256"
	_ "embed" // for the page
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// PageConfig configures a page about rollouts. The zero PageConfig is about none.
type PageConfig struct {
	// Rollouts are what the page shows.
	Rollouts []*Rollout
	// Actions adds buttons that pause, resume, promote and roll back, for
	// whoever can reach the page. Default: it only shows.
	Actions bool
}

// NewPage returns a page about rollouts for an admin listener, which must not be
// open to everybody: it tells shares, rates and names. GET gives HTML, and JSON
// with "?format=json": an array of [Status]. The page loads nothing from
// anywhere, and no script runs on it.
//
// With Actions, POST with the form fields service, namespace and action, one of
// pause, resume, promote and abort, acts. With a field change, the State's
// Changes, resume and promote are refused with 409 once that has become another
// one. What another website has a browser send is refused by
// [http.CrossOriginProtection].
func NewPage(cfg PageConfig) http.Handler {
	p := &page{rollouts: slices.Clone(cfg.Rollouts), actions: cfg.Actions}
	return http.NewCrossOriginProtection().Handler(p)
}

type page struct {
	rollouts []*Rollout
	actions  bool
}

//go:embed page.html
var pageHTML string

//go:embed page.css
var pageCSS string

var pageTemplate = template.Must(template.New("page").Parse(pageHTML))

// policy lets the page have its own style, and nothing else.
var policy = func() string {
	sum := sha256.Sum256([]byte(pageCSS))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
}()

func (p *page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	switch {
	case r.Method == http.MethodPost && p.actions:
		p.act(w, r)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		allow := "GET, HEAD"
		if p.actions {
			allow += ", POST"
		}
		h.Set("Allow", allow)
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
	case r.URL.Query().Get("format") == "json":
		all := make([]Status, len(p.rollouts))
		for i, ro := range p.rollouts {
			all[i] = ro.Status()
		}
		h.Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(all) // the client may have left
	default:
		p.render(w)
	}
}

func (p *page) act(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
	if r.ParseForm() != nil {
		http.Error(w, "bad form", http.StatusBadRequest)
		return
	}
	of := service{r.PostForm.Get("service"), r.PostForm.Get("namespace")}
	i := slices.IndexFunc(p.rollouts, func(ro *Rollout) bool { return ro.service == of })
	if i < 0 {
		http.Error(w, "no such rollout", http.StatusNotFound)
		return
	}
	ro := p.rollouts[i]
	// A button does what the page with it has shown: pressed twice, or late, it
	// must not end another pause. Rolling back and pausing are never too late.
	seen, err := strconv.ParseUint(r.PostForm.Get("change"), 10, 64)
	if err != nil && r.PostForm.Has("change") {
		http.Error(w, "bad form", http.StatusBadRequest)
		return
	}
	switch r.PostForm.Get("action") {
	case "pause":
		err = ro.Pause(r.Context())
	case "resume":
		err = ro.resume(r.Context(), seen)
	case "promote":
		err = ro.promote(r.Context(), seen)
	case "abort":
		err = ro.Abort(r.Context())
	default:
		http.Error(w, "no such action", http.StatusBadRequest)
		return
	}
	switch {
	case errors.Is(err, ErrEnded):
		http.Error(w, "the rollout has ended", http.StatusConflict)
	case errors.Is(err, errChanged):
		http.Error(w, "the rollout has changed meanwhile", http.StatusConflict)
	case err != nil:
		http.Error(w, "the store is away; a rollback was made in this process", http.StatusServiceUnavailable)
	default:
		w.Header().Set("Location", "/"+strings.TrimLeft(r.URL.EscapedPath(), "/")) // "//host" would be another site
		w.WriteHeader(http.StatusSeeOther)
	}
}

// view is what the template shows of a rollout.
type view struct {
	Name, Service, Namespace, ID string
	Phase, Class, StepText       string
	Replicas, Halt, ShareText    string
	Change                       uint64
	Away, Known, Paused, Ended   bool
	ShareWidth                   string
	Marks                        []string
	Versions                     []versionView
	Line, Area                   string
	History                      []entryView
}

type versionView struct {
	Subset, Class, Share, Users, Calls, Success, P50, P95, P99 string
	Poor                                                       bool
	Buckets                                                    []bar
}

type bar struct{ X, Y, H int }

type entryView struct{ At, Class, Share, Text string }

func (p *page) render(w http.ResponseWriter) {
	data := struct {
		Style    template.CSS
		Actions  bool
		Rollouts []view
	}{template.CSS(pageCSS), p.actions, nil} // ours, and the hash in the policy is that of it
	for _, ro := range p.rollouts {
		data.Rollouts = append(data.Rollouts, viewOf(ro.Status()))
	}
	var b bytes.Buffer
	if err := pageTemplate.Execute(&b, data); err != nil {
		http.Error(w, "the page could not be made", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(b.Bytes()) // the client may have left
}

var phaseClass = map[Phase]string{Running: "running", Promoted: "ok", RolledBack: "down"}

func viewOf(s Status) view {
	share := s.Versions[canary].Share
	v := view{
		Name:    service{s.Service, s.Namespace}.String(),
		Service: s.Service, Namespace: s.Namespace, ID: s.State.ID, Phase: string(s.State.Phase), Class: phaseClass[s.State.Phase],
		Change: s.State.Changes, Halt: s.State.Halt, Away: s.StoreAway, Paused: s.State.Phase == Paused, Ended: s.State.ended(),
		Replicas: "1 replica", ShareWidth: point(share * 1000),
		ShareText: s.Versions[canary].Subset + " gets " + percent(share),
	}
	if v.Known = s.State.Phase != ""; !v.Known {
		v.Phase = "unknown"
	}
	for i, of := range s.Versions {
		v.Versions = append(v.Versions, versionOf(of, [2]string{"stable", "canary"}[i]))
	}
	if s.Replicas > 1 {
		v.Replicas = strconv.Itoa(s.Replicas) + " replicas"
	}
	switch {
	case v.Ended:
		v.StepText = v.ID + " · ended"
	case !v.Known:
		v.StepText = v.Versions[canary].Subset + " gets nobody until the store has been read"
	default:
		v.StepText = v.ID + " · " + fmt.Sprintf("step %d of %d for %v", s.State.Step+1, len(s.Steps), s.State.Elapsed.Truncate(time.Second))
	}
	for _, step := range s.Steps {
		v.Marks = append(v.Marks, point(step.Percent*10))
	}
	v.Line, v.Area = chart(s)
	for _, e := range slices.Backward(s.State.History) {
		v.History = append(v.History, entryView{
			e.At.UTC().Format("2006-01-02 15:04:05"), phaseClass[e.Phase], shareText(e.Share), e.Text,
		})
	}
	return v
}

func versionOf(of Version, class string) versionView {
	v := versionView{
		Subset: of.Subset, Class: class, Share: percent(of.Share), Users: "~" + strconv.Itoa(of.Users), Calls: strconv.Itoa(of.Calls),
		Success: "–", P50: latency(of.P50), P95: latency(of.P95), P99: latency(of.P99),
	}
	if of.Calls > 0 {
		ok := float64(of.Calls-of.Failed) / float64(of.Calls)
		v.Success, v.Poor = fmt.Sprintf("%.2f %%", ok*100), ok < 0.99
	}
	most := max(1, slices.Max(of.Buckets))
	for i, n := range of.Buckets {
		height := (24*n + most - 1) / most
		v.Buckets = append(v.Buckets, bar{i * 10, 24 - height, height})
	}
	return v
}

func latency(d time.Duration) string {
	switch {
	case d == 0:
		return "–"
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", d.Seconds()*1e3)
	case d < time.Second:
		return fmt.Sprintf("%.0f ms", d.Seconds()*1e3)
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

func point(x float64) string { return strconv.FormatFloat(x, 'f', 1, 64) }

// chart draws the share from change to change, by time.
func chart(s Status) (line, area string) {
	h := s.State.History
	if len(h) == 0 {
		return "", ""
	}
	began := h[0].At
	all := max(s.At.Sub(began), time.Second)
	x := func(at time.Time) string { // clocks of replicas differ
		return point(min(1, max(0, at.Sub(began).Seconds()/all.Seconds())) * 1000)
	}
	y := func(share uint32) string { return point(110 - float64(share)/whole*100) }
	var points []string
	for i, e := range h {
		if i > 0 {
			points = append(points, x(e.At)+","+y(h[i-1].Share))
		}
		points = append(points, x(e.At)+","+y(e.Share))
	}
	points = append(points, "1000.0,"+y(h[len(h)-1].Share))
	line = strings.Join(points, " ")
	return line, "0.0,110.0 " + line + " 1000.0,110.0"
}
