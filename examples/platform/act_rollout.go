package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatemesh-go/gatemesh/canary"
)

// A rollout of user-service v2 starts with a quarter of the users, and looks at
// what it knows ten times a second, so that the act is short. Of the bad v2, one
// answer in so many is an error.
const (
	rolloutShare = 25
	rolloutTurn  = 100 * time.Millisecond
	badEvery     = 20
)

// newRollout returns a rollout of user-service from v1 to v2.
func (p *platform) newRollout() (*canary.Rollout, error) {
	// Latencies of a busy machine say nothing about v2.
	analysis := canary.Analysis{LatencyMargin: time.Second}
	if p.broken == "n" {
		analysis.ErrorMargin = 1
	}
	return canary.NewRollout(canary.RolloutConfig{
		Service: "user-service", Namespace: namespace, Stable: "v1", Canary: "v2", ID: "v2.1.0",
		// Longer than the act, so that time alone changes no share.
		Steps:    []canary.Step{{Percent: rolloutShare, Duration: time.Hour}, {Percent: 50, Duration: time.Hour}},
		Analysis: analysis, Store: canary.NewMemoryStore(), Interval: rolloutTurn, Observer: p.logs.observer("gateway"),
	})
}

// flaw makes a handler fail now and then.
type flaw struct {
	on    atomic.Bool
	calls atomic.Int64
}

func (f *flaw) in(next func(*replica) http.Handler) func(*replica) http.Handler {
	return func(self *replica) http.Handler {
		h := next(self)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if f.on.Load() && f.calls.Add(1)%badEvery == 0 {
				writeJSON(w, http.StatusInternalServerError, look(self, r))
				return
			}
			h.ServeHTTP(w, r)
		})
	}
}

// dealt is what the requests of users came to.
type dealt struct {
	p     *platform
	users []http.Header

	mu       sync.Mutex
	last     []string       // the version that each user met last
	moved    int            // users that were moved from v1 to v2
	answered map[string]int // requests, by version
	failed   map[string]int // those of them that a version answered with 500
	lost     []string       // what no version has answered
}

func (d *dealt) ask(ctx context.Context, i int) {
	s, err := d.p.expect(ctx, d.p.http, http.MethodGet, "/v1/users/1", d.users[i], http.StatusOK)
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case s.Version == "":
		d.lost = append(d.lost, fmt.Sprint(err))
		return
	case err != nil:
		d.failed[s.Version]++
	}
	if d.last[i] == "v1" && s.Version == "v2" {
		d.moved++
	}
	d.last[i] = s.Version
	d.answered[s.Version]++
}

// round has every user ask once, as long as it goes on.
func (d *dealt) round(ctx context.Context, goesOn func() bool) error {
	return parallel(ctx, len(d.users), func(ctx context.Context, i int) error {
		if goesOn() {
			d.ask(ctx, i)
		}
		return nil
	})
}

// share returns the percentage of users that met v2 last.
func (d *dealt) share() float64 {
	n := 0
	for _, v := range d.last {
		if v == "v2" {
			n++
		}
	}
	return 100 * float64(n) / float64(len(d.last))
}

// enough is how many answers of v2 there may be, if the rollout looks after each
// round of requests. Three standard errors above a stable version without errors
// take up to 300 answers of which one in 20 is an error, and five errors behind
// that, without the group of users that has most, up to 200 more. As chance deals
// users to groups, of 12,000 simulated acts, with 16, 25 and 34 % of 200 users,
// half took 320 to 480 and the longest 680.
const enough = 1000

// looked waits until the rollout has looked at what had ended at that time.
func looked(ctx context.Context, rollout *canary.Rollout, at time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	again := time.NewTicker(rolloutTurn / 10)
	defer again.Stop()
	for !rollout.Status().At.After(at) {
		select {
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("the rollout does not look: %w", ctx.Err())
		}
	}
	return nil
}

// actRollout begins to roll out a v2 that answers one request in 20 with an
// error. Nobody acts, and soon nobody has it.
func actRollout(ctx context.Context, p *platform, r *report) error {
	users, err := p.users("rollout", 200)
	if err != nil {
		return err
	}
	rollout, err := p.newRollout()
	if err != nil {
		return err
	}
	defer func() { _ = rollout.Close() }() // it has no errors
	config := p.edge.config
	config.Rollouts = []*canary.Rollout{rollout}
	p.flaw.on.Store(true)
	defer p.flaw.on.Store(false)
	if err := p.gateway.Update(config); err != nil {
		return err
	}
	d := &dealt{p: p, users: users, last: make([]string, len(users)), answered: map[string]int{}, failed: map[string]int{}}
	always := func() bool { return true }
	running := func() bool { return rollout.Status().State.Phase == canary.Running }
	begin := time.Now()
	if err := d.round(ctx, always); err != nil {
		return err
	}
	before := d.share()
	for running() && d.answered["v2"] < enough {
		if err := d.round(ctx, running); err != nil {
			return err
		}
		if err := looked(ctx, rollout, time.Now()); err != nil {
			return err
		}
	}
	took, state := time.Since(begin), rollout.Status().State
	answered, failed := d.answered["v2"], d.failed["v2"]
	if err := d.round(ctx, always); err != nil {
		return err
	}
	log := p.why()
	r.holds("n", "share of v2 before", "25 % ± 9", fmt.Sprintf("%.1f %%", before), before > rolloutShare-9 && before < rolloutShare+9)
	r.holds("n", "rolled back by itself", fmt.Sprintf("before %d answers of v2", enough), fmt.Sprintf("%s after %d in %.1f s", state.Phase, answered, took.Seconds()), state.Phase == canary.RolledBack)
	r.holds("n", "log of the gateway", "says why, with the numbers", log, strings.Contains(log, "v2 failed"))
	r.holds("n", "errors of v2", fmt.Sprintf("at most 1 in %d", badEvery), fmt.Sprintf("%d of %d, of %d requests in all", failed, answered, d.answered["v1"]+d.answered["v2"]), failed > 0 && failed <= answered/badEvery+1)
	r.same("n", "errors of v1, and requests without an answer", 0, d.failed["v1"]+len(d.lost))
	r.same("n", "users moved from v1 to v2", 0, d.moved)
	r.holds("n", "share of v2 after", "0 %, and no errors", fmt.Sprintf("%.1f %%, %d errors", d.share(), d.failed["v2"]-failed), d.share() == 0 && d.failed["v2"] == failed)
	// Without the rollout, the weights of the VirtualService count again.
	return p.gateway.Update(p.edge.config)
}

// why returns what the gateway logged about the rollback.
func (p *platform) why() string {
	l := p.logs.newest(func(l logLine) bool {
		msg, _ := l["msg"].(string)
		return l["service"] == "gateway" && strings.Contains(msg, "rolled back")
	})
	msg, _ := l["msg"].(string)
	return msg
}
