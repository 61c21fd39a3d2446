package saga

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// Task is a step of a service's own in a saga: an activity that a worker of the
// service runs, in any language, on a task queue of its own. Its activity gets
// one argument, a TaskInput as JSON, and its result may be any JSON.
//
// An activity may be run more than once; saga id and step together are its
// idempotency key. An error that Temporal does not retry is a rejection; what is
// retryable is tried again, as for a sink.
type Task struct {
	// Name is the step's, unique in the write: a-z, 0-9, "_" and "-".
	Name      string          `json:"name"`
	TaskQueue string          `json:"task_queue"`
	Activity  string          `json:"activity"` // its type
	Input     json.RawMessage `json:"input,omitempty"`
	// Compensation is the type of the activity that undoes it, on the same task
	// queue. A before-step must have one; an after-step may. It is registered
	// before the step runs, so it may be called for a step that did not happen, and
	// then has to succeed.
	Compensation string `json:"compensation,omitempty"`
	// Timeout bounds one attempt; default DefaultTaskTimeout.
	Timeout Duration `json:"timeout,omitempty"`
}

// DefaultTaskTimeout bounds one attempt of a task that does not say.
const DefaultTaskTimeout = 30 * time.Second

// TimeoutOrDefault returns the bound of one attempt.
func (t *Task) TimeoutOrDefault() time.Duration {
	if t.Timeout > 0 {
		return time.Duration(t.Timeout)
	}
	return DefaultTaskTimeout
}

// TaskInput is the argument of a task's activity and of its compensation.
type TaskInput struct {
	SagaID string          `json:"saga_id"`
	Step   string          `json:"step"`
	Input  json.RawMessage `json:"input,omitempty"`
	// Result is what the activity returned, for its compensation; absent when that
	// is not known, as the activity may have happened without an answer.
	Result json.RawMessage `json:"result,omitempty"`
}

var taskForm = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)

// validateTasks checks the before- and after-steps, whose names are unique
// together.
func (w *Write) validateTasks() error {
	names := map[string]string{}
	for _, list := range []struct {
		field  string
		tasks  []Task
		undone bool
	}{{"before_steps", w.BeforeSteps, true}, {"after_steps", w.AfterSteps, false}} {
		for i := range list.tasks {
			at := fmt.Sprintf("%s[%d]", list.field, i)
			t := &list.tasks[i]
			if err := t.validate(list.undone); err != nil {
				return fmt.Errorf("%s: %w", at, err)
			}
			if other, taken := names[t.Name]; taken {
				return fmt.Errorf("%s: name %q is that of %s already", at, t.Name, other)
			}
			names[t.Name] = at
		}
	}
	return nil
}

func (t *Task) validate(mustUndo bool) error {
	switch name := StepName(t.Name); {
	case !taskForm.MatchString(t.Name):
		return fmt.Errorf("name %q: want a lower-case letter, then at most 62 of a-z, 0-9, _ and -", t.Name)
	case name == StepCommit || name == StepRedis || name == StepKafka || name == StepElasticsearch || name.Undoes():
		return fmt.Errorf("name %q is that of a step of Capsaga's own", t.Name)
	case t.TaskQueue == "":
		return fmt.Errorf("task_queue is missing: name the one that the service's worker polls")
	case t.Activity == "":
		return fmt.Errorf("activity is missing: name the type of the service's activity")
	case mustUndo && t.Compensation == "":
		return fmt.Errorf("compensation is missing: what runs before the commit has to be undone when the commit is refused")
	case t.Timeout < 0:
		return fmt.Errorf("timeout is negative")
	}
	return nil
}

// undoPrefix begins the names of the steps of a compensation.
const undoPrefix = "undo"

// StepUndo is the step that undoes the commit in PostgreSQL.
const StepUndo StepName = undoPrefix

// Undo returns the name of the step that undoes a step: "undo" for the commit,
// "undo-" and its name for any other.
func (n StepName) Undo() StepName {
	if n == StepCommit {
		return StepUndo
	}
	return undoPrefix + "-" + n
}

// Undoes reports whether a step belongs to a compensation.
func (n StepName) Undoes() bool {
	return n == StepUndo || strings.HasPrefix(string(n), undoPrefix+"-")
}

// System returns what a step needs to be up: a sink, "postgres", or the task's
// own name.
func (n StepName) System() string {
	switch bare := StepName(strings.TrimPrefix(string(n), undoPrefix+"-")); bare {
	case StepCommit, StepUndo:
		return "postgres"
	default:
		return string(bare)
	}
}

// IsTask reports whether a step is a service's own, or undoes one. No gate watches
// a service, so such a step waits for an operator when it is parked.
func (n StepName) IsTask() bool {
	switch n.System() {
	case "postgres", string(Redis), string(Kafka), string(Elasticsearch):
		return false
	}
	return true
}
