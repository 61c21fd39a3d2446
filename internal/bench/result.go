package bench

import (
	"time"
)

// Result is what a run found.
type Result struct {
	Started     time.Time `json:"started"`
	Took        string    `json:"took"`
	Machine     Machine   `json:"machine"`
	Settings    Settings  `json:"settings"`
	Contestants []Figures `json:"contestants"`
	Ratios      []Ratio   `json:"ratios"`
}

// Settings are what the run was told.
type Settings struct {
	Repetitions int    `json:"repetitions"`
	Duration    string `json:"duration"`
	Settle      string `json:"settle"` // the longest wait for rest before a turn
	Rows        int    `json:"rows"`
	RowBytes    int    `json:"row_bytes"`
	Batch       int    `json:"batch"`
}

// Figures are those of one contestant: medians of the repetitions, of which the
// latencies are percentiles of the calls.
type Figures struct {
	Letter  string `json:"letter"`
	Name    string `json:"name"`
	Title   string `json:"title"`
	Callers int    `json:"callers"`
	Batch   int    `json:"batch"` // writes of one call
	// Writes is how many were made, read back from all systems and counted; bare
	// workflows write nothing.
	Writes          int       `json:"writes"`
	WritesPerSecond float64   `json:"writes_per_second"`
	Repetitions     []float64 `json:"repetitions_writes_per_second"`
	Committed       *Latency  `json:"committed"`
	Visible         *Latency  `json:"visible"`
	// CPU seconds for 1,000 writes: of the bench and its worker, and of the machine
	// with all servers on it.
	ProcessCPU float64 `json:"process_cpu_seconds_per_1000"`
	MachineCPU float64 `json:"machine_cpu_seconds_per_1000"`
	MemoryMB   float64 `json:"peak_memory_mb"` // of the worker's process
	// Unsettled is how many repetitions began although the machine had not come to
	// rest.
	Unsettled int `json:"unsettled_repetitions"`
}

func newResult(o *Options, all []contestant, samples map[string][]measured, machine Machine, began time.Time) *Result {
	r := &Result{
		Started: began.UTC().Truncate(time.Second), Took: time.Since(began).Round(time.Second).String(), Machine: machine,
		Settings: Settings{o.Repetitions, o.Duration.String(), o.Settle.String(), o.Rows, o.RowBytes, o.Batch},
	}
	for _, c := range all {
		r.Contestants = append(r.Contestants, figuresOf(o, c, samples[c.name]))
	}
	r.Ratios = ratiosOf(r.Contestants)
	return r
}

func figuresOf(o *Options, c contestant, samples []measured) Figures {
	f := Figures{Letter: c.letter, Name: c.name, Title: c.title, Callers: c.callers, Batch: 1}
	if c.batched {
		f.Batch = batchRows(o.Batch, o.RowBytes)
	}
	var committed, visible []*Latency
	var process, machine, memory []float64
	for _, m := range samples {
		f.Writes += m.rows
		f.Repetitions = append(f.Repetitions, float64(m.rows)/m.took.Seconds())
		committed, visible = append(committed, latencyOf(m.committed)), append(visible, latencyOf(m.visible))
		process = append(process, m.usage.processes.Seconds()*1000/float64(m.rows))
		machine = append(machine, m.usage.machine.Seconds()*1000/float64(m.rows))
		memory = append(memory, m.memory)
		if m.unsettled {
			f.Unsettled++
		}
	}
	f.WritesPerSecond = median(f.Repetitions)
	f.Committed, f.Visible = middle(committed), middle(visible)
	f.ProcessCPU, f.MachineCPU, f.MemoryMB = median(process), median(machine), median(memory)
	return f
}
