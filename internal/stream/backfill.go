package stream

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/jackc/pglogrepl"

	"github.com/capsaga/capsaga/internal/pgtext"
	"github.com/capsaga/capsaga/saga"
)

// backfill hands over what a backfill's message says, if it is for this stream's
// sink.
func (h *hold) backfill(ctx context.Context, m *pglogrepl.LogicalDecodingMessage) error {
	head, records, err := parseBackfill(m.Content)
	if err != nil {
		h.log.Warn("ignored a logical message that is not of a backfill", "position", saga.LSN(m.LSN), "error", err)
		return nil
	}
	if !slices.Contains(head.Sinks, h.sink) {
		return nil
	}
	if head.Kind != saga.BackfillRows {
		return h.handler.Mark(ctx, h.tx, head)
	}
	rows, err := readRows(head, records)
	if err != nil {
		h.log.Warn("ignored a logical message that is not of a backfill", "position", saga.LSN(m.LSN), "error", err)
		return nil
	}
	relation := h.backfillRelation(head)
	for _, row := range rows {
		change := &Change{Index: h.tx.changes, Op: Read, Relation: relation, New: row}
		h.tx.changes++
		h.stats.Changes.Add(1)
		if err := h.handler.Change(ctx, h.tx, change); err != nil {
			return err
		}
	}
	return nil
}

// parseBackfill takes a message apart: its head is the first line.
func parseBackfill(content []byte) (*saga.BackfillMessage, []byte, error) {
	line, records, _ := bytes.Cut(content, []byte{'\n'})
	head := &saga.BackfillMessage{}
	if err := json.Unmarshal(line, head); err != nil {
		return nil, nil, fmt.Errorf("its first line is not JSON: %w", err)
	}
	switch head.Kind {
	case saga.BackfillBegin, saga.BackfillEnd:
	case saga.BackfillRows:
		if len(head.Columns) == 0 || head.RelationID == 0 {
			return nil, nil, fmt.Errorf("a chunk without the table's columns")
		}
	default:
		return nil, nil, fmt.Errorf("it is of the unknown kind %q", head.Kind)
	}
	return head, records, nil
}

// readRows reads all rows before the first is handed over, so that a message is
// taken as a whole or not at all. They share the memory of the message.
func readRows(head *saga.BackfillMessage, records []byte) ([]Tuple, error) {
	if head.Rows < 0 || head.Rows > len(records) {
		return nil, fmt.Errorf("%d rows in %d bytes", head.Rows, len(records))
	}
	rows := make([]Tuple, head.Rows)
	values := make([][]byte, len(head.Columns))
	flat := make([]Value, head.Rows*len(values))
	for r := range rows {
		rest, err := pgtext.Record(records, values)
		if err != nil {
			return nil, fmt.Errorf("row %d of %d: %w", r, head.Rows, err)
		}
		records = rest
		rows[r] = flat[r*len(values) : (r+1)*len(values) : (r+1)*len(values)]
		for i, text := range values {
			rows[r][i] = Value{Kind: Text, Text: text}
			if text == nil {
				rows[r][i].Kind = Null
			}
		}
	}
	if len(records) > 0 {
		return nil, fmt.Errorf("%d bytes behind the last row", len(records))
	}
	return rows, nil
}

// backfillRelation returns the relation of a chunk's rows: that of the table's
// own changes where they have the same shape, so that a session that knows it need
// not look anything up.
func (h *hold) backfillRelation(head *saga.BackfillMessage) *Relation {
	made := &Relation{ID: head.RelationID, Table: head.Table, Identity: 'd', Columns: make([]Column, len(head.Columns))}
	if head.ReplicaIdentity != "" {
		made.Identity = head.ReplicaIdentity[0]
	}
	for i, c := range head.Columns {
		made.Columns[i] = Column(c)
	}
	for _, known := range []*Relation{h.relations[made.ID], h.backfilled[made.ID]} {
		if known != nil && known.sameShape(made) {
			return known
		}
	}
	h.backfilled[made.ID] = made
	return made
}

func (r *Relation) sameShape(other *Relation) bool {
	return r.ID == other.ID && r.Table == other.Table && r.Identity == other.Identity && slices.Equal(r.Columns, other.Columns)
}
