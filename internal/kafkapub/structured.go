package kafkapub

import (
	"strings"

	"github.com/jackc/pgx/v5/pgtype"
)

// appendStructured appends a date, a time or an interval as Debezium's structs of
// calendar and clock, in the order of their fields:
//
//	date         year, month, day, specialValue
//	time         hour, minute, second, nanos, precision
//	timetz       hour, minute, second, nanos, offsetSeconds, precision
//	timestamp    year, month, day, hour, minute, second, nanos, specialValue, precision
//	timestamptz  the same, with offsetSeconds and zoneId behind nanos: UTC, 0 and "Z"
//	interval     years, months, days, hours, minutes, seconds, nanos, precision
//
// specialValue is POSITIVE_INFINITY or NEGATIVE_INFINITY, and what else there would
// be is null then; 1 BC is the year 0. The hour 24 stays; of time, Debezium fails on
// it. An infinite interval, which has no specialValue, is PostgreSQL's text.
func appendStructured(dst []byte, e *encoding, text string) ([]byte, bool) {
	switch e.info.OID {
	case pgtype.DateOID:
		return appendDateStruct(dst, text)
	case pgtype.TimeOID:
		dst, ok := appendClockFields(append(dst, '{'), text)
		return appendPrecision(dst, e), ok
	case timetzOID:
		return appendTimetzStruct(dst, e, text)
	case pgtype.TimestampOID:
		return appendTimestampStruct(dst, e, text, "", "")
	case pgtype.TimestamptzOID:
		const null, utc = `,"offsetSeconds":null,"zoneId":null`, `,"offsetSeconds":0,"zoneId":"Z"`
		if text == infinity || text == negativeInfinity {
			return appendTimestampStruct(dst, e, text, null, utc)
		}
		moment, ok := inUTC(text)
		dst, read := appendTimestampStruct(dst, e, moment, null, utc)
		return dst, ok && read
	}
	return appendIntervalStruct(dst, e, text)
}

func appendDateStruct(dst []byte, text string) ([]byte, bool) {
	if special := specialValue(text); special != "" {
		return append(append(append(dst, `{"year":null,"month":null,"day":null`...), special...), '}'), true
	}
	day, bc := strings.CutSuffix(text, " BC")
	dst, ok := appendDayFields(append(dst, '{'), day, bc)
	return append(dst, `,"specialValue":null}`...), ok
}

// appendTimestampStruct appends a timestamp with what stands behind nanos: zone, and
// noZone where the timestamp is infinite.
func appendTimestampStruct(dst []byte, e *encoding, text, noZone, zone string) ([]byte, bool) {
	if special := specialValue(text); special != "" {
		dst = append(dst, `{"year":null,"month":null,"day":null,"hour":null,"minute":null,"second":null,"nanos":null`...)
		return appendPrecision(append(append(dst, noZone...), special...), e), true
	}
	text, bc := strings.CutSuffix(text, " BC")
	day, clock, _ := strings.Cut(text, " ")
	dst, okDay := appendDayFields(append(dst, '{'), day, bc)
	dst, okClock := appendClockFields(append(dst, ','), clock)
	dst = append(append(dst, zone...), `,"specialValue":null`...)
	return appendPrecision(dst, e), okDay && okClock
}

// appendTimetzStruct keeps the text's offset, where the other modes move to UTC.
func appendTimetzStruct(dst []byte, e *encoding, text string) ([]byte, bool) {
	i := strings.LastIndexAny(text, "+-")
	if i < 0 {
		return dst, false
	}
	offset, okOffset := parseSignedClock(text[i:])
	dst, ok := appendClockFields(append(dst, '{'), text[:i])
	dst = appendField(dst, `,"offsetSeconds":`, offset/microsPerSecond)
	return appendPrecision(dst, e), ok && okOffset
}

// appendIntervalStruct appends the parts of an interval, each with its sign.
func appendIntervalStruct(dst []byte, e *encoding, text string) ([]byte, bool) {
	p, ok := splitInterval(text)
	dst = appendField(dst, `{"years":`, p.years)
	dst = appendField(dst, `,"months":`, p.months)
	dst = appendField(dst, `,"days":`, p.days)
	dst = appendField(dst, `,"hours":`, p.micros/microsPerHour)
	dst = appendField(dst, `,"minutes":`, p.micros%microsPerHour/microsPerMinute)
	dst = appendField(dst, `,"seconds":`, p.micros%microsPerMinute/microsPerSecond)
	dst = appendField(dst, `,"nanos":`, p.micros%microsPerSecond*1000)
	return appendPrecision(dst, e), ok
}

func appendDayFields(dst []byte, text string, bc bool) ([]byte, bool) {
	year, month, day, ok := splitDate(text, bc)
	dst = appendField(dst, `"year":`, int64(year))
	dst = appendField(dst, `,"month":`, int64(month))
	return appendField(dst, `,"day":`, int64(day)), ok
}

func appendClockFields(dst []byte, text string) ([]byte, bool) {
	micros, ok := parseClock(text)
	dst = appendField(dst, `"hour":`, micros/microsPerHour)
	dst = appendField(dst, `,"minute":`, micros%microsPerHour/microsPerMinute)
	dst = appendField(dst, `,"second":`, micros%microsPerMinute/microsPerSecond)
	return appendField(dst, `,"nanos":`, micros%microsPerSecond*1000), ok
}

// appendPrecision ends a struct with the column's digits behind the point. Of an
// interval they are in the lower half of the modifier, whose upper half has its units;
// 65535, as from Debezium, where only those are declared.
func appendPrecision(dst []byte, e *encoding) []byte {
	precision := int64(6)
	switch {
	case e.modifier == -1:
	case e.info.OID == pgtype.IntervalOID:
		precision = int64(e.modifier & 0xffff)
	default:
		precision = int64(e.modifier)
	}
	return append(appendField(dst, `,"precision":`, precision), '}')
}

// specialValue returns the field of an infinite value; nothing for another.
func specialValue(text string) string {
	switch text {
	case infinity:
		return `,"specialValue":"POSITIVE_INFINITY"`
	case negativeInfinity:
		return `,"specialValue":"NEGATIVE_INFINITY"`
	}
	return ""
}
