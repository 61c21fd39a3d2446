package saga

import (
	"fmt"
	"strings"
)

// Command is a command line that helps with a saga, and what it does.
type Command struct {
	Effect string
	Line   string
}

// Commands returns what an operator can do about a saga that does not go on by
// itself, the most likely help first; none for one that needs nobody.
func Commands(o *Outcome) []Command {
	id := shellQuote(o.SagaID)
	var commands []Command
	add := func(effect, format string, args ...any) {
		commands = append(commands, Command{Effect: effect, Line: fmt.Sprintf("capsaga "+format, args...)})
	}
	if o.Status != Parked {
		if o.Error != nil || o.Status == Pending {
			add("all of it", "show %s", id)
		}
		return commands
	}
	undoing, refused := o.Undoing(), false
	for _, step := range o.Steps {
		if step.State != StepParked || step.Error == nil {
			continue
		}
		refused = refused || step.Error.Class == Rejected
		switch {
		case step.Error.Class == Rejected:
			add("when the cause is mended, try "+string(step.Name)+" again", "replay %s", id)
		case step.Name.IsTask():
			add("when its service answers, try "+string(step.Name)+" again", "replay %s", id)
		default:
			add("it goes on by itself when "+step.WaitsFor()+" is back; to try now", "replay %s", id)
		}
		if step.Name != StepCommit && (step.Name != StepUndo || step.Error.Class == Rejected) {
			add("to give "+string(step.Name)+" up", "skip %s --step %s", id, step.Name)
		}
	}
	if refused && o.Version != 0 && !undoing {
		add("to change the row, in PostgreSQL and all sinks", "edit %s --set COLUMN=JSON", id)
	}
	switch {
	case o.Version == 0 && !undoing && o.Stream == nil:
		add("to cancel the saga", "compensate %s", id)
	case !undoing && o.Stream == nil: // of what plain SQL wrote nobody knows what was before
		add("to undo the saga", "compensate %s", id)
	}
	add("all of it", "show %s", id)
	return unique(commands)
}

// unique drops the lines that came before.
func unique(commands []Command) []Command {
	seen := map[string]bool{}
	kept := commands[:0]
	for _, c := range commands {
		if !seen[c.Line] {
			seen[c.Line] = true
			kept = append(kept, c)
		}
	}
	return kept
}

// shellQuote makes a text one word of a shell.
func shellQuote(text string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:@,+", r)
	}
	if text != "" && text[0] != '-' && strings.IndexFunc(text, func(r rune) bool { return !plain(r) }) < 0 {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
