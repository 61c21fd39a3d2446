package bench

import "time"

// ScaleResult is what a scaling run found.
type ScaleResult struct {
	Started  time.Time     `json:"started"`
	Took     string        `json:"took"`
	Machine  Machine       `json:"machine"`
	Settings ScaleSettings `json:"settings"`
	Parts    []Part        `json:"parts"`
}

// ScaleSettings are what the run was told.
type ScaleSettings struct {
	Repetitions int    `json:"repetitions"`
	Duration    string `json:"duration"`
	Settle      string `json:"settle"` // the longest wait for rest before a turn
	Callers     int    `json:"callers"`
	Batch       int    `json:"batch"`
	RowBytes    int    `json:"row_bytes"`
	Writes      int    `json:"writes"` // of a turn on a table of some size
}

// Part is a line along which was measured.
type Part struct {
	Name   string  `json:"name"`
	Title  string  `json:"title"`
	Unit   string  `json:"unit"` // of what Point.At counts
	Points []Point `json:"points"`
}

// Point is one place on the line: medians of the repetitions.
type Point struct {
	At int `json:"at"`
	// Writes is how many were made, read back from all systems and counted.
	Writes          int       `json:"writes"`
	WritesPerSecond float64   `json:"writes_per_second"`
	Repetitions     []float64 `json:"repetitions_writes_per_second"`
	MBPerSecond     float64   `json:"mb_per_second"` // of the rows' JSON, 10^6 bytes
	Visible         *Latency  `json:"visible"`       // of a whole batch
	// CPU microseconds for a write: of the bench and its workers, and of the machine
	// with all servers on it.
	ProcessCPU float64 `json:"process_cpu_us_per_write"`
	MachineCPU float64 `json:"machine_cpu_us_per_write"`
	MemoryMB   float64 `json:"peak_memory_mb"` // of the process of the worker, or the first one
	// What the writes leave in Temporal.
	WorkflowsPer1000 float64 `json:"workflows_per_1000_writes"`
	Events           float64 `json:"history_events_per_workflow"`
	HistoryBytes     float64 `json:"history_bytes_per_workflow"`
	// Unsettled is how many repetitions began although the machine had not come to
	// rest.
	Unsettled int     `json:"unsettled_repetitions"`
	Growth    *Growth `json:"growth,omitempty"`
}

// EventsPerWrite is the part of the history's events that one write has.
func (p Point) EventsPerWrite() float64 { return p.Events * p.WorkflowsPer1000 / 1000 }

// HistoryBytesPerWrite is the part of the history's bytes that one write has.
func (p Point) HistoryBytesPerWrite() float64 { return p.HistoryBytes * p.WorkflowsPer1000 / 1000 }

func newScaleResult(o *ScaleOptions) *ScaleResult {
	return &ScaleResult{
		Started: time.Now().UTC().Truncate(time.Second),
		Settings: ScaleSettings{
			o.Repetitions, o.Duration.String(), o.Settle.String(), o.Callers, o.Batch, o.RowBytes, o.Writes,
		},
	}
}

func pointOf(at int, samples []scaleSample) Point {
	p := Point{At: at}
	var visible []*Latency
	var megabytes, process, machine, memory, workflows, events, bytes []float64
	for _, m := range samples {
		rows, seconds := float64(m.rows), m.took.Seconds()
		p.Writes += m.rows
		p.Repetitions = append(p.Repetitions, rows/seconds)
		megabytes = append(megabytes, float64(m.rowBytes)/1e6*rows/seconds)
		visible = append(visible, latencyOf(m.visible))
		process = append(process, float64(m.usage.processes.Microseconds())/rows)
		machine = append(machine, float64(m.usage.machine.Microseconds())/rows)
		memory = append(memory, m.memory)
		workflows = append(workflows, 1000*float64(m.workflows)/rows)
		events, bytes = append(events, m.events), append(bytes, m.bytes)
		if m.unsettled {
			p.Unsettled++
		}
	}
	p.WritesPerSecond, p.MBPerSecond, p.Visible = median(p.Repetitions), median(megabytes), middle(visible)
	p.ProcessCPU, p.MachineCPU, p.MemoryMB = median(process), median(machine), median(memory)
	p.WorkflowsPer1000, p.Events, p.HistoryBytes = median(workflows), median(events), median(bytes)
	return p
}
