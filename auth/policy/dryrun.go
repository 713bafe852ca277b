package policy

import (
	"cmp"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// Candidate is a set of policies on trial beside the live ones. It is judged
// for the same workload, with the same root namespace and exempt paths.
//
// Hooks are not asked for it. One that has refused the call in earnest is taken
// to refuse it again, and all others to consent. Its AUDIT policies tell nobody.
type Candidate struct {
	// Policies take the place of [Config.Policies]. Default: none.
	Policies []Policy
	// Unselected takes the place of [Config.Unselected]. Default: the same.
	Unselected Verdict
	// Limit is how many different differences are kept, a quarter of them at
	// most for one caller; those beyond are counted. Default: 1000.
	Limit int
}

// DryRun returns what the candidate of the latest configuration would have
// changed so far, and whether there is one. An Update begins anew.
func (e *Engine) DryRun() (DryRun, bool) {
	s := e.state.Latest()
	if s == nil || s.dryRun == nil {
		return DryRun{}, false
	}
	return s.dryRun.snapshot(), true
}

// dryRun judges by a candidate and remembers where it differs.
type dryRun struct {
	candidate *state
	limit     int
	seed      maphash.Seed
	judged    [8]counter // by request, so that cores do not share one
	differing atomic.Uint64
	unlisted  atomic.Uint64
	failed    atomic.Uint64

	mu      sync.RWMutex
	kept    map[uint64]*difference
	callers map[string]int // how many of kept each has
}

type counter struct {
	atomic.Uint64
	_ [56]byte // a cache line of its own
}

type difference struct {
	Difference
	count atomic.Uint64
	last  atomic.Int64 // Unix nanoseconds
}

func (k *compiler) dryRun(cfg Config) *dryRun {
	c := cfg.Candidate
	if c == nil {
		return nil
	}
	if c.Limit < 0 {
		k.errs = append(k.errs, fmt.Errorf("policy: Config.Candidate.Limit: %d is negative", c.Limit))
	}
	cfg.Candidate, cfg.Policies, cfg.Observer = nil, c.Policies, nil
	cfg.Unselected = cmp.Or(c.Unselected, cfg.Unselected)
	s, err := compile(cfg)
	if err != nil {
		k.errs = append(k.errs, fmt.Errorf("policy: Config.Candidate: %w", err))
		return nil
	}
	return &dryRun{
		candidate: s, limit: cmp.Or(c.Limit, 1000), seed: maphash.MakeSeed(),
		kept: make(map[uint64]*difference), callers: make(map[string]int),
	}
}

// ruling is what became of a call.
type ruling struct {
	verdict Verdict
	rule    *rule  // that decided, or nil
	hook    string // that refused, or ""
}

// compare judges r, which is c, by the candidate. Nothing that happens here
// reaches the call, about which live has decided got.
func (d *dryRun) compare(c *gatemesh.Call, live *state, r *request, got ruling) {
	defer func() {
		if recover() != nil {
			d.failed.Add(1)
		}
	}()
	would := d.rule(r, got.hook)
	id := c.RequestID()
	d.judged[id[len(id)-1]%byte(len(d.judged))].Add(1)
	if would.verdict != got.verdict {
		d.record(c, live, r, got, would)
	}
}

// rule is the ruling of the candidate. No hook is asked: the one that refused
// the call in earnest would refuse it again, and others are taken to consent.
func (d *dryRun) rule(r *request, refused string) (would ruling) {
	for i := range d.candidate.custom {
		if cu := &d.candidate.custom[i]; refused != "" && cu.provider == refused {
			if would.rule = cu.rules.match(r); would.rule != nil {
				return ruling{Deny, would.rule, refused}
			}
		}
	}
	would.verdict, would.rule = d.candidate.decide(r) // exempt calls do not come here
	return would
}

var errUnlisted = errors.New("the list is full")

func (d *dryRun) record(c *gatemesh.Call, live *state, r *request, got, would ruling) {
	d.differing.Add(1)
	key := d.key(c, got, would)
	d.mu.RLock()
	known := d.kept[key]
	d.mu.RUnlock()
	if known == nil {
		var err error
		if known, err = d.keep(key, c, live, r, got, would); err != nil {
			d.unlisted.Add(1)
			return
		}
	}
	known.count.Add(1)
	known.last.Store(c.Received().UnixNano())
}

func (d *dryRun) keep(key uint64, c *gatemesh.Call, live *state, r *request, got, would ruling) (*difference, error) {
	caller := ""
	if p := c.Peer(); p != nil {
		caller = p.ID()
	}
	d.mu.RLock()
	full := d.full(caller)
	d.mu.RUnlock()
	if full { // before anything is written that nobody keeps
		return nil, errUnlisted
	}
	now := &difference{Difference: d.describe(c, live, r, got, would)}
	now.last.Store(now.First.UnixNano())
	d.mu.Lock()
	defer d.mu.Unlock()
	if known := d.kept[key]; known != nil {
		return known, nil
	}
	if d.full(caller) {
		return nil, errUnlisted
	}
	d.kept[key] = now
	d.callers[caller]++
	return now, nil
}

func (d *dryRun) full(caller string) bool {
	return len(d.kept) >= d.limit || d.callers[caller] >= (d.limit+3)/4
}

// key is equal for the calls that one Difference stands for. Its seed is
// random, so that nobody can make two of them meet.
func (d *dryRun) key(c *gatemesh.Call, got, would ruling) uint64 {
	var h maphash.Hash
	h.SetSeed(d.seed)
	text := func(s string) {
		h.WriteString(s)
		h.WriteByte(0)
	}
	if p := c.Peer(); p != nil {
		text(p.TrustDomain())
		text(p.Path())
	}
	text(c.Method())
	text(c.Host())
	maphash.WriteComparable(&h, c.LocalPort())
	maphash.WriteComparable(&h, got.rule)
	maphash.WriteComparable(&h, would.rule)
	maphash.WriteComparable(&h, [4]bool{got.verdict == Allow, c.Principal() != nil, c.Peer() != nil, c.Protocol() == gatemesh.GRPC})
	shape(&h, c.MatchPath())
	return h.Sum64()
}

// shape writes p to h with every segment that has a digit but does not begin a
// word like v1 replaced.
func shape(h *maphash.Hash, p string) {
	for len(p) > 0 {
		end := 1
		for end < len(p) && p[end] != '/' {
			end++
		}
		segment := p[:end]
		p = p[end:]
		digit := slices.ContainsFunc([]byte(segment), func(b byte) bool { return '0' <= b && b <= '9' })
		version := len(segment) <= 4 && len(segment) > 2 && segment[1] == 'v'
		if digit && !version {
			segment = "/\x00"
		}
		h.WriteString(segment)
	}
}

// maxKeptText bounds what a caller can make a Difference hold.
const maxKeptText = 512

// keptText returns a copy, as s may be a part of a whole request.
func keptText(s string) string { return strings.Clone(s[:min(len(s), maxKeptText)]) }

// describe makes a Difference of c. It asks both again about what is kept
// alone, to see whether that leads to the same verdicts.
func (d *dryRun) describe(c *gatemesh.Call, live *state, r *request, got, would ruling) Difference {
	out := Difference{
		First: c.Received(), Protocol: c.Protocol(), Method: c.Method(), Host: keptText(c.Host()), Path: keptText(c.Path()), SNI: keptText(c.SNI()),
		RemoteAddr: c.RemoteAddr(), LocalAddr: c.LocalAddr(), Client: c.Client(),
	}
	// Not by NewCall, which may refuse what an Entry accepts, or what is cut.
	again := r.keep(nil)
	again.principal, again.texts[fieldUser] = nil, text{}
	again.texts[fieldHost][0], again.texts[fieldSNI][0] = out.Host, strings.ToLower(out.SNI)
	again.texts[fieldPath][0] = keptText(c.MatchPath())
	cut := false
	if p := c.Peer(); p != nil {
		out.Peer = keptText(p.ID())
		cut = out.Peer != p.ID()
	}
	if p := c.Principal(); p != nil {
		out.Issuer, out.Subject = keptText(p.Issuer()), keptText(p.Subject())
		if out.Issuer != "" || out.Subject != "" {
			again.principal = gatemesh.NewPrincipal(gatemesh.PrincipalInfo{Issuer: out.Issuer, Subject: out.Subject})
		}
		if out.Issuer != "" && out.Subject != "" {
			again.texts[fieldUser] = text{out.Issuer, "/", out.Subject}
		}
	}
	out.Live = explainKept(live, &again, got)
	out.Candidate = explainKept(d.candidate, &again, would)
	lv, _ := live.judge(&again)
	cv, _ := d.candidate.judge(&again)
	out.Partial = lv != got.verdict || cv != would.verdict || cut
	return out
}

// explainKept explains a ruling without a word about what is not kept.
func explainKept(s *state, kept *request, got ruling) Explanation {
	switch v, _ := s.judge(kept); {
	case got.hook != "":
		e := Explanation{Verdict: Deny}
		e.name(got.rule, "the hook "+quote(got.hook)+" refused")
		return e
	case got.rule != nil || v == got.verdict:
		return s.explain(kept, got.verdict, got.rule, maxLogged)
	}
	return Explanation{Verdict: got.verdict, Reason: "no ALLOW rule matches"}
}

func (d *dryRun) snapshot() DryRun {
	out := DryRun{
		Differing: d.differing.Load(), Unlisted: d.unlisted.Load(), Failed: d.failed.Load(),
		Differences: []Difference{},
	}
	for i := range d.judged {
		out.Judged += d.judged[i].Load()
	}
	d.mu.RLock()
	for _, one := range d.kept {
		now := one.Difference
		now.Count, now.Last = one.count.Load(), time.Unix(0, one.last.Load())
		out.Differences = append(out.Differences, now)
	}
	d.mu.RUnlock()
	slices.SortFunc(out.Differences, func(a, b Difference) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), a.First.Compare(b.First), cmp.Compare(a.Path, b.Path), cmp.Compare(a.Peer, b.Peer), cmp.Compare(a.Method, b.Method))
	})
	return out
}
