package postgres

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/capsaga/capsaga/saga"
)

// statement is SQL with its arguments.
type statement struct {
	sql  string
	args []any
}

// planned is a mutation turned into SQL. Every value reaches its column as JSON
// text through json_to_record, so that the column's own input function reads it
// and no number passes through a float. Names are quoted; values are arguments.
type planned struct {
	entity *saga.Entity
	table  *TableInfo
	*saga.Mutation

	// read locks the row and returns etag, row and the truth of each condition;
	// nil for an insert, which has no row to read.
	read       *statement
	conditions []condition
	// cascades names the tables of which a delete changes rows; nil for the rest.
	cascades *statement
	write    statement // returns the text forms of the key columns, and whether it inserted
}

// condition is something that must hold of the row before the mutation.
type condition struct {
	code string
	text string // what to say when it does not hold
}

// check checks a mutation against its entity and table.
func check(e *saga.Entity, t *TableInfo, m *saga.Mutation) (*planned, error) {
	p := &planned{entity: e, table: t, Mutation: m}
	for _, check := range []func() error{p.checkColumns, p.checkKey, p.checkAdd} {
		if err := check(); err != nil {
			return nil, err
		}
	}
	p.listConditions()
	return p, nil
}

// plan checks a mutation and builds its SQL.
func plan(e *saga.Entity, t *TableInfo, m *saga.Mutation) (*planned, error) {
	p, err := check(e, t, m)
	if err != nil {
		return nil, err
	}
	switch m.Op {
	case saga.Insert:
		p.write = p.insert()
	case saga.Upsert:
		p.write = p.upsert()
	case saga.Patch, saga.Add:
		p.write = p.update(p.Key, p.Set, p.Mutation.Add)
	case saga.Delete:
		p.write = p.deleteKey(p.Key)
		p.write.sql += ", false"
		p.cascades = p.references(p.Key)
	}
	if m.Op != saga.Insert {
		p.read = p.readStatement()
	}
	return p, nil
}

func refuse(code, format string, args ...any) *saga.Error {
	return &saga.Error{Class: saga.Rejected, System: "postgres", Code: code, Message: fmt.Sprintf(format, args...)}
}

// checkColumns finds each named column in the table.
func (p *planned) checkColumns() error {
	for _, columns := range []saga.Columns{p.Row, p.Key, p.Set, p.Mutation.Add} {
		for _, name := range names(columns) {
			c := p.table.Column(name)
			if value := bytes.TrimSpace(columns[name]); c != nil && !c.Structured && len(value) > 0 && (value[0] == '{' || value[0] == '[') {
				return refuse(saga.CodeInvalidValue, "entity %s: the value of column %q is a JSON object or array, which does not fit its type %s", p.Entity, name, c.Type)
			}
			if c == nil {
				return refuse(saga.CodeUnknownColumn, "entity %s: table %s has no column %q", p.Entity, p.table.Table, name)
			}
			if c.Generated != "" {
				return refuse(saga.CodeInvalidValue, "entity %s: column %q is generated: leave it out", p.Entity, name)
			}
		}
	}
	if p.Expect == nil {
		return nil
	}
	for _, c := range p.Expect.Where {
		if p.table.Column(c.Column) == nil {
			return refuse(saga.CodeUnknownColumn, "entity %s: expect.where names column %q, which table %s does not have", p.Entity, c.Column, p.table.Table)
		}
	}
	return nil
}

// checkKey wants all key columns, and in key no others. An insert may leave one
// to its default.
func (p *planned) checkKey() error {
	columns := p.KeyColumns()
	for _, name := range p.entity.Key {
		value, named := columns[name]
		c := p.table.Column(name)
		if c == nil {
			return refuse(saga.CodeUnknownColumn, "entity %s: the catalog's key column %q is not in table %s", p.Entity, name, p.table.Table)
		}
		if !named && p.Op == saga.Insert && (c.HasDefault || c.Identity != "") {
			continue
		}
		if !named || isNull(value) {
			return refuse(saga.CodeMissingKey, "entity %s: key column %q has no value", p.Entity, name)
		}
		if _, set := p.Set[name]; set {
			return refuse(saga.CodeInvalidValue, "entity %s: column %q is of the key, which a patch cannot change: delete the row and insert another", p.Entity, name)
		}
	}
	for name := range p.Key {
		if !slices.Contains(p.entity.Key, name) {
			return refuse(saga.CodeInvalidValue, "entity %s: column %q is not of the key, which is %s", p.Entity, name, strings.Join(p.entity.Key, ", "))
		}
	}
	return nil
}

