package bench

// Ratio is one thing that has to be true of a run.
type Ratio struct {
	Name   string   `json:"name"`
	Value  *float64 `json:"value"` // null where a contestant was left out
	Unit   string   `json:"unit,omitempty"`
	AtMost bool     `json:"at_most"` // else at least
	Target float64  `json:"target"`
	Met    *bool    `json:"met"`
}

// figure is a number of one contestant.
type figure struct {
	name string
	of   func(Figures) (float64, bool)
}

func rate(name string) figure {
	return figure{name, func(f Figures) (float64, bool) { return f.WritesPerSecond, true }}
}

func committed(name string) figure {
	return figure{name, func(f Figures) (float64, bool) { return p50(f.Committed) }}
}

func visible(name string) figure {
	return figure{name, func(f Figures) (float64, bool) { return p50(f.Visible) }}
}

func p50(l *Latency) (float64, bool) {
	if l == nil {
		return 0, false
	}
	return l.P50, true
}

// targets are the promises: of is nil where a figure itself is held to its target.
var targets = []struct {
	name     string
	is       figure
	of       *figure
	atMost   bool
	target   float64
	inMillis bool
}{
	{name: "batch sagas / straight in batches, writes per second", is: rate(batch), of: ref(rate(ceiling)), target: 0.65},
	{name: "batch sagas / naive with 32 callers, writes per second", is: rate(batch), of: ref(rate(naive32)), target: 12},
	{name: "group commit with 256 callers / naive with 32 callers, writes per second", is: rate(group256), of: ref(rate(naive32)), target: 5},
	{name: "lone caller, p50 to committed", is: committed(group1), atMost: true, target: 8, inMillis: true},
	{name: "lone caller / naive lone caller, p50 to committed", is: committed(group1), of: ref(visible(naive1)), atMost: true, target: 2},
	{name: "lone caller / naive lone caller, p50 to visible", is: visible(group1), of: ref(visible(naive1)), atMost: true, target: 4},
	{name: "remote caller, p50 to committed", is: committed(remote1), atMost: true, target: 20, inMillis: true},
	{name: "one by one / bare workflow, 32 callers, writes per second", is: rate(single32), of: ref(rate(bare32)), target: 0.55},
}

func ref(f figure) *figure { return &f }

// ratiosOf holds the figures to the targets.
func ratiosOf(all []Figures) []Ratio {
	look := func(f figure) (float64, bool) {
		for _, figures := range all {
			if figures.Name == f.name {
				return f.of(figures)
			}
		}
		return 0, false
	}
	var ratios []Ratio
	for _, t := range targets {
		r := Ratio{Name: t.name, AtMost: t.atMost, Target: t.target}
		if t.inMillis {
			r.Unit = "ms"
		}
		value, known := look(t.is)
		if t.of != nil {
			divisor, ok := look(*t.of)
			known = known && ok && divisor > 0
			value /= divisor
		}
		if known {
			met := value >= t.target
			if t.atMost {
				met = value <= t.target
			}
			r.Value, r.Met = &value, &met
		}
		ratios = append(ratios, r)
	}
	return ratios
}
