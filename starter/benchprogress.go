package main

import (
	"fmt"
	"io"
	"time"

	"github.com/capsaga/capsaga/internal/bench"
)

// benchProgress shows on a terminal what is measured and how long it will take, and
// elsewhere a line for each repetition.
type benchProgress struct {
	out      io.Writer
	terminal bool
	bars     *bars
	began    time.Time // of the first turn
	part     string
	last     int // the repetition that was told
}

func (b *benchProgress) tell(p bench.Progress) {
	if !b.terminal {
		if p.Part != b.part {
			b.part, b.last = p.Part, 0
		}
		if p.Repetition > b.last {
			b.last = p.Repetition
			_, _ = fmt.Fprintf(b.out, "%srepetition %d of %d\n", part(p), p.Repetition, p.Repetitions)
		}
		return
	}
	if b.bars == nil {
		b.bars = &bars{out: b.out}
	}
	if b.began.IsZero() && p.Done > 0 {
		b.began = time.Now()
	}
	left := ""
	if p.Done > 1 {
		perSecond := float64(p.Done-1) / time.Since(b.began).Seconds()
		left = timeLeft(int64(p.Total-p.Done), perSecond)
	}
	round := "warms up"
	if p.Repetition > 0 {
		round = fmt.Sprintf("repetition %d of %d", min(p.Repetition, p.Repetitions), p.Repetitions)
	}
	b.bars.draw([]string{fmt.Sprintf("%s %s  %s%s: %s  %s", bar(int64(p.Done), int64(p.Total)), percent(int64(p.Done), int64(p.Total)), part(p), round, p.Doing, left)})
}

func (b *benchProgress) clear() {
	if b.bars != nil {
		b.bars.clear()
	}
}

// part is before what is told of a run that has parts.
func part(p bench.Progress) string {
	if p.Part == "" {
		return ""
	}
	return p.Part + ": "
}