func (p *planned) checkAdd() error {
	for _, name := range names(p.Mutation.Add) {
		value := bytes.TrimSpace(p.Mutation.Add[name])
		if len(value) == 0 || value[0] != '-' && (value[0] < '0' || value[0] > '9') {
			return refuse(saga.CodeInvalidValue, "entity %s: add to column %q wants a number", p.Entity, name)
		}
		if !p.table.Column(name).Addable {
			return refuse(saga.CodeInvalidValue, "entity %s: column %q is of type %s: add takes integers and numerics only, as it must be undone without loss", p.Entity, name, p.table.Column(name).Type)
		}
		if slices.Contains(p.entity.Key, name) {
			return refuse(saga.CodeInvalidValue, "entity %s: column %q is of the key, which add cannot change", p.Entity, name)
		}
	}
	return nil
}

func isNull(value json.RawMessage) bool { return string(bytes.TrimSpace(value)) == "null" }

// names returns the columns' names in a fixed order, so that the same shape of
// mutation gives the same SQL and its prepared statement is used again.
func names(columns saga.Columns) []string { return slices.Sorted(maps.Keys(columns)) }

// record returns "json_to_record($n) AS alias(columns)" and its argument.
func (p *planned) record(n int, alias string, columns saga.Columns) (string, string) {
	defs := make([]string, 0, len(columns))
	for _, name := range names(columns) {
		defs = append(defs, quote(name)+" "+p.table.Column(name).Type)
	}
	return fmt.Sprintf("json_to_record($%d::text::json) AS %s(%s)", n, alias, strings.Join(defs, ", ")), object(columns)
}

// object returns the columns as JSON. Each value keeps its bytes, which
// encoding/json would compact and escape.
func object(columns saga.Columns) string {
	var b strings.Builder
	b.WriteByte('{')
	for i, name := range names(columns) {
		if i > 0 {
			b.WriteByte(',')
		}
		quoted, _ := json.Marshal(name) // a string always marshals
		b.Write(quoted)
		b.WriteByte(':')
		b.Write(columns[name])
	}
	b.WriteByte('}')
	return b.String()
}

// keyTexts is the SQL for the text forms of the key columns of row t. format
// uses the type's output function, as the WAL's reader does; a cast to text
// differs from it for boolean, character(n) and inet.
func keyTexts(e *saga.Entity) string {
	parts := make([]string, len(e.Key))
	for i, name := range e.Key {
		parts[i] = "format('%s', t." + quote(name) + ")"
	}
	return "ARRAY[" + strings.Join(parts, ", ") + "]"
}

// rowJSON is the SQL for row t as JSON. Virtual columns are left out: they never
// appear in the WAL, so a row read here would differ from one that a stream
// brings.
func (t *TableInfo) rowJSON() string {
	var parts []string
	for _, c := range t.Columns {
		if c.Generated != "v" {
			parts = append(parts, "t."+quote(c.Name))
		}
	}
	// r.* is the whole row even where a column is named r.
	return "(SELECT row_to_json(r.*) FROM (SELECT " + strings.Join(parts, ", ") + ") r)::text"
}

func equalKeys(e *saga.Entity, alias string) string {
	parts := make([]string, len(e.Key))
	for i, name := range e.Key {
		parts[i] = "t." + quote(name) + " = " + alias + "." + quote(name)
	}
	return strings.Join(parts, " AND ")
}

func (p *planned) insert() statement {
	from, arg := p.record(1, "r", p.Row)
	into, values := p.insertColumns("r")
	return statement{
		sql: fmt.Sprintf("INSERT INTO %s AS t (%s)%s SELECT %s FROM %s RETURNING %s, true",
			p.table.quoted(), into, p.overriding(), values, from, keyTexts(p.entity)),
		args: []any{arg},
	}
}

