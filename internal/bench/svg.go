package bench

import (
	"fmt"
	"html"
	"io"
	"math"
	"strings"
)

// The plot's measures, in pixels.
const (
	plotWidth  = 960
	labelWidth = 300
	valueWidth = 110 // right of the bars
	rowHeight  = 26
	barHeight  = 14
	headHeight = 64
	gapHeight  = 40
	footHeight = 36
)

// style follows the reader's colours: the plot has no background of its own.
const style = `<style>
text { font: 13px system-ui, sans-serif; fill: #24292f; }
.head { font-size: 16px; font-weight: 600; }
.small { font-size: 11px; fill: #57606a; }
.grid { stroke: #d0d7de; stroke-width: 1; }
.saga { fill: #0969da; } .other { fill: #8c959f; } .committed { fill: #54aeff; } .tail { stroke: #57606a; stroke-width: 1.5; fill: none; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; } .small { fill: #9198a1; } .grid { stroke: #3d444d; }
.saga { fill: #4493f8; } .other { fill: #656c76; } .committed { fill: #a5d6ff; } .tail { stroke: #9198a1; }
}
</style>
`

// WriteSVG draws the result: bars of writes per second, and of the time to visible
// with that to committed inside, up to p99. Both axes are logarithmic.
func (r *Result) WriteSVG(out io.Writer) error {
	p := &plot{}
	panel := headHeight + rowHeight*len(r.Contestants)
	height := 2*panel + gapHeight + footHeight
	fmt.Fprintf(&p.text, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img" aria-label="capsaga bench: writes per second and latencies">`+"\n", plotWidth, height)
	p.text.WriteString(style)
	p.rates(0, r.Contestants)
	p.latencies(panel+gapHeight, r.Contestants)
	p.label(0, height-12, "small", fmt.Sprintf("%s. Medians of %d repetitions; rows of about %d bytes, batches of %d.",
		r.Machine.describe(), r.Settings.Repetitions, r.Settings.RowBytes, r.Settings.Batch))
	p.text.WriteString("</svg>\n")
	_, err := io.WriteString(out, p.text.String())
	return err
}

// plot is a drawing under way.
type plot struct{ text strings.Builder }

func (p *plot) label(x, y int, class, text string) {
	fmt.Fprintf(&p.text, `<text x="%d" y="%d" class="%s">%s</text>`+"\n", x, y, class, html.EscapeString(text))
}

func (p *plot) bar(y int, to float64, class string) {
	fmt.Fprintf(&p.text, `<rect x="%d" y="%d" width="%.1f" height="%d" rx="2" class="%s"/>`+"\n", labelWidth, y, max(to-labelWidth, 1), barHeight, class)
}

// class tells sagas from what they are compared with.
func class(f Figures) string {
	switch f.Letter {
	case "a", "b", "f":
		return "other"
	}
	return "saga"
}

func (p *plot) rates(top int, all []Figures) {
	p.label(0, top+18, "head", "Writes per second, visible in all systems")
	var values []float64
	for _, f := range all {
		values = append(values, f.WritesPerSecond)
	}
	scale := newScale(values)
	p.axis(top, len(all), scale, "")
	for i, f := range all {
		y := top + headHeight + i*rowHeight
		p.label(0, y+12, "", f.Title)
		end := scale.x(f.WritesPerSecond)
		p.bar(y, end, class(f))
		p.label(int(end)+8, y+12, "", count(f.WritesPerSecond))
	}
}

func (p *plot) latencies(top int, all []Figures) {
	p.label(0, top+18, "head", "Milliseconds to committed (light) and to visible (full), p50; the line goes to p99")
	var values []float64
	for _, f := range all {
		for _, l := range []*Latency{f.Committed, f.Visible} {
			if l != nil {
				values = append(values, l.P50, l.P99)
			}
		}
	}
	scale := newScale(values)
	p.axis(top, len(all), scale, " ms")
	for i, f := range all {
		y := top + headHeight + i*rowHeight
		p.label(0, y+12, "", f.Title)
		p.latency(y, f, scale)
	}
}

func (p *plot) latency(y int, f Figures, scale scale) {
	text, right := []string{}, float64(labelWidth)
	if l := f.Visible; l != nil {
		p.bar(y, scale.x(l.P50), class(f))
		from, to := scale.x(l.P50), scale.x(l.P99)
		middle := y + barHeight/2
		fmt.Fprintf(&p.text, `<path d="M%.1f %dH%.1fM%.1f %dv8" class="tail"/>`+"\n", from, middle, to, to, middle-4)
		right = max(right, to)
	}
	if l := f.Committed; l != nil {
		p.bar(y, scale.x(l.P50), "committed")
		text, right = append(text, count(l.P50)), max(right, scale.x(l.P50))
	}
	if l := f.Visible; l != nil {
		text = append(text, count(l.P50))
	}
	p.label(int(right)+8, y+12, "", strings.Join(text, " / "))
}

// axis draws the lines of the powers of ten.
func (p *plot) axis(top, rows int, s scale, unit string) {
	bottom := top + headHeight + rows*rowHeight
	for exponent := s.low; exponent <= s.high; exponent++ {
		value := math.Pow(10, float64(exponent))
		x := s.x(value)
		fmt.Fprintf(&p.text, `<path d="M%.1f %dV%d" class="grid"/>`+"\n", x, top+headHeight-10, bottom)
		text := fmt.Sprintf("%g", value)
		if value >= 1000 {
			text = thousands(int64(value))
		}
		fmt.Fprintf(&p.text, `<text x="%.1f" y="%d" text-anchor="middle" class="small">%s</text>`+"\n", x, top+headHeight-16, text+unit)
	}
}

// scale is a logarithmic axis between two powers of ten.
type scale struct{ low, high int }

func newScale(values []float64) scale {
	least, most := math.Inf(1), 0.0
	for _, v := range values {
		if v > 0 && !math.IsInf(v, 0) {
			least, most = min(least, v), max(most, v)
		}
	}
	if most == 0 {
		return scale{0, 1}
	}
	// A bar of the least value is to be seen, too.
	s := scale{int(math.Floor(math.Log10(least * 0.8))), int(math.Ceil(math.Log10(most)))}
	s.high = max(s.high, s.low+1)
	return s
}

func (s scale) x(value float64) float64 {
	const left, right = labelWidth, plotWidth - valueWidth
	if value <= 0 || math.IsNaN(value) {
		return left
	}
	part := (math.Log10(value) - float64(s.low)) / float64(s.high-s.low)
	return left + (right-left)*min(max(part, 0), 1)
}
