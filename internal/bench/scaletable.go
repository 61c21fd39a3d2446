package bench

import (
	"fmt"
	"io"
	"strings"
)

// WriteTable prints the result for people.
func (r *ScaleResult) WriteTable(out io.Writer) error {
	var text strings.Builder
	set := r.Settings
	fmt.Fprintf(&text, "%s; %s\n", r.Machine.describe(), strings.Join(r.Machine.versions(), ", "))
	fmt.Fprintf(&text, "Batch sagas of %d rows of about %d bytes, %d callers, where nothing else is said; medians of %d\n"+
		"repetitions of %s; every row was read back from all four systems\n", set.Batch, set.RowBytes, set.Callers, set.Repetitions, set.Duration)
	turns, all := 0, 0
	for _, p := range r.Parts {
		fmt.Fprintf(&text, "\n%s\n", p.Title)
		p.table(&text)
		if p.Name == "growth" {
			p.growth(&text, set)
		}
		for _, point := range p.Points {
			turns, all = turns+point.Unsettled, all+len(point.Repetitions)
		}
	}
	text.WriteString("\nA batch's time to visible is in milliseconds; CPU is in microseconds for a write, of the bench with\n" +
		"its workers and of the machine with all servers; memory is the most of the (first) worker's process.\n" +
		unsettledLine(turns, all, set.Settle))
	_, err := io.WriteString(out, text.String())
	return err
}

func (p *Part) table(text *strings.Builder) {
	rows := [][]string{{
		p.Unit, "writes/s", "ratio", "MB/s", "visible p50", "p99", "CPU us", "machine us", "memory MB",
		"workflows/1000", "events each", "bytes each", "events/write", "bytes/write",
	}}
	for _, at := range p.Points {
		p50, p99 := "-", "-"
		if at.Visible != nil {
			p50, p99 = count(at.Visible.P50), count(at.Visible.P99)
		}
		rows = append(rows, []string{
			thousands(int64(at.At)), count(at.WritesPerSecond), three(at.WritesPerSecond / p.Points[0].WritesPerSecond),
			three(at.MBPerSecond), p50, p99, count(at.ProcessCPU), count(at.MachineCPU), count(at.MemoryMB),
			count(at.WorkflowsPer1000), count(at.Events), count(at.HistoryBytes), three(at.EventsPerWrite()), count(at.HistoryBytesPerWrite()),
		})
	}
	grid(text, rows, true)
}

// growth says how the table came to its sizes, which is a figure, too.
func (p *Part) growth(text *strings.Builder, set ScaleSettings) {
	fmt.Fprintf(text, "Each turn writes %s rows anew that are spread over the whole table, so that its size stays. It grew by\n"+
		"batch sagas of new rows:", thousands(int64(set.Writes)))
	for i, at := range p.Points {
		if at.Growth == nil || at.Growth.Rows == 0 {
			continue
		}
		separator := ","
		if i == 0 {
			separator = ""
		}
		fmt.Fprintf(text, "%s to %s at %s/s", separator, thousands(int64(at.At)), count(at.Growth.WritesPerSecond))
		if at.Growth.Short {
			text.WriteString(" (its time was over before it was as large as asked for)")
		}
	}
	text.WriteString("\n")
}
