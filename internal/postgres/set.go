package postgres

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/capsaga/capsaga/saga"
)

// mutationSet is mutations of one form, of many writes: the same operation on the
// same columns of the same entity. They are read by one statement and applied by
// another, as PostgreSQL spends more on a statement than on a row.
//
// The values come as a list of JSON objects through json_to_recordset, so that the
// columns' own input functions read them, as those of a single mutation
// (mutation.go). A value is named by its place in fields, c0, c1 and so on, which no
// column's name can collide with.
type mutationSet struct {
	*planned // of the first, for what all have in common
	fields   []setField
	rows     []*setRow
}

// setField is a value that each row of a set has.
type setField struct {
	role   fieldRole
	column string
	typ    string
	where  int // of fieldWhere: in Expect.Where
}

type fieldRole int

const (
	fieldKey fieldRole = iota // of a patch, an add or a delete
	fieldRow                  // of an insert or an upsert
	fieldSet
	fieldAdd
	fieldWhere
)

// setRow is one mutation in a set.
type setRow struct {
	*planned
	entry *groupEntry
	at    int // in the write
	order string
	seen  seen
	there bool // a look without a lock found the row
}

// busy says that another transaction holds the row.
func (r *setRow) busy() bool { return r.there && !r.seen.found }

// gather deals the mutations out into sets, in the order in which their forms come.
// The rows of a set are in the order in which all transactions lock them.
func (g *group) gather() {
	open := map[string]*mutationSet{}
	for _, e := range g.entries {
		for i, p := range e.plans {
			form := p.form()
			s := open[form]
			if g.mode.ordered && s == nil {
				clear(open)
			}
			if s == nil {
				s = &mutationSet{planned: p, fields: p.fields()}
				open[form] = s
				g.sets = append(g.sets, s)
			}
			s.rows = append(s.rows, &setRow{planned: p, entry: e, at: i, order: p.order()})
		}
	}
	for _, s := range g.sets {
		slices.SortStableFunc(s.rows, func(a, b *setRow) int { return strings.Compare(a.order, b.order) })
	}
}

func (p *planned) order() string { return lockOrder(p.table, p.entity, p.KeyColumns()) }

// form names the form of a mutation.
func (p *planned) form() string {
	parts := []string{p.entity.Name, string(p.Op)}
	if e := p.Expect; e != nil {
		// Of an upsert it decides which statement it is.
		parts = append(parts, strconv.FormatBool(e.Exists != nil && !*e.Exists), "expect")
	}
	for _, f := range p.fields() {
		parts = append(parts, strconv.Itoa(int(f.role)), f.column)
		if f.role == fieldWhere {
			parts = append(parts, p.Expect.Where[f.where].Operator)
		}
	}
	return strings.Join(parts, "\x00")
}

// fields lists the values of a mutation, in the order of their places.
func (p *planned) fields() []setField {
	var fields []setField
	add := func(role fieldRole, names []string) {
		for _, name := range names {
			fields = append(fields, setField{role: role, column: name, typ: p.table.Column(name).Type})
		}
	}
	if p.Op == saga.Insert || p.Op == saga.Upsert {
		add(fieldRow, names(p.Row))
	} else {
		add(fieldKey, p.entity.Key)
	}
	add(fieldSet, names(p.Set))
	add(fieldAdd, names(p.Mutation.Add))
	if p.Expect != nil {
		for i, c := range p.Expect.Where {
			fields = append(fields, setField{role: fieldWhere, column: c.Column, typ: p.table.Column(c.Column).BaseType, where: i})
		}
	}
	return fields
}

// value returns the JSON of a field.
func (r *setRow) value(f setField) json.RawMessage {
	switch f.role {
	case fieldKey:
		return r.Key[f.column]
	case fieldRow:
		return r.Row[f.column]
	case fieldSet:
		return r.Set[f.column]
	case fieldAdd:
		return r.Mutation.Add[f.column]
	}
	return r.Expect.Where[f.where].Value
}

// place is the name of the i-th value in SQL.
func place(i int) string { return "r.c" + strconv.Itoa(i) }

// keyField returns the place of a column of the key.
func (s *mutationSet) keyField(name string) string {
	for i, f := range s.fields {
		if f.column == name && (f.role == fieldKey || f.role == fieldRow) {
			return place(i)
		}
	}
	return "NULL" // checkKey has found it
}

// from is the rows as a relation r: their number n, what capsaga-begin says m, and
// the values.
func (s *mutationSet) from() string {
	var b strings.Builder
	b.WriteString("json_to_recordset($1::text::json) AS r(n int, m text")
	for i, f := range s.fields {
		fmt.Fprintf(&b, ", c%d %s", i, f.typ)
	}
	b.WriteByte(')')
	return b.String()
}

