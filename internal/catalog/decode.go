package catalog

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/capsaga/capsaga/saga"
)

// Limits of what a catalog may say.
const (
	// maxIdentifier is PostgreSQL's limit; it cuts longer names off silently.
	maxIdentifier = 63
	// maxEntityName leaves room for the prefix and the suffix of an index's
	// name, which Elasticsearch limits to 255 bytes.
	maxEntityName = 200
	// minTombstoneTTL: a tombstone that is gone sooner protects nothing, since
	// an apply older than half of it reads its row again.
	minTombstoneTTL = time.Second
	// minParkAfter: the patient attempts after the quick ones take about as long.
	minParkAfter = time.Second
	// minRetention leaves callers the time to ask again with the same saga id.
	minRetention   = time.Hour
	maxPartitions  = 10_000
	maxReplication = 1_000
)

// cleanups are Kafka's policies by which a topic's old records go.
var cleanups = []string{"compact", "delete", "compact,delete"}

// decimalModes and timeModes are Debezium's names, the defaults first.
var (
	decimalModes = []string{string(saga.DecimalString), string(saga.DecimalPrecise), string(saga.DecimalDouble)}
	timeModes    = []string{
		string(saga.TimeAdaptive), string(saga.TimeAdaptiveMicroseconds), string(saga.TimeConnect), string(saga.TimeISOString),
		string(saga.TimeMicroseconds), string(saga.TimeNanoseconds), string(saga.TimeStructured),
	}
)

// reactions are what a policy may do about a rejection.
var reactions = []string{string(saga.OnRejectCompensate), string(saga.OnRejectPark), string(saga.OnRejectSkip)}

// systemSchemas hold tables that are nobody's entities.
var systemSchemas = []string{"pg_catalog", "information_schema", "pg_toast", saga.Schema}

// decoder turns nodes into a catalog and gathers every problem on its way.
type decoder struct {
	file     string
	lines    map[string]int
	problems Problems
}

func (d *decoder) problemAt(line int, field, format string, args ...any) {
	d.problems = append(d.problems, Problem{
		File: d.file, Line: line, Field: field, Severity: SeverityError, Message: fmt.Sprintf(format, args...),
	})
}

// field is a value of the file with its name in its mapping and its path.
type field struct {
	*yaml.Node
	name string
	path string
}

// maxPath bounds how long a path grows: long names, nested, would else make a
// small file need gigabytes. What lies deeper is named by what encloses it.
const maxPath = 1000

func (f field) pathOf(step string) string {
	if len(f.path)+len(step) > maxPath {
		return f.path
	}
	return strings.TrimPrefix(f.path+step, ".")
}

func (d *decoder) problem(f field, format string, args ...any) {
	d.problemAt(f.Line, f.path, format, args...)
}

// fields returns the members of a mapping by name; no other names are allowed.
func (d *decoder) fields(f field, names ...string) map[string]field {
	members := map[string]field{}
	for _, m := range d.members(f) {
		if !slices.Contains(names, m.name) {
			d.problemAt(d.lines[m.path], m.path, "unknown field: want %s", oneOf(names))
			continue
		}
		members[m.name] = m
	}
	return members
}

// members returns the members of a mapping in the file's order, each name once.
func (d *decoder) members(f field) []field {
	if f.Kind == yaml.ScalarNode && f.ShortTag() == "!!null" {
		return nil
	}
	if f.Kind != yaml.MappingNode {
		d.problem(f, "want fields, got %s", kindOf(f.Node))
		return nil
	}
	seen := map[string]int{}
	var members []field
	for i := 0; i+1 < len(f.Content); i += 2 {
		key, value := f.Content[i], f.Content[i+1]
		m := field{Node: value, name: key.Value, path: f.pathOf("." + key.Value)}
		switch first, again := seen[key.Value]; {
		case key.Kind != yaml.ScalarNode || key.ShortTag() != "!!str":
			d.problemAt(key.Line, f.path, "want a name as text, got %s", kindOf(key))
		case again:
			d.problemAt(key.Line, m.path, "given twice: the first is in line %d", first)
		default:
			seen[key.Value] = key.Line
			d.lines[m.path] = key.Line
			members = append(members, m)
		}
	}
	return members
}

