package main

import (
	"bytes"
	"encoding/json"
	"strings"

	"github.com/capsaga/capsaga/saga"
)

// column is one column of a row, for people.
type column struct {
	name  string
	value json.RawMessage
}

// text is the column's value; a text is shown without its quotes.
func (c column) text() string {
	var text string
	if json.Unmarshal(c.value, &text) == nil && string(c.value) != "null" {
		return text
	}
	return string(c.value)
}

// isText tells texts from numbers, objects and null.
func (c column) isText() bool { return len(c.value) > 0 && c.value[0] == '"' }

// orderedColumns reads a row's columns in the order in which they stand.
func orderedColumns(row json.RawMessage) ([]column, error) {
	d := json.NewDecoder(bytes.NewReader(row))
	if token, err := d.Token(); err != nil || token != json.Delim('{') {
		return nil, json.Unmarshal(row, &map[string]json.RawMessage{})
	}
	var columns []column
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, err
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, err
		}
		text, _ := name.(string) // a key of an object always is one
		columns = append(columns, column{name: text, value: value})
	}
	return columns, nil
}

func sinkNames(e *saga.Entity) string {
	var names []string
	for _, sink := range e.Sinks() {
		names = append(names, string(sink))
	}
	return strings.Join(names, ", ")
}
