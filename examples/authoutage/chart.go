package main

import (
	"fmt"
	"io"
	"math"
	"strings"
	"time"
)

// line is what the chart shows of one gateway.
type line struct {
	class, label string
	points       []point
}

// span is when a phase was.
type span struct {
	name     string
	from, to time.Duration
}

// The geometry of the chart, in pixels: two panels that share the time axis.
const (
	chartWidth, chartHeight = 960, 640
	left, right             = 78, chartWidth - 24
	latencyTop, latencyEnd  = 114, 434
	passedTop, passedEnd    = 474, 574
)

// lowest is the lowest latency of the axis, in ms.
const lowest = 0.5

const chartStyle = `<style>
svg { --back: #ffffff; --text: #1f2328; --grid: #d8dee4; --band: #f3f5f7; --naive: #cf222e; --ours: #0969da; --limit: #6e7781 }
@media (prefers-color-scheme: dark) {
  svg { --back: #0d1117; --text: #e6edf3; --grid: #30363d; --band: #161b22; --naive: #ff7b72; --ours: #58a6ff; --limit: #9198a1 }
}
text { fill: var(--text); font: 12px system-ui, sans-serif }
.head { font-size: 16px; font-weight: 600 }
.phase { font-weight: 600; text-anchor: middle }
.mid { text-anchor: middle }
.end { text-anchor: end }
.grid { stroke: var(--grid) }
.limit { stroke: var(--limit); stroke-dasharray: 2 4 }
.p50, .p99 { fill: none; stroke-linejoin: round }
.p50 { stroke-width: 2.5 }
.p99 { stroke-width: 1; stroke-dasharray: 5 3 }
.naive { stroke: var(--naive) }
.ours { stroke: var(--ours) }
</style>
`

// drawing is an SVG in the making.
type drawing struct {
	w    strings.Builder
	last time.Duration // the end of the time axis
	high float64       // of the latency axis, in ms
}

func (d *drawing) add(format string, args ...any) { fmt.Fprintf(&d.w, format+"\n", args...) }

func (d *drawing) x(at time.Duration) float64 {
	return left + float64(right-left)*float64(at)/float64(d.last)
}

// y of a latency, on a logarithmic scale.
func (d *drawing) y(took time.Duration) float64 {
	ms := min(max(float64(took)/float64(time.Millisecond), lowest), d.high)
	return latencyEnd - (latencyEnd-latencyTop)*math.Log(ms/lowest)/math.Log(d.high/lowest)
}

// part is y of a share.
func (d *drawing) part(share float64) float64 { return passedEnd - (passedEnd-passedTop)*share }

// writeChart draws the latencies of the gateways over time, and below them the
// share of requests that passed, without which a quick refusal looks good.
func writeChart(w io.Writer, phases []span, lines []line, patience time.Duration) error {
	d := &drawing{last: phases[len(phases)-1].to, high: 1000}
	for d.high < 2*float64(patience.Milliseconds()) {
		d.high *= 10
	}
	d.add(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-labelledby="title">`,
		chartWidth, chartHeight, chartWidth, chartHeight)
	d.add(`<title id="title">Latency at two gateways while their auth service is slow, silent, gone and back</title>`)
	d.w.WriteString(chartStyle)
	d.add(`<rect width="%d" height="%d" style="fill: var(--back)"/>`, chartWidth, chartHeight)
	d.add(`<text class="head" x="%d" y="28">Two gateways while their auth service is slow, silent, gone and back</text>`, left)
	d.legend(lines)
	d.phases(phases)
	d.axes()
	d.limit(patience)
	for _, l := range lines {
		d.path(l.class+" p99", l.points, func(p point) float64 { return d.y(p.p99) })
	}
	for _, l := range lines {
		d.path(l.class+" p50", l.points, func(p point) float64 { return d.y(p.p50) })
		d.path(l.class+" p50", l.points, func(p point) float64 { return d.part(p.passed) })
	}
	d.add("</svg>")
	_, err := io.WriteString(w, d.w.String())
	return err
}

func (d *drawing) legend(lines []line) {
	x := left
	for _, l := range lines {
		for _, c := range []struct{ class, label string }{{"p50", l.label + ", p50"}, {"p99", "p99"}} {
			d.add(`<line class="%s %s" x1="%d" x2="%d" y1="52" y2="52"/>`, l.class, c.class, x, x+28)
			d.add(`<text x="%d" y="56">%s</text>`, x+34, c.label)
			x += 34 + 6*len(c.label) + 26
		}
	}
	d.add(`<line class="limit" x1="%d" x2="%d" y1="52" y2="52"/>`, x, x+28)
	d.add(`<text x="%d" y="56">clients give up</text>`, x+34)
}

func (d *drawing) phases(phases []span) {
	for i, p := range phases {
		x, width := d.x(p.from), d.x(p.to)-d.x(p.from)
		if i%2 == 1 {
			d.add(`<rect x="%.1f" y="%d" width="%.1f" height="%d" style="fill: var(--band)"/>`, x, latencyTop-28, width, passedEnd-latencyTop+28)
		}
		d.add(`<text class="phase" x="%.1f" y="%d">%s</text>`, x+width/2, latencyTop-10, p.name)
		if i > 0 {
			d.add(`<line class="grid" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/>`, x, x, latencyTop-28, passedEnd)
		}
	}
}

func (d *drawing) axes() {
	for _, ms := range []float64{0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000} {
		if ms > d.high {
			break
		}
		y := d.y(time.Duration(ms * float64(time.Millisecond)))
		d.add(`<line class="grid" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/>`, left, right, y, y)
		d.add(`<text class="end" x="%d" y="%.1f">%g ms</text>`, left-8, y+4, ms)
	}
	for _, percent := range []int{0, 50, 100} {
		y := d.part(float64(percent) / 100)
		d.add(`<line class="grid" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/>`, left, right, y, y)
		d.add(`<text class="end" x="%d" y="%.1f">%d %%</text>`, left-8, y+4, percent)
	}
	d.sideways(latencyTop, latencyEnd, "time until answered or given up (log)")
	d.sideways(passedTop, passedEnd, "answered 200")
	step := time.Second
	for _, wider := range []time.Duration{2, 5, 10, 20, 30, 60} {
		if d.last/step > 16 {
			step = wider * time.Second
		}
	}
	for at := time.Duration(0); at <= d.last; at += step {
		d.add(`<line class="grid" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/>`, d.x(at), d.x(at), passedEnd, passedEnd+5)
		d.add(`<text class="mid" x="%.1f" y="%d">%g</text>`, d.x(at), passedEnd+20, at.Seconds())
	}
	d.add(`<text class="mid" x="%d" y="%d">seconds since the load began</text>`, (left+right)/2, passedEnd+44)
}

// limit marks when clients give up.
func (d *drawing) limit(patience time.Duration) {
	y := d.y(patience)
	d.add(`<line class="limit" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/>`, left, right, y, y)
}

// sideways labels a vertical axis.
func (d *drawing) sideways(top, end int, label string) {
	y := (top + end) / 2
	d.add(`<text class="mid" x="18" y="%d" transform="rotate(-90 18 %d)">%s</text>`, y, y, label)
}

func (d *drawing) path(class string, points []point, y func(point) float64) {
	xy := make([]string, len(points))
	for i, p := range points {
		xy[i] = fmt.Sprintf("%.1f,%.1f", d.x(p.at), y(p))
	}
	d.add(`<polyline class="%s" points="%s"/>`, class, strings.Join(xy, " "))
}
