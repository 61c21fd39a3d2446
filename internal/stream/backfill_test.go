package stream

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/jackc/pglogrepl"
	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/saga"
)

// listener keeps what it is told.
type listener struct {
	recorder
	marks   []saga.BackfillKind
	changes []*Change
}

func (l *listener) Mark(_ context.Context, _ *Transaction, m *saga.BackfillMessage) error {
	l.marks = append(l.marks, m.Kind)
	return nil
}

func (l *listener) Change(_ context.Context, _ *Transaction, c *Change) error {
	l.changes = append(l.changes, c)
	return nil
}

func message(t *testing.T, head saga.BackfillMessage, records string) *pglogrepl.LogicalDecodingMessage {
	t.Helper()
	line, err := json.Marshal(head)
	require.NoError(t, err)
	return &pglogrepl.LogicalDecodingMessage{Transactional: true, Prefix: saga.MessageBackfill, Content: append(append(line, '\n'), records...)}
}

func chunk(sink saga.Sink, rows int, columns ...string) saga.BackfillMessage {
	head := saga.BackfillMessage{ID: 1, Kind: saga.BackfillRows, Entity: "products", Table: saga.Table{Schema: "public", Name: "products"},
		Sinks: []saga.Sink{sink}, RelationID: 2, ReplicaIdentity: "d", Rows: rows}
	for _, name := range columns {
		head.Columns = append(head.Columns, saga.BackfillColumn{Name: name, TypeOID: 25, TypeModifier: -1, Identity: name == "id"})
	}
	return head
}

func TestBackfillsRowsAreChangesInOrder(t *testing.T) {
	t.Parallel()
	l := &listener{}
	h := newTestHold(l)
	send := func(m any) { require.NoError(t, h.dispatch(t.Context(), event{message: m})) }
	describe := func() {
		send(&pglogrepl.RelationMessage{RelationID: 2, Namespace: "public", RelationName: "products", ReplicaIdentity: 'd', Columns: []*pglogrepl.RelationMessageColumn{
			{Flags: 1, Name: "id", DataType: 25, TypeModifier: -1}, {Name: "title", DataType: 25, TypeModifier: -1},
		}})
	}
	send(&pglogrepl.BeginMessage{FinalLSN: 100})
	send(message(t, saga.BackfillMessage{Kind: saga.BackfillBegin, Table: saga.Table{Schema: "public", Name: "products"}, Sinks: []saga.Sink{saga.Redis, saga.Kafka}}, ""))
	send(message(t, saga.BackfillMessage{Kind: saga.BackfillEnd, Table: saga.Table{Schema: "public", Name: "products"}, Sinks: []saga.Sink{saga.Redis}}, ""))
	send(message(t, chunk(saga.Redis, 1, "id", "title"), "(0,other)"))
	send(message(t, chunk(saga.Kafka, 2, "id", "title"), `(1,"a b")(2,)`))
	send(message(t, chunk(saga.Kafka, 1, "id", "title"), `(3,"")`))
	describe()
	send(&row{relation: 2, change: Change{Op: Insert, New: Tuple{}}})
	send(message(t, chunk(saga.Kafka, 1, "id", "title"), `(4,c)`))
	send(message(t, chunk(saga.Kafka, 1, "id"), `(5)`))

	require.Equal(t, []saga.BackfillKind{saga.BackfillBegin}, l.marks, "the others are for other sinks")
	require.Len(t, l.changes, 6)
	for i, c := range l.changes {
		require.Equal(t, i, c.Index)
	}
	require.Equal(t, Tuple{{Kind: Text, Text: []byte("1")}, {Kind: Text, Text: []byte("a b")}}, l.changes[0].New)
	require.Equal(t, Value{Kind: Null}, l.changes[1].New[1])
	require.Equal(t, Value{Kind: Text, Text: []byte{}}, l.changes[2].New[1])
	require.Equal(t, Read, l.changes[0].Op)
	require.Same(t, l.changes[0].Relation, l.changes[2].Relation, "one pointer as long as the columns are the same")
	require.Equal(t, Insert, l.changes[3].Op)
	require.Same(t, l.changes[3].Relation, l.changes[4].Relation, "that of the table's changes, once it is known")
	require.NotSame(t, l.changes[4].Relation, l.changes[5].Relation, "other columns")
	require.Equal(t, []Column{{Name: "id", TypeOID: 25, TypeModifier: -1, Identity: true}}, l.changes[5].Relation.Columns)
}

func TestMessagesOfOthersAreIgnored(t *testing.T) {
	t.Parallel()
	l := &listener{}
	h := newTestHold(l)
	require.NoError(t, h.dispatch(t.Context(), event{message: &pglogrepl.BeginMessage{FinalLSN: 100}}))
	for _, m := range []*pglogrepl.LogicalDecodingMessage{
		{Content: []byte("no JSON")}, {Content: nil}, {Content: []byte(`{"kind":"later"}`)},
		message(t, chunk(saga.Kafka, 2, "id"), `(1)`),
		message(t, chunk(saga.Kafka, 1, "id"), `(1)(2)`),
		message(t, chunk(saga.Kafka, 1<<40, "id"), `(1)`),
		message(t, chunk(saga.Kafka, 1), `()`),
	} {
		m.Transactional, m.Prefix = true, saga.MessageBackfill
		require.NoError(t, h.dispatch(t.Context(), event{message: m}))
	}
	require.Empty(t, l.changes)
	require.Empty(t, l.marks)
}
