package main

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/kafkapub"
)

func TestChooseDiversions(t *testing.T) {
	t.Parallel()
	diverted := []kafkapub.Diversion{{Topic: "a"}, {Topic: "b"}}
	all, err := chooseDiversions(diverted, nil)
	require.NoError(t, err)
	require.Equal(t, diverted, all)
	one, err := chooseDiversions(diverted, []string{"b"})
	require.NoError(t, err)
	require.Equal(t, diverted[1:], one)
	_, err = chooseDiversions(diverted, []string{"b", "c"})
	require.ErrorContains(t, err, "topic c is not diverted")
	require.ErrorContains(t, err, "capsaga streams")
}

func TestDrainedTopicsAreTold(t *testing.T) {
	t.Parallel()
	results := []drained{{Topic: "a", Status: "waiting", Error: "?"}, {Topic: "b", Status: "waiting", Error: "?"}, {Topic: "c", Status: "waiting", Error: "?"}}
	left := []kafkapub.Diversion{{Topic: "b", Refused: "no right"}, {Topic: "c", Requested: true}}
	require.Equal(t, 1, updateDrained(results, left))
	require.Equal(t, []drained{{Topic: "a", Status: "drained"}, {Topic: "b", Status: "refused", Error: "no right"}, {Topic: "c", Status: "waiting", Error: "?"}}, results)

	var out bytes.Buffer
	a := &app{stdout: &out, stderr: &out, output: asTable}
	err := a.writeDrained(results)
	require.ErrorContains(t, err, "not drained: b, c")
	require.Equal(t, statusSome, report(&bytes.Buffer{}, err))
	require.Contains(t, out.String(), "no right")
	require.NoError(t, a.writeDrained(results[:1]))
	require.NoError(t, a.writeDrained(nil))
	require.Contains(t, out.String(), "nothing to drain")
}
