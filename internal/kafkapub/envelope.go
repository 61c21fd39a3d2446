package kafkapub

import (
	"strconv"
	"time"

	"github.com/capsaga/capsaga/internal/stream"
)

// connectorVersion is source.version: that of the envelope's form, not of a
// program.
const connectorVersion = "capsaga-1"

// unavailable is Debezium's default for a value that the server did not send.
const unavailable = `"__debezium_unavailable_value"`

// record is a record before it is encoded.
type record struct {
	index         int  // of the change in its transaction
	part          int  // of the change
	op            byte // c, u, d, r or t
	before, after stream.Tuple
	// shape says what of the rows is written; of after, which is known whole, only
	// shapeKey and shapeShort leave something out.
	shape shape
}

// shape is what of a row is written.
type shape byte

const (
	shapeWhole    shape = iota
	shapeIdentity       // the columns of the replica identity, as others are not known
	shapeKey            // the record's key columns
	shapeShort          // no long values
)

// shortBytes is how long a value may be in a short row.
const shortBytes = 128

// sourceParts are the parts of source between those that are the table's, as
// Debezium's fields are in a fixed order. They are the same for a transaction.
type sourceParts struct {
	time     []byte // ts_ms
	sequence []byte // up to the change's index
	micros   []byte // behind it: ts_us and ts_ns
	position []byte // txId and all that follows, to the end of source
}

func (p *sourceParts) begin(tx *stream.Transaction) {
	p.time = appendField(p.time[:0], `,"ts_ms":`, tx.CommitTime.UnixMilli())
	p.sequence = append(strconv.AppendUint(append(p.sequence[:0], `,"sequence":"[\"`...), uint64(tx.CommitLSN), 10), `\",\"`...)
	p.micros = appendField(append(p.micros[:0], `\"]"`...), `,"ts_us":`, tx.CommitTime.UnixMicro())
	p.micros = appendField(p.micros, `,"ts_ns":`, tx.CommitTime.UnixNano())
	p.position = appendField(p.position[:0], `,"txId":`, int64(tx.XID))
	p.position = strconv.AppendUint(append(p.position, `,"lsn":`...), uint64(tx.CommitLSN), 10)
	p.position = append(p.position, `,"xmin":null,"origin":null,"origin_lsn":null}`...)
}

// tableSource is what of source is the table's.
type tableSource struct {
	head []byte // up to name
	db   []byte // db
	name []byte // schema and table
}

func (s *session) sourceOf(schema, table string) tableSource {
	var t tableSource
	t.head = append(t.head, `,"source":{"version":"`+connectorVersion+`","connector":"postgresql","name":`...)
	t.head = appendString(t.head, []byte(s.config.Prefix))
	t.db = appendString(append(t.db, `,"db":`...), []byte(s.config.DatabaseName))
	t.name = appendString(append(t.name, `,"schema":`...), []byte(schema))
	t.name = appendString(append(t.name, `,"table":`...), []byte(table))
	return t
}

// appendEnvelope appends the record's value.
func (s *session) appendEnvelope(dst []byte, p *plan, r record) []byte {
	dst = append(dst, `{"before":`...)
	dst = p.appendRow(dst, r.before, r.shape)
	dst = append(dst, `,"after":`...)
	after := r.shape
	if after == shapeIdentity {
		after = shapeWhole
	}
	dst = p.appendRow(dst, r.after, after)
	dst = append(dst, p.source.head...)
	dst = append(dst, s.source.time...)
	if r.op == 'r' {
		dst = append(dst, `,"snapshot":"incremental"`...)
	} else {
		dst = append(dst, `,"snapshot":"false"`...)
	}
	dst = append(dst, p.source.db...)
	dst = append(dst, s.source.sequence...)
	dst = strconv.AppendInt(dst, int64(r.index), 10)
	dst = append(dst, s.source.micros...)
	dst = append(dst, p.source.name...)
	dst = append(dst, s.source.position...)
	dst = append(dst, `,"transaction":`...)
	dst = s.meta.appendBlock(dst, p)
	dst = append(dst, `,"op":"`...)
	dst = append(dst, r.op, '"')
	return append(dst, s.now...)
}

// appendTimes appends when the record was made, and ends the envelope.
func appendTimes(dst []byte, at time.Time) []byte {
	dst = appendField(dst, `,"ts_ms":`, at.UnixMilli())
	dst = appendField(dst, `,"ts_us":`, at.UnixMicro())
	dst = appendField(dst, `,"ts_ns":`, at.UnixNano())
	return append(dst, '}')
}

func appendField(dst []byte, name string, value int64) []byte {
	return strconv.AppendInt(append(dst, name...), value, 10)
}

// appendRow appends a row, or what of it is to be written, as a JSON object.
func (p *plan) appendRow(dst []byte, row stream.Tuple, shape shape) []byte {
	switch {
	case row == nil:
		return append(dst, "null"...)
	case shape == shapeKey:
		return p.appendKey(dst, row)
	}
	dst = append(dst, '{')
	first := true
	for i := range row {
		if shape == shapeIdentity && !p.relation.Columns[i].Identity {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(dst, p.columns[i].name...)
		if shape == shapeShort && len(row[i].Text) > shortBytes {
			dst = append(dst, unavailable...)
			continue
		}
		dst = p.appendColumn(dst, i, row[i])
	}
	return append(dst, '}')
}

func (p *plan) appendColumn(dst []byte, i int, value stream.Value) []byte {
	switch value.Kind {
	case stream.Text:
		return appendValue(dst, &p.columns[i].encoding, value.Text)
	case stream.Unchanged:
		return append(dst, unavailable...)
	}
	return append(dst, "null"...)
}

// appendKey appends the record's key; nothing for a table without one.
func (p *plan) appendKey(dst []byte, row stream.Tuple) []byte {
	if len(p.key) == 0 {
		return dst
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
