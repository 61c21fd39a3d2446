package e2e

import (
	"encoding/json"
	"fmt"

	"github.com/capsaga/capsaga/saga"
)

// columns makes a row or a part of one: names and values in turn.
func columns(pairs ...any) saga.Columns {
	c := saga.Columns{}
	for i := 0; i < len(pairs); i += 2 {
		text, err := json.Marshal(pairs[i+1])
		if err != nil {
			panic(err)
		}
		c[fmt.Sprint(pairs[i])] = text
	}
	return c
}

func upsert(entity string, pairs ...any) saga.Mutation {
	return saga.Mutation{Entity: entity, Op: saga.Upsert, Row: columns(pairs...)}
}

func insert(entity string, pairs ...any) saga.Mutation {
	return saga.Mutation{Entity: entity, Op: saga.Insert, Row: columns(pairs...)}
}

func patch(entity string, id int, pairs ...any) saga.Mutation {
	return saga.Mutation{Entity: entity, Op: saga.Patch, Key: columns("id", id), Set: columns(pairs...)}
}

func add(entity string, id int, pairs ...any) saga.Mutation {
	return saga.Mutation{Entity: entity, Op: saga.Add, Key: columns("id", id), Add: columns(pairs...)}
}

func remove(entity string, id int) saga.Mutation {
	return saga.Mutation{Entity: entity, Op: saga.Delete, Key: columns("id", id)}
}
