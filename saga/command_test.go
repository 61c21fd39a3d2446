package saga

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCommands(t *testing.T) {
	t.Parallel()
	away := &ErrorInfo{Class: Unavailable, Message: "away"}
	no := &ErrorInfo{Class: Rejected, Message: "no"}
	lines := func(o *Outcome) []string {
		var all []string
		for _, c := range Commands(o) {
			all = append(all, c.Line)
		}
		return all
	}
	require.Empty(t, Commands(&Outcome{SagaID: "a", Status: Completed}))
	require.Equal(t, []string{"capsaga show a"}, lines(&Outcome{SagaID: "a", Status: Pending}))
	require.Equal(t, []string{
		`capsaga replay 'a b'`, `capsaga skip 'a b' --step redis`, `capsaga skip 'a b' --step elasticsearch`,
		`capsaga edit 'a b' --set COLUMN=JSON`, `capsaga compensate 'a b'`, `capsaga show 'a b'`,
	}, lines(&Outcome{SagaID: "a b", Status: Parked, Version: 1, Steps: []Step{
		{Name: StepCommit, State: StepDone}, {Name: StepRedis, State: StepParked, Error: away}, {Name: StepElasticsearch, State: StepParked, Error: no},
	}}))
	require.Equal(t, []string{`capsaga replay a`, `capsaga compensate a`, `capsaga show a`},
		lines(&Outcome{SagaID: "a", Status: Parked, Steps: []Step{{Name: StepCommit, State: StepParked, Error: away}}}))
	require.Equal(t, []string{`capsaga replay a`, `capsaga skip a --step undo`, `capsaga show a`},
		lines(&Outcome{SagaID: "a", Status: Parked, Version: 1, Steps: []Step{{Name: StepUndo, State: StepParked, Error: no}}}))
	require.Equal(t, []string{`capsaga replay a`, `capsaga show a`},
		lines(&Outcome{SagaID: "a", Status: Parked, Version: 1, Steps: []Step{{Name: StepUndo, State: StepParked, Error: away}}}), "it may have happened")
	require.Equal(t, []string{`capsaga replay a`, `capsaga skip a --step undo-mail`, `capsaga show a`},
		lines(&Outcome{SagaID: "a", Status: Parked, Version: 1, Steps: []Step{{Name: "undo-mail", State: StepParked, Error: no}}}))
	for _, c := range Commands(&Outcome{SagaID: "a", Status: Parked, Steps: []Step{{Name: "undo-reserve", State: StepParked, Error: away}}}) {
		require.NotContains(t, c.Effect, "by itself", "no gate watches a service")
	}
	require.Equal(t, `'-a'`, shellQuote("-a"))
	require.Equal(t, `'it'\''s'`, shellQuote("it's"))
}

func TestTasks(t *testing.T) {
	t.Parallel()
	good := `{"saga_id":"a","mutations":[{"entity":"e","op":"delete","key":{"id":1}}],"before_steps":[{"name":"reserve","task_queue":"q","activity":"A","compensation":"B","timeout":"5s"}],"after_steps":[{"name":"mail","task_queue":"q","activity":"C"}]}`
	w, err := ParseWrite([]byte(good))
	require.NoError(t, err)
	plain := *w
	plain.BeforeSteps, plain.AfterSteps = nil, nil
	require.NotEqual(t, w.Digest(), plain.Digest(), "steps are content")
	for says, steps := range map[string]string{
		"before_steps[0].activty":       `"before_steps":[{"name":"x","task_queue":"q","activty":"A","compensation":"B"}]`,
		"compensation is missing":       `"before_steps":[{"name":"x","task_queue":"q","activity":"A"}]`,
		"activity is missing":           `"after_steps":[{"name":"x","task_queue":"q"}]`,
		"task_queue is missing":         `"after_steps":[{"name":"x","activity":"A"}]`,
		"of a step of Capsaga's own":    `"after_steps":[{"name":"redis","task_queue":"q","activity":"A"}]`,
		`name "undo-x" is that`:         `"after_steps":[{"name":"undo-x","task_queue":"q","activity":"A"}]`,
		"want a lower-case letter":      `"after_steps":[{"name":"X","task_queue":"q","activity":"A"}]`,
		"is that of after_steps[0]":     `"after_steps":[{"name":"x","task_queue":"q","activity":"A"},{"name":"x","task_queue":"q","activity":"A"}]`,
		"timeout is negative":           `"after_steps":[{"name":"x","task_queue":"q","activity":"A","timeout":"-1s"}]`,
		"field after_steps: a JSON str": `"after_steps":"x"`,
	} {
		_, err := ParseWrite([]byte(`{"saga_id":"a","mutations":[{"entity":"e","op":"delete","key":{"id":1}}],` + steps + `}`))
		require.ErrorContains(t, err, says)
	}
}

func TestPolicies(t *testing.T) {
	t.Parallel()
	e := &Entity{Policy: Policy{OnReject: OnRejectSkip, ParkAfter: 1}, Redis: &RedisSink{Policy: Policy{ParkAfter: 2}}, Kafka: &KafkaSink{}}
	require.Equal(t, Policy{OnReject: OnRejectSkip, ParkAfter: 2}, e.PolicyFor(Redis))
	require.Equal(t, Policy{OnReject: OnRejectCompensate, ParkAfter: 1}, Policy{OnReject: OnRejectCompensate}.Or(e.PolicyFor(Kafka)))
	require.Equal(t, Policy{OnReject: OnRejectPark, ParkAfter: 1}, Policy{ParkAfter: 1}.Cautious(Policy{OnReject: OnRejectCompensate}))
	require.Equal(t, OnRejectCompensate, Policy{OnReject: OnRejectSkip}.Cautious(Policy{OnReject: OnRejectCompensate}).OnReject)
}
