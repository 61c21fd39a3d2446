package kafkapub

import (
	"encoding/base64"
	"encoding/hex"
	"math"
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
//	numeric, money                   a string; NAN, POSITIVE_INFINITY, NEGATIVE_INFINITY
//	boolean, bit(1)                  true or false
//	date                             days since 1970-01-01
//	time(p), timestamp(p)            milliseconds for p up to 3, else microseconds
//	timestamptz                      ISO 8601 in UTC, "2026-03-01T09:30:00.5Z"; for timestamptz(p)
//	                                 with p digits
//	timetz                           ISO 8601 in UTC, "09:30:00.5Z"
//	interval                         microseconds, a month as 30.4375 days
//	bytea                            base64
//	bit(n), bit varying              base64 of the bits, the lowest first
//	arrays                           arrays, nested for more dimensions
//	all others                       a string with PostgreSQL's text
//
// Infinite timestamps are Debezium's 9223372036825200000 and
// -9223372036832400000, infinite dates the greatest and least 32-bit integers;
// infinite timestamptz are the strings "infinity" and "-infinity". Unlike
// Debezium, geometric types, hstore and composites are text too.
func appendValue(dst []byte, info *pgtext.Type, modifier int32, text []byte) []byte {
	if modifier == -1 {
		modifier = info.Modifier
	}
	if info.Element != nil {
		return appendArray(dst, info, modifier, text)
	}
	switch info.OID {
	case pgtype.Int2OID, pgtype.Int4OID, pgtype.Int8OID, pgtype.OIDOID, pgtype.XIDOID, pgtype.CIDOID:
		return append(dst, text...)
	case pgtype.Float4OID:
		return appendFloat(dst, text, 32)
	case pgtype.Float8OID:
		return appendFloat(dst, text, 64)
	case pgtype.NumericOID:
		return appendNumeric(dst, text)
	case pgtype.BoolOID:
		return strconv.AppendBool(dst, string(text) == "t")
	case moneyOID:
		return appendMoney(dst, text)
	case pgtype.ByteaOID:
		return appendBytes(dst, text)
	case pgtype.BitOID, pgtype.VarbitOID:
		return appendBits(dst, info.OID, text)
	}
	if out, ok := appendTemporal(dst, info.OID, modifier, text); ok {
		return out
	}
	return appendString(dst, text)
}

// appendNumeric appends a numeric; what is no number is named as by Debezium.
func appendNumeric(dst, text []byte) []byte {
	switch string(text) {
	case "NaN":
		return append(dst, `"NAN"`...)
	case "Infinity":
		return append(dst, `"POSITIVE_INFINITY"`...)
	case "-Infinity":
		return append(dst, `"NEGATIVE_INFINITY"`...)
	}
	return append(append(append(dst, '"'), text...), '"')
}

// appendMoney appends an amount without its currency sign and separators, which
// lc_monetary=C writes as "-$1,234.50".
func appendMoney(dst, text []byte) []byte {
	dst = append(dst, '"')
	for _, c := range text {
		if c == '-' || c == '.' || c >= '0' && c <= '9' {
			dst = append(dst, c)
		}
	}
	return append(dst, '"')
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
func appendArray(dst []byte, info *pgtext.Type, modifier int32, text []byte) []byte {
	out, ok := pgtext.AppendArray(dst, text, info.Delimiter, func(dst, element []byte) []byte {
		return appendValue(dst, info.Element, modifier, element)
	})
	if !ok {
		return appendString(dst, text)
	}
	return out
}

// Debezium's values for infinite dates and timestamps.
const (
	timestampInfinity         = 9223372036825200000
	timestampNegativeInfinity = -9223372036832400000
	dateInfinity              = math.MaxInt32
	dateNegativeInfinity      = math.MinInt32
)
