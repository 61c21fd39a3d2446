package attack

import (
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/capsaga/capsaga/saga"
)

// rowKey names a row: its table and its KEYENC.
type rowKey struct{ table, key string }

// rowChange is one change of one key: an update that moves a key is two.
type rowChange struct {
	rowKey
	record saga.LSN // of the change's own WAL record
	gone   bool
	stamp  string
	row    map[string]*string // without unchanged TOAST values, which are not sent
	// before is the stamp of the row before, where the replica identity tells.
	before string
	full   bool
}

// transaction is what the WAL says of one.
type transaction struct {
	commit   saga.LSN
	begin    *saga.BeginMessage
	beginLSN saga.LSN
	end      *saga.EndMessage
	endLSN   saga.LSN
	changes  []rowChange
}

// observer reads a slot with nothing but the protocol's parser.
type observer struct {
	conn      *pgconn.PgConn
	relations map[uint32]*pglogrepl.RelationMessage

	transactions []*transaction
	last         bool // the open transaction holds the last message
	changes      atomic.Int64
}

// lastMessage is the prefix of the message after which the observer stops.
const lastMessage = "attack-last"

func observe(ctx context.Context, url, slot string) (*observer, error) {
	conn, err := pgconn.Connect(ctx, url+"&replication=database")
	if err != nil {
		return nil, err
	}
	err = pglogrepl.StartReplication(ctx, conn, slot, 0, pglogrepl.StartReplicationOptions{
		Mode:       pglogrepl.LogicalReplication,
		PluginArgs: []string{"proto_version '1'", "publication_names '" + publication + "'", "messages 'true'"},
	})
	return &observer{conn: conn, relations: map[uint32]*pglogrepl.RelationMessage{}}, err
}

// run returns after the transaction with the last message.
func (o *observer) run(ctx context.Context) error {
	defer func() { _ = o.conn.Close(context.Background()) }()
	for {
		message, err := o.conn.ReceiveMessage(ctx)
		if err != nil {
			return fmt.Errorf("observe: %w", err)
		}
		data, ok := message.(*pgproto3.CopyData)
		if !ok {
			return fmt.Errorf("observe: unexpected %T", message)
		}
		switch data.Data[0] {
		case pglogrepl.PrimaryKeepaliveMessageByteID:
			// Nothing is confirmed: the slot keeps the WAL of the whole attack.
			if err := pglogrepl.SendStandbyStatusUpdate(ctx, o.conn, pglogrepl.StandbyStatusUpdate{WALWritePosition: 1}); err != nil {
				return err
			}
		case pglogrepl.XLogDataByteID:
			done, err := o.data(data.Data[1:])
			if done || err != nil {
				return err
			}
		}
	}
}

func (o *observer) data(data []byte) (done bool, err error) {
	x, err := pglogrepl.ParseXLogData(data)
	if err != nil {
		return false, err
	}
	message, err := pglogrepl.Parse(x.WALData)
	if err != nil {
		return false, err
	}
	record := saga.LSN(x.WALStart)
	switch m := message.(type) {
	case *pglogrepl.RelationMessage:
		o.relations[m.RelationID] = m
	case *pglogrepl.BeginMessage:
		o.transactions = append(o.transactions, &transaction{commit: saga.LSN(m.FinalLSN)})
	case *pglogrepl.LogicalDecodingMessage:
		return false, o.message(m)
	case *pglogrepl.InsertMessage:
		o.change(m.RelationID, record, nil, m.Tuple)
	case *pglogrepl.UpdateMessage:
		o.change(m.RelationID, record, m.OldTuple, m.NewTuple)
	case *pglogrepl.DeleteMessage:
		o.change(m.RelationID, record, m.OldTuple, nil)
	case *pglogrepl.CommitMessage:
		return o.last, nil
	}
	return false, nil
}

func (o *observer) open() *transaction { return o.transactions[len(o.transactions)-1] }

func (o *observer) message(m *pglogrepl.LogicalDecodingMessage) error {
	tx := o.open()
	switch m.Prefix {
	case saga.MessageBegin:
		tx.begin, tx.beginLSN = &saga.BeginMessage{}, saga.LSN(m.LSN)
		return json.Unmarshal(m.Content, tx.begin)
	case saga.MessageEnd:
		tx.end, tx.endLSN = &saga.EndMessage{}, saga.LSN(m.LSN)
		return json.Unmarshal(m.Content, tx.end)
	case lastMessage:
		o.last = true
	}
	return nil
}

// change notes one row's change. An update without its old tuple left the key as
// it was.
func (o *observer) change(relation uint32, record saga.LSN, before, after *pglogrepl.TupleData) {
	o.changes.Add(1)
	r := o.relations[relation]
	tx := o.open()
	old, row := values(r, before), values(r, after)
	full := r.ReplicaIdentity == 'f'
	moved := old != nil && row != nil && *old["id"] != *row["id"]
	if row == nil || moved {
		tx.changes = append(tx.changes, rowChange{
			rowKey: rowKey{r.RelationName, *old["id"]}, record: record, gone: true, before: stampOf(old), full: full,
		})
	}
	if row == nil {
		return
	}
	c := rowChange{rowKey: rowKey{r.RelationName, *row["id"]}, record: record, row: row, stamp: stampOf(row), full: full}
	if !moved {
		c.before = stampOf(old)
	}
	tx.changes = append(tx.changes, c)
}

func stampOf(row map[string]*string) string {
	if row == nil || row["stamp"] == nil {
		return ""
	}
	return *row["stamp"]
}

func values(r *pglogrepl.RelationMessage, t *pglogrepl.TupleData) map[string]*string {
	if t == nil {
		return nil
	}
	row := make(map[string]*string, len(t.Columns))
	for i, c := range t.Columns {
		switch c.DataType {
		case pglogrepl.TupleDataTypeNull:
			row[r.Columns[i].Name] = nil
		case pglogrepl.TupleDataTypeText:
			text := string(c.Data)
			row[r.Columns[i].Name] = &text
		}
	}
	return row
}
