//go:build !linux

package main

import (
	"fmt"
	"os/exec"
	"strconv"
	"strings"
)

// lookProcess returns nil for a process that has ended; a zombie has, too.
func lookProcess(pid int) *processInfo {
	table, err := ps("-p", strconv.Itoa(pid))
	if err != nil || len(table) == 0 {
		return nil
	}
	return &table[0]
}

func processTable() ([]processInfo, error) { return ps("-A") }

func ps(which ...string) ([]processInfo, error) {
	output, err := exec.Command("ps", append(which, "-o", "pid=,ppid=,pgid=,stat=,lstart=")...).Output()
	if err != nil {
		return nil, fmt.Errorf("list processes with ps: %w", err)
	}
	var table []processInfo
	for line := range strings.Lines(string(output)) {
		field := strings.Fields(line)
		if len(field) < 5 || strings.HasPrefix(field[3], "Z") {
			continue
		}
		info := processInfo{stopped: strings.HasPrefix(field[3], "T"), started: strings.Join(field[4:], " ")}
		info.pid, _ = strconv.Atoi(field[0])
		info.parent, _ = strconv.Atoi(field[1])
		info.group, _ = strconv.Atoi(field[2])
		table = append(table, info)
	}
	return table, nil
}
