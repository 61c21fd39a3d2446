package stream

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pglogrepl"

	"github.com/capsaga/capsaga/saga"
)

// parse reads one message of pgoutput: a *row, or what pglogrepl makes of the
// others. The result shares no memory with data, which the connection uses again.
func parse(data []byte) (any, error) {
	if len(data) == 0 {
		return nil, errors.New("decode pgoutput: an empty message")
	}
	switch pglogrepl.MessageType(data[0]) {
	case pglogrepl.MessageTypeInsert, pglogrepl.MessageTypeUpdate, pglogrepl.MessageTypeDelete:
		return parseRow(bytes.Clone(data))
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

// row is a row's change before its relation is known. Changes of rows are nearly
// all that a stream reads, and an allocation per column would be most of what that
// costs: so the values lie where the message does.
type row struct {
	relation uint32
	change   Change
}

// parseRow reads the messages Insert, Update and Delete, as PostgreSQL's manual
// gives them under "Logical Replication Message Formats". It keeps data.
func parseRow(data []byte) (*row, error) {
	r := reader{data: data}
	m := &row{change: Change{Op: Op(r.byte())}}
	m.relation = uint32(r.int32()) //nolint:gosec // an OID
	for len(r.data) > 0 && !r.short {
		switch kind := r.byte(); kind {
		case 'N':
			m.change.New = r.tuple()
		case 'O', 'K':
			m.change.Old, m.change.OldFull = r.tuple(), kind == 'O'
		default:
			return nil, fmt.Errorf("decode pgoutput message %q: a tuple of the unknown kind %q", data[0], kind)
		}
	}
	if r.short || m.change.New == nil && m.change.Op != Delete || m.change.Old == nil && m.change.Op == Delete {
		return nil, fmt.Errorf("decode pgoutput message %q: it ends early", data[0])
	}
	return m, nil
}

// reader reads the protocol's types. Beyond the end it returns zeros and notes that
// the data was too short.
type reader struct {
	data  []byte
	short bool
}

func (r *reader) take(n int) []byte {
	if n < 0 || n > len(r.data) {
		r.short = true
		return nil
	}
	taken := r.data[:n:n]
	r.data = r.data[n:]
	return taken
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) int16() int {
	if b := r.take(2); b != nil {
		return int(binary.BigEndian.Uint16(b))
	}
	return 0
}

func (r *reader) int32() int {
	if b := r.take(4); b != nil {
		return int(int32(binary.BigEndian.Uint32(b))) //nolint:gosec // signed on the wire
	}
	return 0
}

func (r *reader) tuple() Tuple {
	tuple := make(Tuple, r.int16())
	for i := range tuple {
		tuple[i].Kind = Kind(r.byte())
		if tuple[i].Kind == Text {
			tuple[i].Text = r.take(r.int32())
		}
	}
	return tuple
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

// takeMessage keeps what a saga's own messages say of the transaction. An error
// is for the log only.
func (tx *Transaction) takeMessage(m *pglogrepl.LogicalDecodingMessage) error {
	switch m.Prefix {
	case saga.MessageBegin:
		begin := plainBegin(m.Content)
		if begin == nil {
			begin = &saga.BeginMessage{}
			if err := decodeMessage(m, begin); err != nil {
				return err
			}
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

// plainBegin reads a message that holds nothing but a saga's id as it stands. A
// batch has one for each row, so that it is worth a way of its own.
func plainBegin(content []byte) *saga.BeginMessage {
	id, found := bytes.CutPrefix(content, []byte(`{"saga_id":"`))
	id, ends := bytes.CutSuffix(id, []byte(`"}`))
	if !found || !ends || bytes.ContainsAny(id, `\"`) {
		return nil
	}
	return &saga.BeginMessage{SagaID: string(id)}
}

func decodeMessage(m *pglogrepl.LogicalDecodingMessage, into any) error {
	if err := json.Unmarshal(m.Content, into); err != nil {
		return fmt.Errorf("the logical message %s at %s is not the JSON of a saga: %w", m.Prefix, saga.LSN(m.LSN), err)
	}
	return nil
}
