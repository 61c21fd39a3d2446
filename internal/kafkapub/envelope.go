package kafkapub

import (
	"strconv"
	"time"

	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/saga"
)

// connectorVersion is source.version: that of the envelope's form, not of a
// program.
const connectorVersion = "capsaga-1"

// unavailable is Debezium's default for a value that the server did not send.
const unavailable = `"__debezium_unavailable_value"`

// record is a record before it is encoded.
type record struct {
	change        *stream.Change
	op            byte // c, u or d
	id            string
	key           []byte
	before, after stream.Tuple
}

// appendEnvelope appends the record's value.
func (s *session) appendEnvelope(dst []byte, p *plan, r record) []byte {
	dst = append(dst, `{"before":`...)
	if r.before == nil {
		dst = append(dst, "null"...)
	} else {
		dst = p.appendRow(dst, r.before, !r.change.OldFull)
	}
	dst = append(dst, `,"after":`...)
	if r.after == nil {
		dst = append(dst, "null"...)
	} else {
		dst = p.appendRow(dst, r.after, false)
	}
	dst = append(dst, p.source...)
	dst = append(dst, s.source...)
	dst = strconv.AppendInt(dst, int64(r.change.Index), 10)
	dst = append(dst, `\"]"},"transaction":null,"op":"`...)
	dst = append(dst, r.op, '"')
	return append(dst, s.now...)
}

// sourceOf returns the part of source that is the table's.
func (s *session) sourceOf(table saga.Table) []byte {
	dst := append([]byte(nil), `,"source":{"version":"`+connectorVersion+`","connector":"postgresql","name":`...)
	dst = appendString(dst, []byte(s.config.Prefix))
	dst = append(dst, `,"snapshot":"false","db":`...)
	dst = appendString(dst, []byte(s.config.DatabaseName))
	dst = append(dst, `,"schema":`...)
	dst = appendString(dst, []byte(table.Schema))
	dst = append(dst, `,"table":`...)
	return appendString(dst, []byte(table.Name))
}

// appendSourceTransaction appends the part of source that is the transaction's.
// It ends within sequence, where the change's index follows.
func appendSourceTransaction(dst []byte, tx *stream.Transaction) []byte {
	dst = appendTimeFields(dst, tx.CommitTime)
	dst = append(dst, `,"txId":`...)
	dst = strconv.AppendUint(dst, uint64(tx.XID), 10)
	dst = append(dst, `,"lsn":`...)
	dst = strconv.AppendUint(dst, uint64(tx.CommitLSN), 10)
	dst = append(dst, `,"xmin":null,"sequence":"[\"`...)
	dst = strconv.AppendUint(dst, uint64(tx.CommitLSN), 10)
	return append(dst, `\",\"`...)
}

// appendTimes appends when the record was made, and ends the envelope.
func appendTimes(dst []byte, at time.Time) []byte {
	return append(appendTimeFields(dst, at), '}')
}

func appendTimeFields(dst []byte, at time.Time) []byte {
	dst = append(dst, `,"ts_ms":`...)
	dst = strconv.AppendInt(dst, at.UnixMilli(), 10)
	dst = append(dst, `,"ts_us":`...)
	dst = strconv.AppendInt(dst, at.UnixMicro(), 10)
	dst = append(dst, `,"ts_ns":`...)
	return strconv.AppendInt(dst, at.UnixNano(), 10)
}

// appendRow appends a row as a JSON object; of a row of which only the key is
// known, the key columns.
func (p *plan) appendRow(dst []byte, row stream.Tuple, keyOnly bool) []byte {
	dst = append(dst, '{')
	first := true
	for i := range row {
		if keyOnly && !p.relation.Columns[i].Identity {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(dst, p.columns[i].name...)
		dst = p.appendColumn(dst, i, row[i])
	}
	return append(dst, '}')
}

func (p *plan) appendColumn(dst []byte, i int, value stream.Value) []byte {
	switch value.Kind {
	case stream.Text:
		return appendValue(dst, p.columns[i].info, p.columns[i].modifier, value.Text)
	case stream.Unchanged:
		return append(dst, unavailable...)
	}
	return append(dst, "null"...)
}

// appendKey appends the record's key; nil for a table without one.
func (p *plan) appendKey(dst []byte, row stream.Tuple) []byte {
	if len(p.key) == 0 {
		return nil
	}
	dst = append(dst, '{')
	for n, i := range p.key {
		if n > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, p.columns[i].name...)
		dst = p.appendColumn(dst, i, row[i])
	}
	return append(dst, '}')
}