// arg is the argument of from, of those rows that are wanted.
func (s *mutationSet) arg(wanted func(*setRow) bool) (arg string, count int) {
	var b strings.Builder
	b.WriteByte('[')
	for n, r := range s.rows {
		if !wanted(r) {
			continue
		}
		if count++; count > 1 {
			b.WriteByte(',')
		}
		begin, _ := json.Marshal(r.entry.begin) // a string always marshals
		fmt.Fprintf(&b, `{"n":%d,"m":%s`, n, begin)
		for i, f := range s.fields {
			fmt.Fprintf(&b, `,"c%d":`, i)
			b.Write(r.value(f))
		}
		b.WriteByte('}')
	}
	b.WriteByte(']')
	return b.String(), count
}

// onKey joins the rows with their table.
func (s *mutationSet) onKey() string {
	parts := make([]string, len(s.entity.Key))
	for i, name := range s.entity.Key {
		parts[i] = "t." + quote(name) + " = " + s.keyField(name)
	}
	return strings.Join(parts, " AND ")
}

func all(*setRow) bool { return true }

// queueReads locks and reads the rows of all sets. Where several sets are of one
// table, their rows are first locked all together.
func (g *group) queueReads(batch *pgx.Batch) {
	for _, sets := range g.tablesOfSets() {
		if len(sets) > 1 {
			g.queueLock(batch, sets)
		}
		for _, s := range sets {
			s.queueRead(batch, g.mode.skipLocked)
		}
	}
}

// tablesOfSets returns the sets that read rows, by table, in the tables' order.
func (g *group) tablesOfSets() [][]*mutationSet {
	sorted := slices.DeleteFunc(slices.Clone(g.sets), func(s *mutationSet) bool { return s.Op == saga.Insert })
	name := func(s *mutationSet) string { return s.table.Table.String() }
	slices.SortStableFunc(sorted, func(a, b *mutationSet) int { return strings.Compare(name(a), name(b)) })
	var tables [][]*mutationSet
	for i, s := range sorted {
		if i == 0 || name(s) != name(sorted[i-1]) {
			tables = append(tables, nil)
		}
		tables[len(tables)-1] = append(tables[len(tables)-1], s)
	}
	return tables
}

func skipping(skipLocked bool) string {
	if skipLocked {
		return " SKIP LOCKED"
	}
	return ""
}

// queueLock locks the rows of several sets of one table in one order.
func (g *group) queueLock(batch *pgx.Batch, sets []*mutationSet) {
	p := sets[0].planned
	var rows []*setRow
	lock := p.lock()
	for _, s := range sets {
		rows = append(rows, s.rows...)
		if s.Op == saga.Delete {
			lock = s.lock()
		}
	}
	slices.SortStableFunc(rows, func(a, b *setRow) int { return strings.Compare(a.order, b.order) })
	keys := make([]string, len(rows))
	for n, r := range rows {
		var b strings.Builder
		fmt.Fprintf(&b, `{"n":%d`, n)
		for i, name := range p.entity.Key {
			fmt.Fprintf(&b, `,"c%d":%s`, i, r.KeyColumns()[name])
		}
		b.WriteByte('}')
		keys[n] = b.String()
	}
	var defs, on strings.Builder
	for i, name := range p.entity.Key {
		fmt.Fprintf(&defs, ", c%d %s", i, p.table.Column(name).Type)
		if i > 0 {
			on.WriteString(" AND ")
		}
		on.WriteString("t." + quote(name) + " = " + place(i))
	}
	batch.Queue(fmt.Sprintf("SELECT FROM json_to_recordset($1::text::json) AS r(n int%s) JOIN %s t ON %s ORDER BY r.n %s OF t%s",
		defs.String(), p.table.quoted(), on.String(), lock, skipping(g.mode.skipLocked)), "["+strings.Join(keys, ",")+"]")
}

// queueRead locks and reads the rows of a set, as readStatement does for one.
func (s *mutationSet) queueRead(batch *pgx.Batch, skipLocked bool) {
	arg, _ := s.arg(all)
	truths := s.truths(func(i int) string {
		return place(slices.IndexFunc(s.fields, func(f setField) bool { return f.role == fieldWhere && f.where == i }))
	})
	join := fmt.Sprintf("%s JOIN %s t ON %s", s.from(), s.table.quoted(), s.onKey())
	if skipLocked {
		batch.Queue("SELECT r.n FROM "+join, arg).Query(func(rows pgx.Rows) error {
			return s.each(rows, func(r *setRow) []any { return nil }, func(r *setRow) { r.there = true })
		})
	}
	batch.Queue(fmt.Sprintf("SELECT r.n, t.xmin::text, %s, ARRAY[%s]::boolean[] FROM %s ORDER BY r.n %s OF t%s",
		s.table.imageSQL(), strings.Join(truths, ", "), join, s.lock(), skipping(skipLocked)), arg).
		Query(func(rows pgx.Rows) error {
			return s.each(rows, func(r *setRow) []any { return []any{&r.seen.etag, &r.seen.image, &r.seen.truths} },
				func(r *setRow) { r.seen.found = true })
		})
}

