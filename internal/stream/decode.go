package stream

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/jackc/pglogrepl"

	"github.com/capsaga/capsaga/saga"
)

// parse reads one message of pgoutput. The result shares no memory with data,
// which the connection uses again.
func parse(data []byte) (pglogrepl.Message, error) {
	if len(data) == 0 {
		return nil, fmt.Errorf("decode pgoutput: an empty message")
	}
	message, err := pglogrepl.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("decode pgoutput message %q: %w", data[0], err)
	}
	if logical, ok := message.(*pglogrepl.LogicalDecodingMessage); ok {
		logical.Content = slices.Clone(logical.Content)
	}
	return message, nil
}

func newRelation(m *pglogrepl.RelationMessage) *Relation {
	r := &Relation{
		ID:       m.RelationID,
		Table:    saga.Table{Schema: m.Namespace, Name: m.RelationName},
		Identity: m.ReplicaIdentity,
		Columns:  make([]Column, len(m.Columns)),
	}
	if r.Table.Schema == "" { // the protocol's way to write pg_catalog
		r.Table.Schema = "pg_catalog"
	}
	for i, c := range m.Columns {
		r.Columns[i] = Column{Name: c.Name, TypeOID: c.DataType, TypeModifier: c.TypeModifier, Identity: c.Flags&1 != 0}
	}
	return r
}

func newTuple(m *pglogrepl.TupleData) Tuple {
	if m == nil {
		return nil
	}
	tuple := make(Tuple, len(m.Columns))
	for i, c := range m.Columns {
		tuple[i] = Value{Kind: Kind(c.DataType), Text: c.Data}
	}
	return tuple
}

// newChange turns a row's message into a change; relation and index are the
// caller's to set.
func newChange(message pglogrepl.Message) (relation uint32, change *Change) {
	switch m := message.(type) {
	case *pglogrepl.InsertMessage:
		return m.RelationID, &Change{Op: Insert, New: newTuple(m.Tuple)}
	case *pglogrepl.UpdateMessage:
		return m.RelationID, &Change{
			Op: Update, New: newTuple(m.NewTuple),
			Old: newTuple(m.OldTuple), OldFull: m.OldTupleType == pglogrepl.UpdateMessageTupleTypeOld,
		}
	case *pglogrepl.DeleteMessage:
		return m.RelationID, &Change{
			Op:  Delete,
			Old: newTuple(m.OldTuple), OldFull: m.OldTupleType == pglogrepl.DeleteMessageTupleTypeOld,
		}
	}
	return 0, nil
}

// takeMessage keeps what a saga's own messages say of the transaction. An error
// is for the log only.
func (tx *Transaction) takeMessage(m *pglogrepl.LogicalDecodingMessage) error {
	switch m.Prefix {
	case saga.MessageBegin:
		begin := &saga.BeginMessage{}
		if err := decodeMessage(m, begin); err != nil {
			return err
		}
		tx.Saga = begin
	case saga.MessageEnd:
		end := &saga.EndMessage{}
		if err := decodeMessage(m, end); err != nil {
			return err
		}
		tx.End, tx.EndLSN = end, saga.LSN(m.LSN)
	}
	return nil // another program's, or of a later version of this one
}

func decodeMessage(m *pglogrepl.LogicalDecodingMessage, into any) error {
	if err := json.Unmarshal(m.Content, into); err != nil {
		return fmt.Errorf("the logical message %s at %s is not the JSON of a saga: %w", m.Prefix, saga.LSN(m.LSN), err)
	}
	return nil
}
