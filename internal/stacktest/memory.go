package stacktest

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// The fields of a process's status that StatusMB reads.
const (
	Resident = "VmRSS:"
	Peak     = "VmHWM:"
)

// StatusMB returns what the kernel says of a process's memory, in MB.
func StatusMB(t testing.TB, pid int, field string) float64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if words := strings.Fields(line); len(words) > 1 && words[0] == field {
			kb, err := strconv.ParseFloat(words[1], 64)
			if err != nil {
				t.Fatal(err)
			}
			return kb / 1024
		}
	}
	t.Fatalf("the status of process %d has no %s", pid, field)
	return 0
}
