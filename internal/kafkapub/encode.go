package kafkapub

import (
	"encoding/base64"
	"encoding/hex"
	"strconv"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/capsaga/capsaga/internal/pgtext"
)

const (
	moneyOID  = 790
	timetzOID = 1266
)

// appendValue appends a value of PostgreSQL's text form as JSON:
//
//	smallint, integer, bigint, oid   the number, digit by digit
//	real, double precision           the number, as Java writes it: 1.0, 1.0E7; NaN, Infinity,
//	                                 -Infinity as strings
//	numeric, money                   see below
//	boolean, bit(1)                  true or false
//	date, time(p), timestamp(p)      see below
//	timestamptz                      ISO 8601 in UTC, "2026-03-01T09:30:00.5Z"; for timestamptz(p)
//	                                 with p digits
//	timetz                           ISO 8601 in UTC, "09:30:00.5Z"
//	interval                         microseconds, a month as 30.4375 days
//	bytea                            base64
//	bit(n), bit varying              base64 of the bits, the lowest first
//	arrays                           arrays, nested for more dimensions
//	all others                       a string with PostgreSQL's text
//
// timestamptz that are infinite are the strings "infinity" and "-infinity". Unlike
// Debezium, geometric types, hstore and composites are text too.
//
// numeric and money, by decimal_handling_mode:
//
//	string     a string; NAN, POSITIVE_INFINITY, NEGATIVE_INFINITY
//	precise    base64 of the unscaled value, money with scale 2; numeric without a
//	           declared precision {"scale":1,"value":base64}; what is no number as in string
//	double     the nearest double; NaN, Infinity, -Infinity as strings
//
// date, time and timestamp, by time_precision_mode:
//
//	adaptive                     days since 1970-01-01; milliseconds for p up to 3, else microseconds
//	adaptive_time_microseconds   the same, but time in microseconds
//	connect                      days; milliseconds, of finer ones the whole before
//	microseconds, nanoseconds    days; so many of them
//	isostring                    "2026-03-01Z", "09:30:00.5Z", "2026-03-01T09:30:00.5Z"
//	structured                   objects, see structured.go; also timestamptz, timetz and interval
//
// Where dates are days, infinite ones are the greatest and least 32-bit integers.
// Infinite timestamps are Debezium's 9223372036825200000 and -9223372036832400000
// microseconds, in milliseconds a thousandth of that, and in nanoseconds the greatest
// and least 64-bit integers. As ISO 8601 they are what Debezium makes of its
// numbers: "+294247-01-10T04:00:25.2Z" and "-290308-12-21T19:59:27.6Z", and of dates
// "-5877611-06-21Z" and "-5877611-06-22Z". Timestamps that 64 bits do not hold in the
// mode's unit are PostgreSQL's text.
func appendValue(dst []byte, e *encoding, text []byte) []byte {
	if e.element != nil {
		return appendArray(dst, e, text)
	}
	switch e.info.OID {
	case pgtype.Int2OID, pgtype.Int4OID, pgtype.Int8OID, pgtype.OIDOID, pgtype.XIDOID, pgtype.CIDOID:
		return append(dst, text...)
	case pgtype.Float4OID:
		return appendFloat(dst, text, 32)
	case pgtype.Float8OID:
		return appendFloat(dst, text, 64)
	case pgtype.NumericOID:
		return appendNumeric(dst, e, text)
	case pgtype.BoolOID:
		return strconv.AppendBool(dst, string(text) == "t")
	case moneyOID:
		return appendMoney(dst, e.modes.decimal, text)
	case pgtype.ByteaOID:
		return appendBytes(dst, text)
	case pgtype.BitOID, pgtype.VarbitOID:
		return appendBits(dst, e.info.OID, text)
	}
	if out, ok := appendTemporal(dst, e, text); ok {
		return out
	}
	return appendString(dst, text)
}

// appendBytes appends the base64 of a bytea in hex form.
func appendBytes(dst, text []byte) []byte {
	if len(text) < 2 || text[0] != '\\' || text[1] != 'x' {
		return appendString(dst, text)
	}
	raw := make([]byte, hex.DecodedLen(len(text)-2))
	if _, err := hex.Decode(raw, text[2:]); err != nil {
		return appendString(dst, text)
	}
	return appendBase64(dst, raw)
}

// appendBits appends bit(1) as a boolean and longer ones as bytes, the last bit
// written being the lowest of the first byte.
func appendBits(dst []byte, oid uint32, text []byte) []byte {
	if oid == pgtype.BitOID && len(text) == 1 {
		return strconv.AppendBool(dst, text[0] == '1')
	}
	raw := make([]byte, (len(text)+7)/8)
	for i := range text {
		if text[len(text)-1-i] == '1' {
			raw[i/8] |= 1 << (i % 8)
		}
	}
	return appendBase64(dst, raw)
}

func appendBase64(dst, raw []byte) []byte {
	dst = append(dst, '"')
	dst = base64.StdEncoding.AppendEncode(dst, raw)
	return append(dst, '"')
}

const hexDigits = "0123456789ABCDEF"

// appendString appends text as a JSON string. Bytes that are not UTF-8, which
// only a database in SQL_ASCII can hold, become U+FFFD.
func appendString(dst, text []byte) []byte {
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(text); {
		c := text[i]
		if c >= 0x20 && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRune(text[i:])
			if r != utf8.RuneError || size > 1 {
				i += size
				continue
			}
		}
		dst = append(dst, text[start:i]...)
		dst = appendEscaped(dst, c)
		i++
		start = i
	}
	dst = append(dst, text[start:]...)
	return append(dst, '"')
}

func appendEscaped(dst []byte, c byte) []byte {
	switch {
	case c == '"', c == '\\':
		return append(dst, '\\', c)
	case c == '\b':
		return append(dst, '\\', 'b')
	case c == '\f':
		return append(dst, '\\', 'f')
	case c == '\n':
		return append(dst, '\\', 'n')
	case c == '\r':
		return append(dst, '\\', 'r')
	case c == '\t':
		return append(dst, '\\', 't')
	case c >= utf8.RuneSelf:
		return append(dst, `\ufffd`...)
	}
	return append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
}

// appendArray appends an array. One whose text cannot be read, of a type that
// came with an extension, is appended as text.
func appendArray(dst []byte, e *encoding, text []byte) []byte {
	out, ok := pgtext.AppendArray(dst, text, e.info.Delimiter, func(dst, element []byte) []byte {
		return appendValue(dst, e.element, element)
	})
	if !ok {
		return appendString(dst, text)
	}
	return out
}
