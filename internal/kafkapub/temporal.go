package kafkapub

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// appendTemporal appends a date, a time or an interval. It returns false for
// other types, and for text that it cannot read, which is then appended as text.
func appendTemporal(dst []byte, oid uint32, modifier int32, raw []byte) ([]byte, bool) {
	switch oid {
	case pgtype.DateOID, pgtype.TimestampOID, pgtype.TimestamptzOID, pgtype.TimeOID, timetzOID, pgtype.IntervalOID:
	default:
		return dst, false
	}
	text := string(raw)
	switch oid {
	case pgtype.DateOID:
		return appendDate(dst, text)
	case pgtype.TimestampOID:
		return appendTimestamp(dst, modifier, text)
	case pgtype.TimestamptzOID:
		return appendTimestamptz(dst, modifier, text)
	case pgtype.TimeOID:
		micros, ok := parseClock(text)
		return appendPrecision(dst, modifier, micros), ok
	case timetzOID:
		return appendTimetz(dst, text)
	}
	micros, ok := parseInterval(text)
	return strconv.AppendInt(dst, micros, 10), ok
}

func appendDate(dst []byte, text string) ([]byte, bool) {
	switch text {
	case "infinity":
		return strconv.AppendInt(dst, dateInfinity, 10), true
	case "-infinity":
		return strconv.AppendInt(dst, dateNegativeInfinity, 10), true
	}
	text, bc := strings.CutSuffix(text, " BC")
	days, ok := parseDate(text, bc)
	return strconv.AppendInt(dst, days, 10), ok
}

func appendTimestamp(dst []byte, modifier int32, text string) ([]byte, bool) {
	switch text {
	case "infinity":
		return strconv.AppendInt(dst, timestampInfinity, 10), true
	case "-infinity":
		return strconv.AppendInt(dst, timestampNegativeInfinity, 10), true
	}
	micros, ok := parseTimestamp(text)
	return appendPrecision(dst, modifier, micros), ok
}

// appendPrecision appends milliseconds for a declared precision up to 3, else
// microseconds.
func appendPrecision(dst []byte, modifier int32, micros int64) []byte {
	if modifier >= 0 && modifier <= 3 {
		return strconv.AppendInt(dst, micros/1000, 10)
	}
	return strconv.AppendInt(dst, micros, 10)
}

// appendTimestamptz appends the moment as ISO 8601 in UTC; the session's time
// zone is UTC, so the text's offset is always +00. A declared precision has so many
// digits, where PostgreSQL leaves out zeros at the end.
func appendTimestamptz(dst []byte, modifier int32, text string) ([]byte, bool) {
	if text == "infinity" || text == "-infinity" {
		return appendString(dst, []byte(text)), true
	}
	rest, bc := strings.CutSuffix(text, " BC")
	day, clock, ok := strings.Cut(rest, " ")
	clock, utc := strings.CutSuffix(clock, "+00")
	if !ok || !utc {
		return dst, false
	}
	dst = append(dst, '"')
	if bc { // ISO 8601 has a year 0, which is 1 BC
		year, monthDay, _ := strings.Cut(day, "-")
		n, err := strconv.Atoi(year)
		if err != nil {
			return dst, false
		}
		dst = appendYear(dst, 1-n)
		dst = append(dst, '-')
		day = monthDay
	} else if len(day) > len("9999-12-31") {
		dst = append(dst, '+')
	}
	dst = append(dst, day...)
	dst = append(dst, 'T')
	dst = append(dst, clock...)
	if modifier > 0 {
		_, fraction, ok := strings.Cut(clock, ".")
		if !ok {
			dst = append(dst, '.')
		}
		for range int(modifier) - len(fraction) {
			dst = append(dst, '0')
		}
	}
	return append(dst, 'Z', '"'), true
}

func appendYear(dst []byte, year int) []byte {
	if year < 0 {
		dst = append(dst, '-')
		year = -year
	}
	digits := strconv.Itoa(year)
	for range max(0, 4-len(digits)) {
		dst = append(dst, '0')
	}
	return append(dst, digits...)
}

const (
	microsPerDay    = 86_400_000_000
	microsPerHour   = 3_600_000_000
	microsPerMinute = 60_000_000
	microsPerSecond = 1_000_000
	// microsPerMonth is a twelfth of 365.25 days.
	microsPerMonth = 2_629_800_000_000
)