func (p *planned) insertColumns(alias string) (into, values string) {
	var a, b []string
	for _, name := range names(p.Row) {
		a = append(a, quote(name))
		b = append(b, alias+"."+quote(name))
	}
	return strings.Join(a, ", "), strings.Join(b, ", ")
}

// overriding lets the caller give an identity column's value, which a table
// with GENERATED ALWAYS otherwise refuses.
func (p *planned) overriding() string {
	for name := range p.Row {
		if p.table.Column(name).Identity != "" {
			return " OVERRIDING SYSTEM VALUE"
		}
	}
	return ""
}

// upsert updates the named columns of a row that is there, and inserts one that
// is not. INSERT … ON CONFLICT alone would not do: it refuses a row whose other
// columns are NOT NULL, although it would only update. An insert that raced inserts
// nothing: the row that is there by now has to be read before it is changed.
func (p *planned) upsert() statement {
	if p.Expect != nil && p.Expect.Exists != nil && !*p.Expect.Exists {
		return p.insert()
	}
	from, arg := p.record(1, "r", p.Row)
	update := fmt.Sprintf("UPDATE %s t SET %s FROM %s WHERE %s RETURNING %s AS key, false AS inserted",
		p.table.quoted(), p.upsertSet("r"), from, equalKeys(p.entity, "r"), keyTexts(p.entity))
	if p.Expect != nil {
		// Whatever is expected of a row is expected of one that is there.
		return statement{sql: update, args: []any{arg}}
	}
	keys := make([]string, len(p.entity.Key))
	for i, name := range p.entity.Key {
		keys[i] = quote(name)
	}
	into, values := p.insertColumns("r")
	return statement{
		sql: fmt.Sprintf(`WITH u AS (%s), i AS (INSERT INTO %s AS t (%s)%s SELECT %s FROM %s WHERE NOT EXISTS (SELECT FROM u)
			ON CONFLICT (%s) DO NOTHING RETURNING %s AS key, true AS inserted) SELECT key, inserted FROM u UNION ALL SELECT key, inserted FROM i`,
			update, p.table.quoted(), into, p.overriding(), values, from,
			strings.Join(keys, ", "), keyTexts(p.entity)),
		args: []any{arg},
	}
}

func (p *planned) upsertSet(alias string) string {
	var parts []string
	for _, name := range names(p.Row) {
		if !slices.Contains(p.entity.Key, name) {
			parts = append(parts, quote(name)+" = "+alias+"."+quote(name))
		}
	}
	if len(parts) == 0 { // only the key was named: touch the row, and leave the key's text as it is
		name := quote(p.entity.Key[0])
		parts = append(parts, name+" = t."+name)
	}
	return strings.Join(parts, ", ")
}

func (p *planned) update(key, set, add saga.Columns) statement {
	keyFrom, keyArg := p.record(1, "k", key)
	from, args := []string{keyFrom}, []any{keyArg}
	var assign []string
	if len(set) > 0 {
		f, arg := p.record(len(args)+1, "s", set)
		from, args = append(from, f), append(args, arg)
		for _, name := range names(set) {
			assign = append(assign, quote(name)+" = s."+quote(name))
		}
	}
	if len(add) > 0 {
		f, arg := p.record(len(args)+1, "d", add)
		from, args = append(from, f), append(args, arg)
		for _, name := range names(add) {
			assign = append(assign, fmt.Sprintf("%[1]s = t.%[1]s + d.%[1]s", quote(name)))
		}
	}
	return statement{
		sql: fmt.Sprintf("UPDATE %s t SET %s FROM %s WHERE %s RETURNING %s, false",
			p.table.quoted(), strings.Join(assign, ", "), strings.Join(from, ", "), equalKeys(p.entity, "k"), keyTexts(p.entity)),
		args: args,
	}
}

// readStatement locks the row and reads it with the truth of each condition. The
// row is what compensation goes back to.
func (p *planned) readStatement() *statement {
	key := saga.Columns{}
	for _, name := range p.entity.Key {
		key[name] = p.KeyColumns()[name]
	}
	from, keyArg := p.record(1, "k", key)
	s := &statement{args: []any{keyArg}}
	truths, from := p.conditionsSQL(s, from)
	s.sql = fmt.Sprintf("SELECT t.xmin::text, %s, ARRAY[%s]::boolean[] FROM %s t, %s WHERE %s %s OF t",
		p.table.imageSQL(), strings.Join(truths, ", "), p.table.quoted(), from, equalKeys(p.entity, "k"), p.lock())
	return s
}

