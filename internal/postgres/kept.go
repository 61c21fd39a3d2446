package postgres

import (
	"crypto/sha256"
	"encoding/base64"

	"github.com/capsaga/capsaga/saga"
)

// keptRow is a row that a saga owns as the ledger keeps it.
type keptRow struct {
	saga.Owned
	// Content is a digest of the row. An etag says nothing about a row of an earlier
	// epoch: the WAL may have gone back, and transaction ids with it. Then the row's
	// content tells whether it is still as the saga left it.
	Content string `json:"content,omitempty"`
}

func keep(owned []saga.Owned) []keptRow {
	kept := make([]keptRow, len(owned))
	for i, o := range owned {
		kept[i].Owned = o
		if o.Row != nil {
			kept[i].Content = contentOf(o.Row)
		}
	}
	return kept
}

func contentOf(row []byte) string {
	sum := sha256.Sum256(row)
	return base64.RawStdEncoding.EncodeToString(sum[:16])
}
