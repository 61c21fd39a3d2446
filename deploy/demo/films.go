package main

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/capsaga/capsaga/saga"
)

//go:embed films.ndjson
var films []byte

// films writes the demo's data through the CLI. The saga ids are the same each
// time, so that a second run changes nothing.
func (d *demo) films(ctx context.Context) error {
	path := filepath.Join(folder, "writes.ndjson")
	if err := writeSagas(path); err != nil {
		return err
	}
	// The outcomes, one line a write, would fill the screen.
	outcomes, err := os.Create(filepath.Join(folder, "outcomes.ndjson"))
	if err != nil {
		return err
	}
	defer func() { _ = outcomes.Close() }()
	return d.commandTo(ctx, outcomes, "bin/capsaga", "write", path, "-o", "json")
}

func writeSagas(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	out := bufio.NewWriter(file)
	encoder := json.NewEncoder(out)
	for line := range bytes.Lines(films) {
		w, err := filmSaga(line)
		if err != nil {
			return err
		}
		if err := encoder.Encode(w); err != nil {
			return err
		}
	}
	for id := 1; id <= 50; id++ {
		if err := encoder.Encode(userSaga(id)); err != nil {
			return err
		}
	}
	if err := out.Flush(); err != nil {
		return err
	}
	return file.Close()
}

// filmSaga makes a product of a film: its facts, a price and a stock.
func filmSaga(line []byte) (saga.Write, error) {
	row := saga.Columns{}
	if err := json.Unmarshal(line, &row); err != nil {
		return saga.Write{}, fmt.Errorf("films.ndjson: %w", err)
	}
	var id int
	if err := json.Unmarshal(row["id"], &id); err != nil {
		return saga.Write{}, fmt.Errorf("films.ndjson: %w", err)
	}
	row["stock"] = fmt.Appendf(nil, "%d", 10+id%90)
	row["price_cents"] = fmt.Appendf(nil, "%d", 499+100*(id%20))
	return saga.Write{
		SagaID:    fmt.Sprintf("film-%d", id),
		Mutations: []saga.Mutation{{Entity: "products", Op: saga.Upsert, Row: row}},
	}, nil
}

func userSaga(id int) saga.Write {
	return saga.Write{
		SagaID: fmt.Sprintf("user-%d", id),
		Mutations: []saga.Mutation{{Entity: "users", Op: saga.Upsert, Row: saga.Columns{
			"id":    fmt.Appendf(nil, "%d", id),
			"name":  fmt.Appendf(nil, "%q", fmt.Sprintf("Customer %d", id)),
			"email": fmt.Appendf(nil, "%q", fmt.Sprintf("customer%d@example.org", id)),
		}}},
	}
}
