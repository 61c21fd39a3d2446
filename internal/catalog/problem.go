package catalog

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/capsaga/capsaga/saga"
)

// Severity says whether a problem keeps the catalog from being applied.
type Severity string

// The severities.
const (
	SeverityError   Severity = "error"
	SeverityWarning Severity = "warning"
)

// Problem is one thing that is wrong with a catalog, or with the database that
// it is checked against.
type Problem struct {
	File string `json:"file,omitempty"` // empty for a catalog that no file holds
	Line int    `json:"line,omitempty"` // 1 is the first; 0: no line is to blame
	// Field is the path in the file, such as entities.products.key[0]. What is
	// about the server and not about the file has the field "postgres".
	Field    string   `json:"field,omitempty"`
	Message  string   `json:"message"`
	Severity Severity `json:"severity"`
}

// String returns file:line: field: message, the form that editors can jump to.
func (p Problem) String() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File)
		if p.Line > 0 {
			fmt.Fprintf(&b, ":%d", p.Line)
		}
		b.WriteString(": ")
	}
	if p.Severity == SeverityWarning {
		b.WriteString("warning: ")
	}
	if p.Field != "" {
		b.WriteString(p.Field + ": ")
	}
	return b.String() + p.Message
}

// Problems is an error that names every problem, one a line.
type Problems []Problem

// Error returns the problems, one a line.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, problem := range p {
		lines[i] = problem.String()
	}
	return strings.Join(lines, "\n")
}

// Errors returns those problems that keep the catalog from being applied.
func (p Problems) Errors() Problems {
	return slices.DeleteFunc(slices.Clone(p), func(problem Problem) bool { return problem.Severity != SeverityError })
}

// Err returns nil when no problem is an error, else a rejected *saga.Error that
// wraps those that are, so that errors.As finds them as Problems.
func (p Problems) Err() error {
	errors := p.Errors()
	if len(errors) == 0 {
		return nil
	}
	message := errors[0].String()
	if len(errors) > 1 {
		message = fmt.Sprintf("%d problems:\n%s", len(errors), errors.Error())
	}
	return &saga.Error{Class: saga.Rejected, System: "catalog", Code: saga.CodeRejected, Message: message, Err: errors}
}

// sort orders by line; what no line is to blame for comes last.
func (p Problems) sort() {
	slices.SortStableFunc(p, func(a, b Problem) int {
		if (a.Line == 0) != (b.Line == 0) {
			return cmp.Compare(b.Line, a.Line)
		}
		return cmp.Compare(a.Line, b.Line)
	})
}