// appendTimetz appends a time of day moved to UTC.
func appendTimetz(dst []byte, text string) ([]byte, bool) {
	i := strings.LastIndexAny(text, "+-")
	if i < 0 {
		return dst, false
	}
	micros, ok := parseClock(text[:i])
	offset, okOffset := parseClock(text[i+1:])
	if !ok || !okOffset {
		return dst, false
	}
	if text[i] == '-' {
		offset = -offset
	}
	micros = ((micros-offset)%microsPerDay + microsPerDay) % microsPerDay
	at := time.UnixMicro(micros).UTC()
	dst = append(dst, '"')
	dst = at.AppendFormat(dst, "15:04:05.999999")
	return append(dst, 'Z', '"'), true
}

// parseDate returns the days since 1970-01-01 of year-month-day, where the year
// may have more than four digits.
func parseDate(text string, bc bool) (int64, bool) {
	parts := strings.SplitN(text, "-", 3)
	if len(parts) != 3 {
		return 0, false
	}
	year, err1 := strconv.Atoi(parts[0])
	month, err2 := strconv.Atoi(parts[1])
	day, err3 := strconv.Atoi(parts[2])
	if err1 != nil || err2 != nil || err3 != nil {
		return 0, false
	}
	if bc {
		year = 1 - year
	}
	return time.Date(year, time.Month(month), day, 0, 0, 0, 0, time.UTC).Unix() / 86400, true
}

func parseTimestamp(text string) (int64, bool) {
	text, bc := strings.CutSuffix(text, " BC")
	day, clock, ok := strings.Cut(text, " ")
	if !ok {
		return 0, false
	}
	days, okDay := parseDate(day, bc)
	micros, okClock := parseClock(clock)
	micros, fits := addProduct(micros, days, microsPerDay)
	return micros, okDay && okClock && fits
}

// parseClock returns the microseconds of h:m, h:m:s or h:m:s.f, also of a lone
// hour, as offsets have it.
func parseClock(text string) (int64, bool) {
	units := [...]int64{microsPerHour, microsPerMinute}
	var micros int64
	parts := strings.Split(text, ":")
	if len(parts) > 3 {
		return 0, false
	}
	for i, part := range parts {
		if i == 2 {
			seconds, ok := parseSeconds(part)
			return micros + seconds, ok
		}
		n, err := strconv.ParseInt(part, 10, 64)
		if err != nil {
			return 0, false
		}
		micros += n * units[i]
	}
	return micros, true
}

// parseSeconds returns the microseconds of "5" or "5.25".
func parseSeconds(text string) (int64, bool) {
	whole, fraction, _ := strings.Cut(text, ".")
	seconds, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || len(fraction) > 6 {
		return 0, false
	}
	micros := seconds * microsPerSecond
	if fraction != "" {
		n, err := strconv.ParseInt(fraction+strings.Repeat("0", 6-len(fraction)), 10, 64)
		if err != nil {
			return 0, false
		}
		micros += n
	}
	return micros, true
}

// parseInterval returns the microseconds of an interval in PostgreSQL's own
// style, such as "1 year 2 mons -3 days +04:05:06.7". Infinite intervals are the
// greatest and least 64-bit integers.
func parseInterval(text string) (int64, bool) {
	switch text {
	case "infinity":
		return math.MaxInt64, true
	case "-infinity":
		return math.MinInt64, true
	}
	var micros int64
	words := strings.Fields(text)
	for i := 0; i < len(words); {
		if strings.Contains(words[i], ":") {
			n, ok := parseSignedClock(words[i])
			if !ok {
				return 0, false
			}
			micros += n
			i++
			continue
		}
		n, err := strconv.ParseInt(words[i], 10, 64)
		if err != nil || i+1 == len(words) {
			return 0, false
		}
		var fits bool
		if micros, fits = addProduct(micros, n, unitMicros[words[i+1]]); !fits {
			return 0, false
		}
		i += 2
	}
	return micros, len(words) > 0
}

var unitMicros = map[string]int64{
	"year": 12 * microsPerMonth, "years": 12 * microsPerMonth,
	"mon": microsPerMonth, "mons": microsPerMonth,
	"day": microsPerDay, "days": microsPerDay,
}

// addProduct returns sum + n*unit, and false for a unit of zero or a result that
// 64 bits do not hold.
func addProduct(sum, n, unit int64) (int64, bool) {
	if unit == 0 || n > math.MaxInt64/unit || n < math.MinInt64/unit {
		return 0, false
	}
	product := n * unit
	if product > 0 && sum > math.MaxInt64-product || product < 0 && sum < math.MinInt64-product {
		return 0, false
	}
	return sum + product, true
}

func parseSignedClock(text string) (int64, bool) {
	negative := strings.HasPrefix(text, "-")
	micros, ok := parseClock(strings.TrimLeft(text, "+-"))
	if negative {
		micros = -micros
	}
	return micros, ok
}