// each scans rows of which the first column is the number of a row of the set, and
// the others go where into says.
func (s *mutationSet) each(rows pgx.Rows, into func(*setRow) []any, then func(*setRow)) error {
	for rows.Next() {
		var n int
		// The number decides where the rest goes, so it is read first.
		if err := rows.Scan(append([]any{&n}, make([]any, len(rows.FieldDescriptions())-1)...)...); err != nil {
			return err
		}
		r := s.rows[n]
		if targets := into(r); targets != nil {
			if err := rows.Scan(append([]any{nil}, targets...)...); err != nil {
				return err
			}
		}
		then(r)
	}
	return rows.Err()
}

// queueWrite applies the mutations that are still to be done, and reports whether
// there are any.
func (s *mutationSet) queueWrite(batch *pgx.Batch) bool {
	insert := s.queueInsert(batch)
	if s.Op == saga.Insert {
		return insert
	}
	arg, count := s.arg(func(r *setRow) bool { return r.entry.open() && r.seen.found })
	if count == 0 {
		return insert
	}
	// The message is of each row, so that it is written right before the row is.
	each := "pg_logical_emit_message(true, $2, CASE WHEN t.tableoid IS NOT NULL THEN r.m END) IS NOT NULL"
	sql := fmt.Sprintf("UPDATE %s t SET %s FROM %s WHERE %s AND %s", s.table.quoted(), s.assignments(), s.from(), s.onKey(), each)
	if s.Op == saga.Delete {
		sql = fmt.Sprintf("DELETE FROM %s t USING %s WHERE %s AND %s", s.table.quoted(), s.from(), s.onKey(), each)
	}
	batch.Queue(sql+" RETURNING r.n, "+keyTexts(s.entity), arg, saga.MessageBegin).Query(func(rows pgx.Rows) error {
		return s.each(rows, func(r *setRow) []any { return []any{&r.seen.key} }, func(r *setRow) { r.seen.written = true })
	})
	return true
}

// assignments is what a patch, an add or an upsert of a row that is there sets.
func (s *mutationSet) assignments() string {
	var parts []string
	for i, f := range s.fields {
		column := quote(f.column)
		switch {
		case f.role == fieldSet, f.role == fieldRow && !slices.Contains(s.entity.Key, f.column):
			parts = append(parts, column+" = "+place(i))
		case f.role == fieldAdd:
			parts = append(parts, fmt.Sprintf("%s = t.%s + %s", column, column, place(i)))
		}
	}
	if len(parts) == 0 { // as upsertSet
		column := quote(s.entity.Key[0])
		parts = append(parts, column+" = t."+column)
	}
	return strings.Join(parts, ", ")
}

// queueInsert inserts the rows of an insert, and those of an upsert that are not
// there. What is returned is in the order of the rows: one by one they come out of
// the list and go into the table.
func (s *mutationSet) queueInsert(batch *pgx.Batch) bool {
	if s.Op != saga.Insert && s.Op != saga.Upsert {
		return false
	}
	wanted := func(r *setRow) bool { return r.entry.open() && !r.seen.found }
	arg, count := s.arg(wanted)
	if count == 0 {
		return false
	}
	var into, values []string
	for i, f := range s.fields {
		if f.role == fieldRow {
			into, values = append(into, quote(f.column)), append(values, place(i))
		}
	}
	conflict := ""
	if s.Op == saga.Upsert { // one that was inserted meanwhile has to be read first
		keys := make([]string, len(s.entity.Key))
		for i, name := range s.entity.Key {
			keys[i] = quote(name)
		}
		conflict = " ON CONFLICT (" + strings.Join(keys, ", ") + ") DO NOTHING"
	}
	sql := fmt.Sprintf("INSERT INTO %s AS t (%s)%s SELECT %s FROM %s WHERE pg_logical_emit_message(true, $2, r.m) IS NOT NULL%s RETURNING %s",
		s.table.quoted(), strings.Join(into, ", "), s.overriding(), strings.Join(values, ", "), s.from(), conflict, keyTexts(s.entity))
	batch.Queue(sql, arg, saga.MessageBegin).Query(func(rows pgx.Rows) error {
		var keys [][]string
		for rows.Next() {
			var key []string
			if err := rows.Scan(&key); err != nil {
				return err
			}
			keys = append(keys, key)
		}
		return s.inserted(keys, count, wanted, rows.Err())
	})
	return true
}

// inserted gives the rows their keys. Where some were not inserted, nobody can say
// which: with an upsert the next attempt reads what came between, and else a trigger
// has kept a row from being inserted.
func (s *mutationSet) inserted(keys [][]string, count int, wanted func(*setRow) bool, err error) error {
	switch {
	case err != nil:
		return err
	case len(keys) != count && s.Op == saga.Upsert:
		return raced(0, s.planned)
	case len(keys) != count:
		return absent(0, s.planned)
	}
	for _, r := range s.rows {
		if wanted(r) {
			r.seen.written, r.seen.inserted, r.seen.key = true, true, keys[0]
			keys = keys[1:]
		}
	}
	return nil
}
