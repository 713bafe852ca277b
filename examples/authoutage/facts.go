package main

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// tables prints what was measured.
func (s *story) tables(w io.Writer) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "PHASE\tGATEWAY\tREQUESTS\tP50\tOF HEALTHY\tP99\tOF HEALTHY\tASKED\tBECAME OF THE REQUESTS")
	for i, p := range phases {
		name := p.name
		for _, l := range []struct {
			label   string
			gateway int
			keep    func(sample) bool
		}{
			{"naive", naively, all}, {"ours", ourly, all}, {"  known tokens", ourly, warm}, {"  unseen tokens", ourly, unseen},
		} {
			sum, base := summarize(s.of(i, l.gateway), l.keep), summarize(s.of(healthy, l.gateway), l.keep)
			asked := ""
			if l.label == names[l.gateway] {
				asked = fmt.Sprint(s.calls[i][l.gateway])
			}
			fmt.Fprintf(tw, "%s\t%s\t%d\t%s\t%.1fx\t%s\t%.1fx\t%s\t%s\n", name, l.label, sum.n,
				milli(sum.p50), float64(sum.p50)/float64(base.p50), milli(sum.p99), float64(sum.p99)/float64(base.p99), asked, sum.share())
			name = ""
		}
	}
	_ = tw.Flush() // w is standard output
	fmt.Fprintf(w, "\nASKED is how often the auth service was called. Clients give up after %v.\n", s.wait)
	late := time.Duration(0)
	for _, c := range s.crowds {
		late = max(late, summarize(c.since(0), all).late)
	}
	fmt.Fprintf(w, "At worst, a request was sent %s late: so long this machine did something else, and all latencies include it.\n\n", milli(late))
	fmt.Fprint(tw, "GAVE UP ON\tGATEWAY")
	for _, svc := range services {
		fmt.Fprintf(tw, "\t%s", svc.name)
	}
	fmt.Fprintln(tw)
	for i, p := range phases {
		name := p.name
		for g := range names {
			sum := summarize(s.of(i, g), all)
			fmt.Fprintf(tw, "%s\t%s", name, names[g])
			for k := range services {
				fmt.Fprintf(tw, "\t%d of %d", sum.gaveUp[k], sum.sent[k])
			}
			fmt.Fprintln(tw)
			name = ""
		}
	}
	_ = tw.Flush()
}

// facts are what must hold on every machine, however busy: statuses and
// counts. What a client that gave up would have been told is not known.
func (s *story) facts(r *report) {
	for i := range phases {
		s.naiveFacts(r, i)
		s.ourFacts(r, i)
	}
}

func (s *story) naiveFacts(r *report, i int) {
	sum, calls := summarize(s.of(i, naively), all), s.calls[i][naively]
	add := func(what, expected, seen string, pass bool) {
		r.add(phases[i].name, "naive", what, expected, seen, pass)
	}
	switch i {
	case healthy, recovery:
		end := s.ends[i].naive
		add(fmt.Sprintf("%d requests in the end", streak), "200", summarize(end, all).share(), passed(end))
	case silent, refused:
		add("requests that passed", "0", fmt.Sprintf("%d of %d", sum.answers[http.StatusOK], sum.n), sum.answers[http.StatusOK] == 0 && sum.n > 0)
	}
	add("calls of the auth service", "one for each request", fmt.Sprintf("%d for %d", calls, sum.n), sum.asks(calls))
}

// asks reports whether calls are as many as if there was one for each request.
// Who gives up in the line in front of the gateway has caused none.
func (s summary) asks(calls int64) bool {
	return int(calls) >= s.answers[http.StatusOK] && int(calls) <= s.n
}

// asksUs is asks of ours, which may ask again where a call got no answer: within
// the budget of breaker.RetryConfig, a tenth of its calls and ten more, and the
// tenth of a second's that come back in each second of the phase.
func (s *story) asksUs(fresh summary, calls int64) bool {
	fresh.n += fresh.n/10 + 10
	return fresh.asks(calls)
}

