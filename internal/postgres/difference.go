package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"

	"github.com/capsaga/capsaga/saga"
)

// differing names the columns in which a row differs from what the saga left,
// for people: what a default or a trigger gave a column is not known.
func (x *change) differing(ctx context.Context, row *changeRow) ([]string, error) {
	left := texts{}
	for _, a := range row.applied {
		if a.before.body != nil && len(left) == 0 {
			var err error
			if left, err = x.imageTexts(ctx, row, a.before); err != nil {
				return nil, err
			}
		}
		for _, all := range []saga.Columns{a.Row, a.Set} {
			if columns := row.table.known(all); len(columns) > 0 {
				from, arg := row.record(1, "t", columns)
				set, err := x.readTexts(ctx, from, arg, names(columns))
				if err != nil {
					return nil, err
				}
				maps.Copy(left, set)
			}
		}
		for name, value := range row.table.known(a.Mutation.Add) {
			left[name] = sum(left[name], string(value))
		}
	}
	var now texts
	if err := json.Unmarshal([]byte(row.image), &now); err != nil {
		return nil, err
	}
	var differ []string
	for _, name := range slices.Sorted(maps.Keys(left)) {
		c := row.table.Column(name)
		if c.Generated == "" && !same(left[name], now[name], c.Addable) {
			differ = append(differ, name)
		}
	}
	return differ, nil
}

// known returns those of the columns that the table still has.
func (t *TableInfo) known(columns saga.Columns) saga.Columns {
	kept := maps.Clone(columns)
	maps.DeleteFunc(kept, func(name string, _ json.RawMessage) bool { return t.Column(name) == nil })
	return kept
}

// texts has the text form of each column, nil for NULL.
type texts map[string]*string

func (x *change) imageTexts(ctx context.Context, row *changeRow, i image) (texts, error) {
	columns, err := i.columns()
	if err != nil {
		return nil, err
	}
	from, values := i.from(row.table, 1, "b", columns)
	parts := make([]string, len(columns))
	for k, name := range columns {
		parts[k] = values[k] + " AS " + quote(name)
	}
	return x.readTexts(ctx, fmt.Sprintf("(SELECT %s FROM %s) t", strings.Join(parts, ", "), from), string(i.body), columns)
}

func (x *change) readTexts(ctx context.Context, from, arg string, columns []string) (texts, error) {
	t := TableInfo{}
	for _, name := range columns {
		t.Columns = append(t.Columns, Column{Name: name})
	}
	var body string
	if err := x.conn.QueryRow(ctx, "SELECT "+t.imageSQL()+" FROM "+from, arg).Scan(&body); err != nil {
		return nil, err
	}
	var result texts
	err := json.Unmarshal([]byte(body), &result)
	return result, err
}

func sum(text *string, add string) *string {
	if text == nil {
		return nil
	}
	a, okA := new(big.Rat).SetString(*text)
	b, okB := new(big.Rat).SetString(add)
	if !okA || !okB {
		return text
	}
	total := a.Add(a, b).RatString()
	return &total
}

// same compares two text forms; numbers by value, since 1.10 and 1.1 are one.
func same(a, b *string, number bool) bool {
	if a == nil || b == nil {
		return a == b
	}
	if number {
		x, okX := new(big.Rat).SetString(*a)
		y, okY := new(big.Rat).SetString(*b)
		if okX && okY {
			return x.Cmp(y) == 0
		}
	}
	return *a == *b
}
