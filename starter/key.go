package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

// parseKey reads a KEY of the command line into the texts of the entity's key
// columns: the bare text of a single column, or a JSON object of all of them.
func parseKey(e *saga.Entity, text string) ([]string, error) {
	if columns, ok := keyObject(text); ok {
		return keyTexts(e, columns)
	}
	if len(e.Key) == 1 {
		return []string{text}, nil
	}
	return nil, usagef("key of %s: it has the columns %s: give a JSON object of them", e.Name, strings.Join(e.Key, ", "))
}

func keyObject(text string) (map[string]json.RawMessage, bool) {
	if !strings.HasPrefix(strings.TrimSpace(text), "{") {
		return nil, false
	}
	var columns map[string]json.RawMessage
	if json.Unmarshal([]byte(text), &columns) != nil {
		return nil, false
	}
	return columns, true
}

func keyTexts(e *saga.Entity, columns map[string]json.RawMessage) ([]string, error) {
	texts := make([]string, len(e.Key))
	for i, name := range e.Key {
		value, ok := columns[name]
		if !ok {
			return nil, usagef("key of %s: column %s is missing: want %s", e.Name, name, strings.Join(e.Key, ", "))
		}
		var err error
		if texts[i], err = scalarText(value); err != nil {
			return nil, usagef("key of %s: column %s: %w", e.Name, name, err)
		}
	}
	if len(columns) != len(e.Key) {
		return nil, usagef("key of %s: it has more than the key columns %s", e.Name, strings.Join(e.Key, ", "))
	}
	return texts, nil
}

// scalarText is the text that a JSON value would be typed as; a number keeps its
// literal text.
func scalarText(value json.RawMessage) (string, error) {
	value = bytes.TrimSpace(value)
	switch value[0] {
	case '"':
		var text string
		err := json.Unmarshal(value, &text)
		return text, err
	case '{', '[':
		return string(value), nil // a key column of type jsonb
	case 'n':
		return "", errors.New("a key is never null")
	}
	return string(value), nil
}

// normaliseTimeout is short: without PostgreSQL, a cache is read with the key as
// it was typed.
const normaliseTimeout = 3 * time.Second

// normaliseKey returns the KEYENC of key texts in the form that PostgreSQL itself
// gives them, by which the sinks know the row: an upper-case UUID, say, is stored
// in lower case.
func normaliseKey(ctx context.Context, db *postgres.DB, e *saga.Entity, texts []string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, normaliseTimeout)
	defer cancel()
	t, err := postgres.Describe(ctx, db.Pool(), e.Table)
	if err != nil {
		return "", err
	}
	parts := make([]string, len(e.Key))
	args := make([]any, len(e.Key))
	for i, name := range e.Key {
		column := t.Column(name)
		if column == nil {
			return "", fmt.Errorf("entity %s: table %s has no column %s: see `capsaga catalog validate`", e.Name, e.Table, name)
		}
		// format uses the type's output function, as the sinks' keys do.
		parts[i] = fmt.Sprintf("format('%%s', CAST($%d::text AS %s))", i+1, column.Type)
		args[i] = texts[i]
	}
	var normal []string
	err = db.Pool().QueryRow(ctx, "SELECT ARRAY["+strings.Join(parts, ", ")+"]", args...).Scan(&normal)
	if err != nil {
		return "", fmt.Errorf("key %s of %s: %w", strings.Join(texts, ", "), e.Name, err)
	}
	return saga.EncodeKey(normal), nil
}
