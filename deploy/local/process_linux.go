package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
)

var bootID = sync.OnceValue(func() string {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id))
})

// lookProcess returns nil for a process that has ended, also where its parent,
// which may be a container's careless first process, never collects it.
func lookProcess(pid int) *processInfo {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	return parseStat(pid, stat)
}

// parseStat reads /proc/PID/stat; see proc_pid_stat(5). The command's name comes
// second, in parentheses, and may itself hold spaces and parentheses.
func parseStat(pid int, stat []byte) *processInfo {
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 {
		return nil
	}
	field := strings.Fields(string(stat[end+1:]))
	if len(field) < 20 {
		return nil
	}
	// A zombie has ended, unless some of its threads still do: until the last is
	// gone its ports are taken.
	if state, threads := field[0], field[17]; state == "X" || state == "Z" && (threads == "0" || threads == "1") {
		return nil
	}
	parent, _ := strconv.Atoi(field[1])
	group, _ := strconv.Atoi(field[2])
	return &processInfo{
		pid: pid, parent: parent, group: group,
		stopped: field[0] == "T",
		started: bootID() + "/" + field[19],
	}
}

func processTable() ([]processInfo, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var table []processInfo
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if info := lookProcess(pid); info != nil {
			table = append(table, *info)
		}
	}
	return table, nil
}
