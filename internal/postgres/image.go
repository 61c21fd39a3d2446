package postgres

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/capsaga/capsaga/saga"
)

// image is a row as an undo goes back to it: a JSON object of each column's text
// form, null for SQL's NULL. In it nothing is lost that JSON has no form for: json
// null, NaN, infinity, bytes, composites.
type image struct {
	body json.RawMessage
	// typed says that the object holds values as row_to_json writes them, which is
	// how the ledger's first version kept a row.
	typed bool
}

// imageSQL is the SQL for the image of row t. Generated columns are left out:
// nothing can be written to them.
func (t *TableInfo) imageSQL() string {
	var keys, texts []string
	for _, c := range t.Columns {
		if c.Generated == "" {
			column := "t." + quote(c.Name)
			keys = append(keys, literal(c.Name))
			// IS NULL would be true of a composite of nulls.
			texts = append(texts, fmt.Sprintf("CASE WHEN %[1]s IS NOT DISTINCT FROM NULL THEN NULL ELSE format('%%s', %[1]s) END", column))
		}
	}
	return fmt.Sprintf("json_object(ARRAY[%s]::text[], ARRAY[%s]::text[])::text", strings.Join(keys, ", "), strings.Join(texts, ", "))
}

func literal(s string) string {
	return " E'" + strings.NewReplacer(`'`, `''`, `\`, `\\`).Replace(s) + "'"
}

// columns returns the names of the image's columns, sorted.
func (i image) columns() ([]string, error) {
	var columns map[string]json.RawMessage
	if err := json.Unmarshal(i.body, &columns); err != nil {
		return nil, fmt.Errorf("read the ledger: %w", err)
	}
	return slices.Sorted(maps.Keys(columns)), nil
}

// from returns the SQL that reads the columns from argument n, and of each the
// expression for its value.
func (i image) from(t *TableInfo, n int, alias string, columns []string) (from string, values []string) {
	defs := make([]string, len(columns))
	for k, name := range columns {
		c := t.Column(name)
		// The assignment checks the type's modifier; a cast to it would cut a text.
		typ, value := "text", alias+"."+quote(name)+"::"+c.BaseType
		if i.typed {
			typ, value = c.Type, alias+"."+quote(name)
		}
		defs[k] = quote(name) + " " + typ
		values = append(values, value)
	}
	return fmt.Sprintf("json_to_record($%d::text::json) AS %s(%s)", n, alias, strings.Join(defs, ", ")), values
}

// lostColumn returns a column of the image that the table no longer has.
func (i image) lostColumn(t *TableInfo) (string, error) {
	columns, err := i.columns()
	if err != nil {
		return "", err
	}
	for _, name := range columns {
		if t.Column(name) == nil {
			return name, nil
		}
	}
	return "", nil
}

// insertImage puts a deleted row back.
func (p *planned) insertImage(i image) (statement, error) {
	columns, err := i.columns()
	if err != nil {
		return statement{}, err
	}
	columns = slices.DeleteFunc(columns, func(name string) bool { return p.table.Column(name).Generated != "" })
	from, values := i.from(p.table, 1, "b", columns)
	into := make([]string, len(columns))
	overriding := ""
	for k, name := range columns {
		into[k] = quote(name)
		if p.table.Column(name).Identity != "" {
			overriding = " OVERRIDING SYSTEM VALUE"
		}
	}
	return statement{
		sql: fmt.Sprintf("INSERT INTO %s AS t (%s)%s SELECT %s FROM %s RETURNING %s",
			p.table.quoted(), strings.Join(into, ", "), overriding, strings.Join(values, ", "), from, keyTexts(p.entity)),
		args: []any{string(i.body)},
	}, nil
}

// updateToImage sets all columns of a row back, but for its key and an identity
// that PostgreSQL lets nobody set.
func (p *planned) updateToImage(key saga.Columns, i image) (statement, error) {
	columns, err := i.columns()
	if err != nil {
		return statement{}, err
	}
	columns = slices.DeleteFunc(columns, func(name string) bool {
		c := p.table.Column(name)
		return c.Generated != "" || c.Identity == "a" || slices.Contains(p.entity.Key, name)
	})
	if len(columns) == 0 { // a row that is all key: touch it
		columns = p.entity.Key[:1]
	}
	keyFrom, keyArg := p.record(1, "k", key)
	from, values := i.from(p.table, 2, "b", columns)
	set := make([]string, len(columns))
	for k, name := range columns {
		set[k] = quote(name) + " = " + values[k]
	}
	return statement{
		sql: fmt.Sprintf("UPDATE %s t SET %s FROM %s, %s WHERE %s RETURNING %s",
			p.table.quoted(), strings.Join(set, ", "), keyFrom, from, equalKeys(p.entity, "k"), keyTexts(p.entity)),
		args: []any{keyArg, string(i.body)},
	}, nil
}

// subtract takes back what an add added.
func (p *planned) subtract(key saga.Columns, add saga.Columns) statement {
	keyFrom, keyArg := p.record(1, "k", key)
	from, arg := p.record(2, "d", add)
	var assign []string
	for _, name := range names(add) {
		assign = append(assign, fmt.Sprintf("%[1]s = t.%[1]s - d.%[1]s", quote(name)))
	}
	return statement{
		sql: fmt.Sprintf("UPDATE %s t SET %s FROM %s, %s WHERE %s RETURNING %s",
			p.table.quoted(), strings.Join(assign, ", "), keyFrom, from, equalKeys(p.entity, "k"), keyTexts(p.entity)),
		args: []any{keyArg, arg},
	}
}

// deleteKey deletes the row of a key.
func (p *planned) deleteKey(key saga.Columns) statement {
	from, arg := p.record(1, "k", key)
	return statement{
		sql: fmt.Sprintf("DELETE FROM %s t USING %s WHERE %s RETURNING %s",
			p.table.quoted(), from, equalKeys(p.entity, "k"), keyTexts(p.entity)),
		args: []any{arg},
	}
}

// references is the SQL that names the tables with rows that refer to the row of
// a key through a foreign key that would change or delete them; nil when the table
// has no such foreign key.
func (p *planned) references(key saga.Columns) *statement {
	var cases []string
	for _, f := range p.table.Cascades {
		if !f.OnDelete {
			continue
		}
		condition := "true" // nobody lets us look, so it has to be assumed
		if f.Readable {
			equal := make([]string, len(f.Columns))
			for i := range f.Columns {
				equal[i] = fmt.Sprintf("c.%s = t.%s", quote(f.Columns[i]), quote(f.Referenced[i]))
			}
			if f.Table == p.table.Table { // a row may refer to itself
				equal = append(equal, "(c.tableoid, c.ctid) <> (t.tableoid, t.ctid)")
			}
			condition = fmt.Sprintf("EXISTS (SELECT FROM %s c WHERE %s)", quoteTable(f.Table), strings.Join(equal, " AND "))
		}
		cases = append(cases, fmt.Sprintf("CASE WHEN %s THEN %s END", condition, literal(f.Table.String())))
	}
	if len(cases) == 0 {
		return nil
	}
	from, arg := p.record(1, "k", key)
	return &statement{
		sql: fmt.Sprintf("SELECT array_remove(ARRAY[%s]::text[], NULL) FROM %s t, %s WHERE %s",
			strings.Join(cases, ", "), p.table.quoted(), from, equalKeys(p.entity, "k")),
		args: []any{arg},
	}
}

// lockedRead locks the row of a key and reads it: xmin, row, image.
func (p *planned) lockedRead(key saga.Columns, lock string) statement {
	from, arg := p.record(1, "k", key)
	return statement{
		sql: fmt.Sprintf("SELECT t.xmin::text, %s, %s FROM %s t, %s WHERE %s %s OF t",
			p.table.rowJSON(), p.table.imageSQL(), p.table.quoted(), from, equalKeys(p.entity, "k"), lock),
		args: []any{arg},
	}
}

// show returns the image for people and programs that look at it: numbers, truths
// and JSON as such. An image of a column that is gone by now is as it was kept.
func (i image) show(t *TableInfo) json.RawMessage {
	var columns map[string]*string
	if i.typed || json.Unmarshal(i.body, &columns) != nil {
		return i.body
	}
	shown := make(map[string]any, len(columns))
	for name, text := range columns {
		shown[name] = text
		if c := t.Column(name); c != nil && text != nil {
			shown[name] = c.show(*text)
		}
	}
	body, err := json.Marshal(shown)
	if err != nil {
		return i.body
	}
	return body
}

func (c *Column) show(text string) any {
	switch {
	case c.TypeOID == pgtype.BoolOID:
		return text == "t"
	case c.Addable, c.TypeOID == pgtype.Float4OID, c.TypeOID == pgtype.Float8OID, c.TypeOID == pgtype.JSONOID, c.TypeOID == pgtype.JSONBOID:
		if json.Valid([]byte(text)) {
			return json.RawMessage(text)
		}
	}
	return text
}
