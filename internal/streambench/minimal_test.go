package streambench

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
)

// readMinimally is the floor of every stream to Kafka: it decodes the changes,
// writes each as a lean JSON of about 300 bytes and produces it with all acks. It
// knows no schema changes, keeps no order after a failure and confirms nothing.
func (w *world) readMinimally(slot, topic string) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	conn, err := pgconn.Connect(ctx, w.stack.PostgresURL+"&replication=database")
	require.NoError(w.b, err)
	defer func() { _ = conn.Close(context.Background()) }()
	producer, err := kgo.NewClient(kgo.SeedBrokers(w.stack.KafkaBrokers...), kgo.DefaultProduceTopic(topic),
		kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerBatchCompression(kgo.Lz4Compression()), kgo.ProducerLinger(0), kgo.MaxBufferedRecords(100_000))
	require.NoError(w.b, err)
	defer producer.Close()
	err = pglogrepl.StartReplication(ctx, conn, slot, 0, pglogrepl.StartReplicationOptions{
		Mode: pglogrepl.LogicalReplication, PluginArgs: []string{"proto_version '1'", "publication_names 'kafkapub'"},
	})
	require.NoError(w.b, err)
	var acknowledged sync.WaitGroup
	var failed atomic.Int64
	relations := map[uint32]*pglogrepl.RelationMessage{}
	for rows := 0; rows < w.rows; {
		message, err := conn.ReceiveMessage(ctx)
		require.NoError(w.b, err)
		data, ok := message.(*pgproto3.CopyData)
		if !ok || data.Data[0] != pglogrepl.XLogDataByteID {
			continue
		}
		change, err := pglogrepl.Parse(data.Data[25:])
		require.NoError(w.b, err)
		switch m := change.(type) {
		case *pglogrepl.RelationMessage:
			relations[m.RelationID] = m
		case *pglogrepl.InsertMessage:
			rows++
			acknowledged.Add(1)
			key, value := leanJSON(relations[m.RelationID], m.Tuple)
			producer.Produce(ctx, &kgo.Record{Key: key, Value: value}, func(_ *kgo.Record, err error) {
				if err != nil {
					failed.Add(1)
				}
				acknowledged.Done()
			})
		}
	}
	acknowledged.Wait()
	require.Zero(w.b, failed.Load())
}

func leanJSON(relation *pglogrepl.RelationMessage, tuple *pglogrepl.TupleData) (key, value []byte) {
	value = append(make([]byte, 0, 384), `{"op":"c","table":"`...)
	value = append(value, relation.RelationName...)
	value = append(value, `","row":{`...)
	for i, c := range tuple.Columns {
		if i > 0 {
			value = append(value, ',')
		}
		value = append(value, '"')
		value = append(value, relation.Columns[i].Name...)
		value = append(value, `":`...)
		switch {
		case c.DataType != 't':
			value = append(value, "null"...)
		case relation.Columns[i].DataType == 20 || relation.Columns[i].DataType == 23:
			value = append(value, c.Data...)
		default:
			value = strconv.AppendQuote(value, string(c.Data))
		}
		if i == 0 {
			key = append(key, c.Data...)
		}
	}
	return key, append(value, `}}`...)
}
