package bench

import (
	"fmt"
	"io"
	"math"
)

// scalePanel is one figure of a part, as bars. Their axis begins at zero and is not
// logarithmic: what is flat is to look flat, and what doubles twice as long.
type scalePanel struct {
	part, head string
	of         func(Point) float64
}

var scalePanels = []scalePanel{
	{"workers", "writes per second", func(p Point) float64 { return p.WritesPerSecond }},
	{"batch", "writes per second", func(p Point) float64 { return p.WritesPerSecond }},
	{"batch", "history bytes for a write", Point.HistoryBytesPerWrite},
	{"bytes", "MB of rows per second", func(p Point) float64 { return p.MBPerSecond }},
	{"growth", "writes per second", func(p Point) float64 { return p.WritesPerSecond }},
	{"growth", "CPU microseconds of the machine for a write", func(p Point) float64 { return p.MachineCPU }},
}

const panelHead = 32

// WriteSVG draws the result.
func (r *ScaleResult) WriteSVG(out io.Writer) error {
	drawing, top := &plot{}, 0
	for _, panel := range scalePanels {
		for _, part := range r.Parts {
			if part.Name == panel.part {
				top = drawing.scalePanel(top, panel, part) + gapHeight/2
			}
		}
	}
	set := r.Settings
	drawing.label(0, top+12, "small", fmt.Sprintf("%s. Medians of %d repetitions; batches of %d rows of about %d bytes and %d callers where nothing else is said.",
		r.Machine.describe(), set.Repetitions, set.Batch, set.RowBytes, set.Callers))
	_, err := fmt.Fprintf(out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img" aria-label="capsaga bench scale: figures of batch sagas">`+"\n%s%s</svg>\n",
		plotWidth, top+footHeight, style, drawing.text.String())
	return err
}

// scalePanel draws a panel and returns where it ends.
func (p *plot) scalePanel(top int, panel scalePanel, part Part) int {
	p.label(0, top+18, "head", part.Title+": "+panel.head)
	top += panelHead
	most := 0.0
	for _, at := range part.Points {
		most = max(most, panel.of(at))
	}
	for _, at := range part.Points {
		value := panel.of(at)
		end := linear(value, most)
		p.label(0, top+12, "", thousands(int64(at.At))+" "+part.Unit)
		p.bar(top, end, "saga")
		p.label(int(end)+8, top+12, "", count(value))
		top += rowHeight
	}
	return top
}

// linear is where a bar ends.
func linear(value, most float64) float64 {
	if most <= 0 || math.IsNaN(value) {
		return labelWidth
	}
	return labelWidth + (plotWidth-valueWidth-labelWidth)*value/most
}
