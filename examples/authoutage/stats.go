package main

import (
	"cmp"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"
)

// summary is what a set of requests amounts to.
type summary struct {
	n        int
	p50, p99 time.Duration // of all of them; a client that gave up waited until then
	answers  map[int]int   // by status, gaveUp and broke
	sent     []int         // by service
	gaveUp   []int         // by service
	late     time.Duration // the longest that a request was sent after it was due
}

// Which requests a summary is about.
func all(sample) bool      { return true }
func warm(s sample) bool   { return !s.unseen }
func unseen(s sample) bool { return s.unseen }

func summarize(samples []sample, keep func(sample) bool) summary {
	sum := summary{answers: map[int]int{}, sent: make([]int, len(services)), gaveUp: make([]int, len(services))}
	var took []time.Duration
	for _, s := range samples {
		if !keep(s) {
			continue
		}
		took = append(took, s.took)
		sum.late = max(sum.late, s.late)
		sum.answers[s.status]++
		sum.sent[s.service]++
		if s.status == gaveUp {
			sum.gaveUp[s.service]++
		}
	}
	slices.Sort(took)
	sum.n, sum.p50, sum.p99 = len(took), quantile(took, 0.50), quantile(took, 0.99)
	return sum
}

// answered is how many had an answer, whichever.
func (s summary) answered() int { return s.n - s.answers[gaveUp] - s.answers[broke] }

// only reports whether every answer, and at least one, had the status. Clients
// that gave up had none: on a machine that stalls they give up on anybody.
func (s summary) only(status int) bool {
	return s.answers[status] > 0 && s.answers[status] == s.answered() && s.answers[broke] == 0
}

// quantile is the smallest value of sorted that a share q of them does not exceed.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	i := int(math.Ceil(q*float64(len(sorted)))) - 1
	return sorted[max(i, 0)]
}

// share returns what became of the requests, the most frequent first.
func (s summary) share() string {
	statuses := make([]int, 0, len(s.answers))
	for status := range s.answers {
		statuses = append(statuses, status)
	}
	slices.SortFunc(statuses, func(a, b int) int {
		if d := s.answers[b] - s.answers[a]; d != 0 {
			return d
		}
		return b - a
	})
	parts := make([]string, len(statuses))
	for i, status := range statuses {
		parts[i] = fmt.Sprintf("%s %.1f %%", statusName(status), 100*float64(s.answers[status])/float64(s.n))
	}
	return strings.Join(parts, ", ")
}

func statusName(status int) string {
	switch status {
	case gaveUp:
		return "gave up"
	case broke:
		return "broke"
	}
	return fmt.Sprint(status)
}

// point is a moment of the chart.
type point struct {
	at       time.Duration
	p50, p99 time.Duration
	passed   float64 // share of requests that were answered with 200
}

// curve returns the points of a run, about one for each interval. A phase is
// divided into equal parts, as one with few requests in it would stick out.
func curve(samples []sample, every time.Duration) (points []point) {
	sorted := slices.Clone(samples)
	slices.SortFunc(sorted, func(a, b sample) int { return cmp.Compare(a.at, b.at) })
	for len(sorted) > 0 {
		first := sorted[0]
		end := slices.IndexFunc(sorted, func(s sample) bool { return s.phase != first.phase })
		if end < 0 {
			end = len(sorted)
		}
		length := sorted[end-1].at - first.at + 1
		parts := max(1, (length+every/2)/every)
		for rest := sorted[:end]; len(rest) > 0; {
			part, n := (rest[0].at-first.at)*parts/length, 1
			for n < len(rest) && (rest[n].at-first.at)*parts/length == part {
				n++
			}
			sum := summarize(rest[:n], all)
			points = append(points, point{
				at: (rest[0].at + rest[n-1].at) / 2, p50: sum.p50, p99: sum.p99,
				passed: float64(sum.answers[http.StatusOK]) / float64(sum.n),
			})
			rest = rest[n:]
		}
		sorted = sorted[end:]
	}
	return points
}

// milli prints d as a person would.
func milli(d time.Duration) string {
	ms := float64(d) / float64(time.Millisecond)
	if ms < 10 {
		return fmt.Sprintf("%.1f ms", ms)
	}
	return fmt.Sprintf("%.0f ms", ms)
}
