package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParseStat(t *testing.T) {
	rest := " 1 2 3 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 "
	info := parseStat(7, []byte("7 (a) b (c) T"+rest+"5 0 12345 99"))
	require.NotNil(t, info)
	assert.Equal(t, processInfo{pid: 7, parent: 1, group: 2, stopped: true, started: bootID() + "/12345"}, *info)

	assert.Nil(t, parseStat(7, []byte("7 (java) Z"+rest+"1 0 12345 99")), "a zombie has ended")
	assert.NotNil(t, parseStat(7, []byte("7 (java) Z"+rest+"3 0 12345 99")), "its threads have not")
	assert.Nil(t, parseStat(7, []byte("garbage")))
}