// items returns the elements of a list.
func (d *decoder) items(f field) []field {
	if f.Kind != yaml.SequenceNode {
		d.problem(f, "want a list, got %s", kindOf(f.Node))
		return nil
	}
	items := make([]field, len(f.Content))
	for i, n := range f.Content {
		items[i] = field{Node: n, path: f.pathOf(fmt.Sprintf("[%d]", i))}
		d.lines[items[i].path] = n.Line
	}
	return items
}

func (d *decoder) text(f field) (string, bool) {
	if f.Kind != yaml.ScalarNode || f.ShortTag() != "!!str" {
		d.problem(f, "want text, got %s", kindOf(f.Node))
		return "", false
	}
	return f.Value, true
}

func (d *decoder) boolean(f field) bool {
	if f.Kind != yaml.ScalarNode || f.ShortTag() != "!!bool" {
		d.problem(f, "want true or false, got %s", kindOf(f.Node))
		return false
	}
	return strings.EqualFold(f.Value, "true")
}

func (d *decoder) integer(f field, low, high int) int {
	n, err := strconv.Atoi(f.Value)
	switch {
	case f.Kind != yaml.ScalarNode || f.ShortTag() != "!!int":
		d.problem(f, "want a whole number, got %s", kindOf(f.Node))
	case err != nil || n < low || n > high:
		d.problem(f, "%s: want a whole number from %d to %d", f.Value, low, high)
	}
	return n
}

// duration reads a time with its unit; a bare 0 has none to give.
func (d *decoder) duration(f field, least time.Duration) time.Duration {
	tag := f.ShortTag()
	if f.Kind != yaml.ScalarNode || tag != "!!str" && tag != "!!int" {
		d.problem(f, "want a time such as 90s, 5m or 24h, got %s", kindOf(f.Node))
		return 0
	}
	v, err := time.ParseDuration(f.Value)
	switch {
	case err != nil:
		d.problem(f, "%q: want a time with its unit, such as 90s, 5m or 24h", f.Value)
	case v < 0:
		d.problem(f, "%s is negative", f.Value)
	case v > 0 && v < least:
		d.problem(f, "%s: the least is %s, and 0s is the default", f.Value, least)
	}
	return v
}

func (d *decoder) table(f field) (saga.Table, bool) {
	text, ok := d.text(f)
	if !ok {
		return saga.Table{}, false
	}
	table, err := saga.ParseTable(text)
	switch {
	case err != nil:
		d.problem(f, "%s", err)
	case len(table.Schema) > maxIdentifier || len(table.Name) > maxIdentifier:
		d.problem(f, "%q: a name has at most %d bytes in PostgreSQL", text, maxIdentifier)
	case slices.Contains(systemSchemas, table.Schema):
		d.problem(f, "schema %s is not for user tables", table.Schema)
	default:
		return table, true
	}
	return saga.Table{}, false
}

var kinds = map[string]string{
	"!!null": "nothing", "!!bool": "a boolean", "!!int": "a number", "!!float": "a number",
	"!!str": "text", "!!timestamp": "a date", "!!seq": "a list", "!!map": "fields",
}

func kindOf(n *yaml.Node) string {
	kind, ok := kinds[n.ShortTag()]
	switch {
	case !ok:
		return "the unknown type " + n.Tag
	case n.Kind == yaml.ScalarNode && n.Value != "":
		return fmt.Sprintf("%s (%.40s)", kind, n.Value)
	}
	return kind
}

func oneOf(names []string) string {
	if len(names) == 1 {
		return names[0]
	}
	return strings.Join(names[:len(names)-1], ", ") + " or " + names[len(names)-1]
}
