package bench

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// WriteTable prints the result for people.
func (r *Result) WriteTable(out io.Writer) error {
	var text strings.Builder
	m := r.Machine
	fmt.Fprintf(&text, "%s; %s\n", m.describe(), strings.Join(m.versions(), ", "))
	fmt.Fprintf(&text, "%d repetitions of %s or %d rows of about %d bytes; medians; every row was read back from all four systems\n\n",
		r.Settings.Repetitions, r.Settings.Duration, r.Settings.Rows, r.Settings.RowBytes)
	figures := [][]string{{"", "writes/s", "committed p50", "p95", "p99", "visible p50", "p95", "p99", "CPU s/1000", "machine", "memory MB"}}
	for _, f := range r.Contestants {
		cells := []string{f.Letter + "  " + f.Title, count(f.WritesPerSecond)}
		cells = append(append(cells, f.Committed.cells()...), f.Visible.cells()...)
		figures = append(figures, append(cells, three(f.ProcessCPU), three(f.MachineCPU), count(f.MemoryMB)))
	}
	grid(&text, figures, true)
	fmt.Fprintf(&text, "\nLatencies are in milliseconds, and those of batches are of a whole batch of %d. CPU is that of the\n"+
		"bench with its worker, and of the machine with all servers; memory is the most of the worker's process.\n", batchRows(r.Settings.Batch, r.Settings.RowBytes))
	text.WriteString(r.unsettled() + "\n")
	ratios := [][]string{{"TARGET", "IS", "WANTED", ""}}
	for _, ratio := range r.Ratios {
		ratios = append(ratios, []string{ratio.Name, ratio.is(), ratio.wanted(), ratio.verdict()})
	}
	grid(&text, ratios, false)
	_, err := io.WriteString(out, text.String())
	return err
}

// unsettled is a line on the turns that began on a busy machine, or nothing.
func (r *Result) unsettled() string {
	turns, all := 0, 0
	for _, f := range r.Contestants {
		turns, all = turns+f.Unsettled, all+len(f.Repetitions)
	}
	return unsettledLine(turns, all, r.Settings.Settle)
}

func unsettledLine(turns, all int, limit string) string {
	if turns == 0 {
		return ""
	}
	return fmt.Sprintf("%d of %d turns began although the machine had not come to rest in %s: something else kept it busy.\n", turns, all, limit)
}

// grid writes rows in columns; all but the first to the right, if they are numbers.
func grid(text *strings.Builder, rows [][]string, numbers bool) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			blank := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i > 0 {
				line.WriteString("  ")
			}
			if numbers && i > 0 {
				line.WriteString(blank + cell)
			} else {
				line.WriteString(cell + blank)
			}
		}
		text.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
}

func (m Machine) describe() string {
	parts := []string{fmt.Sprintf("%d cores", m.Cores)}
	if m.CPU != "" {
		parts[0] = fmt.Sprintf("%d cores of %s", m.Cores, m.CPU)
	}
	if m.MemoryMB > 0 {
		parts = append(parts, fmt.Sprintf("%.0f GiB", float64(m.MemoryMB)/1024))
	}
	parts = append(parts, m.Platform, m.Go)
	if m.Revision != "" {
		revision := "revision " + m.Revision[:min(len(m.Revision), 12)]
		if m.Modified {
			revision += " with changes"
		}
		parts = append(parts, revision)
	}
	return strings.Join(parts, ", ")
}

func (m Machine) versions() []string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(m.Versions)) {
		all = append(all, name+" "+m.Versions[name])
	}
	return all
}

// count writes a number with three digits that count, or all before the point.
func count(v float64) string {
	switch {
	case math.IsNaN(v):
		return "-"
	case v >= 100:
		return thousands(int64(math.Round(v)))
	}
	return three(v)
}

func three(v float64) string {
	if math.IsNaN(v) {
		return "-"
	}
	digits := 3
	for limit := 1.0; v >= limit && digits > 0; limit *= 10 {
		digits--
	}
	return strconv.FormatFloat(v, 'f', digits, 64)
}

func thousands(n int64) string {
	text := strconv.FormatInt(n, 10)
	for at := len(text) - 3; at > 0; at -= 3 {
		text = text[:at] + "," + text[at:]
	}
	return text
}

func (l *Latency) cells() []string {
	if l == nil {
		return []string{"-", "-", "-"}
	}
	return []string{count(l.P50), count(l.P95), count(l.P99)}
}

func (r Ratio) is() string {
	if r.Value == nil {
		return "-"
	}
	return r.with(three(*r.Value))
}

func (r Ratio) wanted() string {
	if r.AtMost {
		return "at most " + r.with(strconv.FormatFloat(r.Target, 'f', -1, 64))
	}
	return "at least " + r.with(strconv.FormatFloat(r.Target, 'f', -1, 64))
}

func (r Ratio) with(number string) string {
	if r.Unit != "" {
		number += " " + r.Unit
	}
	return number
}

func (r Ratio) verdict() string {
	switch {
	case r.Met == nil:
		return "not measured"
	case *r.Met:
		return "met"
	}
	return "NOT MET"
}