func (s *story) ourFacts(r *report, i int) {
	samples, calls := s.of(i, ourly), s.calls[i][ourly]
	known, fresh, end := summarize(samples, warm), summarize(samples, unseen), s.ends[i].unseen
	add := func(what, expected, seen string, pass bool) {
		r.add(phases[i].name, "ours", what, expected, seen, pass)
	}
	add("answers to known tokens", "200", known.share(), known.only(http.StatusOK))
	seen := fmt.Sprintf("%d for %d", calls, fresh.n)
	switch i {
	case reduced:
		add("answers to unseen tokens", "200", fresh.share(), fresh.only(http.StatusOK))
		add("calls of the auth service", "one for each unseen token, and few again", seen, s.asksUs(fresh, calls))
	case healthy, slow, recovery:
		add(fmt.Sprintf("%d unseen tokens in the end", streak), "200", summarize(end, all).share(), passed(end))
		add("calls of the auth service", "one for each unseen token, and few again", seen, s.asksUs(fresh, calls))
	case silent, refused:
		add("answers to unseen tokens", "401", fresh.share(), fresh.only(http.StatusUnauthorized))
		challenges := map[string]int{}
		for _, sm := range samples {
			if sm.status == http.StatusUnauthorized {
				challenges[sm.challenge]++
			}
		}
		seen := strings.Join(slices.Sorted(maps.Keys(challenges)), " and ")
		add("WWW-Authenticate of the 401s", "Bearer", seen, seen == "Bearer")
		add(fmt.Sprintf("calls for %d unseen tokens in the end", streak), fmt.Sprintf("at most %d", streak/2), fmt.Sprint(asked(end)), spared(end))
	}
}

// latencies are what must hold on a machine that has nothing else to do.
func (s *story) latencies(r *report) {
	add := func(i, g int, what, expected, seen string, pass bool) {
		r.add(phases[i].name, names[g], what, expected, seen, pass)
	}
	base, sum := summarize(s.of(healthy, naively), all), summarize(s.of(slow, naively), all)
	add(healthy, naively, "requests", "200", base.share(), base.answers[http.StatusOK] == base.n)
	add(slow, naively, "p50", "at least 3x healthy", times(sum.p50, base.p50), sum.p50 >= 3*base.p50)
	for k, svc := range services {
		add(slow, naively, "clients that gave up on "+svc.name, "most", fmt.Sprintf("%d of %d", sum.gaveUp[k], sum.sent[k]), 2*sum.gaveUp[k] > sum.sent[k])
	}
	base = summarize(s.of(healthy, ourly), warm)
	for i := range phases {
		known, fresh := summarize(s.of(i, ourly), warm), summarize(s.of(i, ourly), unseen)
		add(i, ourly, "requests with known tokens", "200", known.share(), known.answers[http.StatusOK] == known.n)
		add(i, ourly, "p50 of known tokens", "at most 1.2x healthy", times(known.p50, base.p50), 5*known.p50 <= 6*base.p50)
		switch i {
		case reduced:
			well := summarize(s.of(healthy, ourly), unseen)
			add(i, ourly, "requests with unseen tokens", "200", fresh.share(), fresh.answers[http.StatusOK] == fresh.n)
			add(i, ourly, "p50 of unseen tokens", "at most 1.2x healthy", times(fresh.p50, well.p50), 5*fresh.p50 <= 6*well.p50)
		case healthy, slow:
			add(i, ourly, "requests with unseen tokens", "200", fresh.share(), fresh.answers[http.StatusOK] == fresh.n)
		case silent, refused:
			add(i, ourly, "p50 of unseen tokens", "less than known ones", times(fresh.p50, known.p50), fresh.p50 < known.p50)
		}
	}
}

func times(d, base time.Duration) string {
	return fmt.Sprintf("%s, %.1fx", milli(d), float64(d)/float64(base))
}
