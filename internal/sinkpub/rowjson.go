package sinkpub

import (
	"bytes"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/capsaga/capsaga/internal/pgtext"
)

// appendValue appends a value's text form as row_to_json writes the value, which
// is how sagas and re-reads write a row. It returns false for what PostgreSQL
// alone can write: composites, types with a cast to json, and arrays whose text is
// not an array's.
func appendValue(dst []byte, t *pgtext.Type, text []byte) ([]byte, bool) {
	switch {
	case t.Opaque:
		return dst, false
	case t.Element != nil:
		all := true
		out, ok := pgtext.AppendArray(dst, text, t.Delimiter, func(dst, element []byte) []byte {
			dst, ok := appendValue(dst, t.Element, element)
			all = all && ok
			return dst
		})
		return out, ok && all
	}
	switch t.OID {
	case pgtype.BoolOID:
		if string(text) == "t" {
			return append(dst, "true"...), true
		}
		return append(dst, "false"...), true
	case pgtype.Int2OID, pgtype.Int4OID, pgtype.Int8OID, pgtype.JSONOID, pgtype.JSONBOID:
		return append(dst, text...), true
	case pgtype.Float4OID, pgtype.Float8OID, pgtype.NumericOID:
		if last := text[len(text)-1]; last < '0' || last > '9' { // NaN, Infinity
			return appendString(dst, text), true
		}
		return append(dst, text...), true
	case pgtype.TimestampOID, pgtype.TimestamptzOID:
		return appendTimestamp(dst, text, t.OID == pgtype.TimestamptzOID), true
	}
	return appendString(dst, text), true
}

// appendTimestamp appends the XSD form: a T before the time, and minutes in the
// offset, which is always UTC's.
func appendTimestamp(dst, text []byte, zoned bool) []byte {
	day, clock, ok := bytes.Cut(text, []byte{' '})
	if !ok { // infinity
		return appendString(dst, text)
	}
	dst = append(dst, '"')
	dst = append(dst, day...)
	dst = append(dst, 'T')
	clock, era, bc := bytes.Cut(clock, []byte{' '})
	dst = append(dst, clock...)
	if zoned && bytes.HasSuffix(clock, []byte("+00")) {
		dst = append(dst, ":00"...)
	}
	if bc {
		dst = append(dst, ' ')
		dst = append(dst, era...)
	}
	return append(dst, '"')
}

const hexDigits = "0123456789abcdef"

// appendString appends a JSON string with the escapes that PostgreSQL uses.
func appendString(dst, text []byte) []byte {
	dst = append(dst, '"')
	start := 0
	for i, c := range text {
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, text[start:i]...)
		start = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\b':
			dst = append(dst, '\\', 'b')
		case '\f':
			dst = append(dst, '\\', 'f')
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	dst = append(dst, text[start:]...)
	return append(dst, '"')
}
