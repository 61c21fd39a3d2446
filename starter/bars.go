package main

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// bars draws one line for each of several things that go on at once, in place.
type bars struct {
	out   io.Writer
	drawn int
}

// draw replaces what was drawn.
func (b *bars) draw(lines []string) {
	var text strings.Builder
	if b.drawn > 0 {
		fmt.Fprintf(&text, "\x1b[%dA", b.drawn)
	}
	for _, line := range lines {
		text.WriteString("\r\x1b[K" + line + "\n")
	}
	text.WriteString("\x1b[J")
	b.drawn = len(lines)
	_, _ = io.WriteString(b.out, text.String()) // what cannot be drawn is no failure
}

// clear takes the lines away.
func (b *bars) clear() {
	if b.drawn > 0 {
		b.draw(nil)
	}
}

const barWidth = 24

// bar is a bar of a part of a whole.
func bar(done, total int64) string {
	filled := 0
	if total > 0 {
		filled = int(barWidth * min(done, total) / total)
	}
	return strings.Repeat("█", filled) + strings.Repeat("·", barWidth-filled)
}

// percent is done of total; what cannot be known is left out.
func percent(done, total int64) string {
	if total <= 0 {
		return "  - "
	}
	return fmt.Sprintf("%3d%%", 100*min(done, total)/total)
}

// timeLeft is how long the rest takes at a rate per second.
func timeLeft(rest int64, rate float64) string {
	if rest <= 0 || rate <= 0 {
		return ""
	}
	return (time.Duration(float64(rest)/rate*float64(time.Second)) + time.Second - 1).Truncate(time.Second).String() + " left"
}
