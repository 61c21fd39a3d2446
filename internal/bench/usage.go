package bench

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// usage is what a measurement takes of the machine. It is read from /proc, so that
// only Linux has it; elsewhere it is zero.
type usage struct {
	processes, machine time.Duration // CPU time
}

// tick is the kernel's unit of CPU time in /proc, on every Linux that Go runs on.
const tick = 10 * time.Millisecond

// used returns the CPU time of this process and of others, and of the whole machine.
func used(others []int) usage {
	u := usage{machine: machineTime()}
	for _, pid := range append([]int{os.Getpid()}, others...) {
		u.processes += processTime(pid)
	}
	return u
}

func (u usage) since(before usage) usage {
	return usage{u.processes - before.processes, u.machine - before.machine}
}

// processTime reads utime and stime. The name before them may hold anything, up to
// the last bracket.
func processTime(pid int) time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), " ")
	fields := strings.Fields(rest)
	const utime, stime = 11, 12
	if len(fields) <= stime {
		return 0
	}
	return ticks(fields[utime]) + ticks(fields[stime])
}

// machineTime is all time that some core was not idle.
func machineTime() time.Duration { return readCores().busy }

// cores is the time of all cores together.
type cores struct{ busy, all time.Duration }

func readCores() cores {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return cores{}
	}
	return parseCores(string(stat))
}

// parseCores reads the first line: cpu user nice system idle iowait irq softirq
// steal; guests' time is in user.
func parseCores(stat string) (c cores) {
	line, _, _ := strings.Cut(stat, "\n")
	fields := strings.Fields(line)
	for i, field := range fields[min(1, len(fields)):] {
		if i >= 8 {
			break
		}
		c.all += ticks(field)
		if i != 3 && i != 4 {
			c.busy += ticks(field)
		}
	}
	return c
}

// share is which part of the time between was busy; zero where nothing is known.
func (c cores) share(before cores) float64 {
	if c.all <= before.all {
		return 0
	}
	return float64(c.busy-before.busy) / float64(c.all-before.all)
}

func ticks(text string) time.Duration {
	n, _ := strconv.ParseInt(text, 10, 64)
	return time.Duration(n) * tick
}

// forgetPeak lets the peak of a process's memory begin anew. Not every kernel lets
// us; then it is the peak since its start.
func forgetPeak(pid int) { _ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0) }

// peakMB is the most resident memory that a process had.
func peakMB(pid int) float64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if words := strings.Fields(line); len(words) > 1 && words[0] == "VmHWM:" {
			kb, _ := strconv.ParseFloat(words[1], 64)
			return kb / 1024
		}
	}
	return 0
}