// lock is the lock that the mutation's row is read with.
func (p *planned) lock() string {
	if p.Op == saga.Delete {
		return "FOR UPDATE"
	}
	return "FOR NO KEY UPDATE"
}

// listConditions says what must hold of the row before the mutation, in the order
// in which truths asks for it.
func (p *planned) listConditions() {
	for _, name := range names(p.Mutation.Add) {
		p.conditions = append(p.conditions, condition{saga.CodeInvalidValue, fmt.Sprintf("column %q is null: set it before you add to it", name)})
	}
	if p.Expect == nil {
		return
	}
	for _, c := range p.Expect.Where {
		p.conditions = append(p.conditions, condition{saga.CodeExpectUnmet, fmt.Sprintf("expected %s %s %.100s", c.Column, c.Operator, c.Value)})
	}
}

// truths returns the SQL of each condition, where value names what the i-th
// condition of Expect.Where compares with.
func (p *planned) truths(value func(i int) string) []string {
	var truths []string
	for _, name := range names(p.Mutation.Add) {
		truths = append(truths, "t."+quote(name)+" IS NOT NULL")
	}
	if p.Expect == nil {
		return truths
	}
	for i, c := range p.Expect.Where {
		truths = append(truths, fmt.Sprintf("coalesce(t.%s %s %s, false)", quote(c.Column), comparison(c.Operator), value(i)))
	}
	return truths
}

// conditionsSQL adds the values of Expect.Where to a statement.
func (p *planned) conditionsSQL(s *statement, from string) ([]string, string) {
	truths := p.truths(func(i int) string { return fmt.Sprintf("w.w%03d", i) })
	if p.Expect == nil || len(p.Expect.Where) == 0 {
		return truths, from
	}
	values, defs := saga.Columns{}, make([]string, 0, len(p.Expect.Where))
	for i, c := range p.Expect.Where {
		name := fmt.Sprintf("w%03d", i)
		values[name] = c.Value
		// Without its modifier: a numeric(10,2) must not round what it is compared with.
		defs = append(defs, name+" "+p.table.Column(c.Column).BaseType)
	}
	s.args = append(s.args, object(values))
	return truths, from + fmt.Sprintf(", json_to_record($%d::text::json) AS w(%s)", len(s.args), strings.Join(defs, ", "))
}

func comparison(operator string) string {
	switch operator {
	case "=":
		return "IS NOT DISTINCT FROM"
	case "<>":
		return "IS DISTINCT FROM"
	}
	return operator
}

// keyColumns turns a KEYENC back into columns; the text forms are read by the
// columns' own types.
func keyColumns(e *saga.Entity, key string) (saga.Columns, error) {
	texts, err := saga.DecodeKey(key)
	if err != nil {
		return nil, refuse(saga.CodeInvalidValue, "entity %s: %s", e.Name, err)
	}
	if len(texts) != len(e.Key) {
		return nil, refuse(saga.CodeMissingKey, "entity %s: key %q has %d columns: want %s", e.Name, key, len(texts), strings.Join(e.Key, ", "))
	}
	columns := saga.Columns{}
	for i, name := range e.Key {
		if columns[name], err = json.Marshal(texts[i]); err != nil {
			return nil, err
		}
	}
	return columns, nil
}

// readRows reads rows by key: key texts, xmin, row.
func readRows(p *planned, keys []saga.Columns) statement {
	objects := make([]string, len(keys))
	for i, key := range keys {
		objects[i] = object(key)
	}
	defs := make([]string, len(p.entity.Key))
	for i, name := range p.entity.Key {
		defs[i] = quote(name) + " " + p.table.Column(name).Type
	}
	return statement{
		sql: fmt.Sprintf("SELECT %s, t.xmin::text, %s FROM json_to_recordset($1::text::json) AS k(%s) JOIN %s t ON %s",
			keyTexts(p.entity), p.table.rowJSON(), strings.Join(defs, ", "), p.table.quoted(), equalKeys(p.entity, "k")),
		args: []any{"[" + strings.Join(objects, ",") + "]"},
	}
}
