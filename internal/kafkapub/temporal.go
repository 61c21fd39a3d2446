package kafkapub

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// Debezium's values for infinite dates, and for infinite timestamps in microseconds.
const (
	timestampInfinity         = 9223372036825200000
	timestampNegativeInfinity = -9223372036832400000
	dateInfinity              = math.MaxInt32
	dateNegativeInfinity      = math.MinInt32
)

const infinity, negativeInfinity = "infinity", "-infinity"

// appendTemporal appends a date, a time or an interval. It returns false for
// other types, and for text that it cannot read, which is then appended as text.
func appendTemporal(dst []byte, e *encoding, raw []byte) ([]byte, bool) {
	switch e.info.OID {
	case pgtype.DateOID, pgtype.TimestampOID, pgtype.TimestamptzOID, pgtype.TimeOID, timetzOID, pgtype.IntervalOID:
	default:
		return dst, false
	}
	text := string(raw)
	if e.modes.time == timeStructured {
		return appendStructured(dst, e, text)
	}
	switch e.info.OID {
	case pgtype.DateOID:
		return appendDate(dst, e.modes.time, text)
	case pgtype.TimestampOID:
		return appendTimestamp(dst, e, text)
	case pgtype.TimestamptzOID:
		return appendTimestamptz(dst, e.modifier, text)
	case pgtype.TimeOID:
		return appendTime(dst, e, text)
	case timetzOID:
		return appendTimetz(dst, text)
	}
	micros, ok := parseInterval(text)
	return strconv.AppendInt(dst, micros, 10), ok
}

func appendDate(dst []byte, mode timeMode, text string) ([]byte, bool) {
	iso := mode == timeISO
	switch {
	case text == infinity && iso: // the days that Debezium streams for them
		return append(dst, `"-5877611-06-21Z"`...), true
	case text == negativeInfinity && iso:
		return append(dst, `"-5877611-06-22Z"`...), true
	case text == infinity:
		return strconv.AppendInt(dst, dateInfinity, 10), true
	case text == negativeInfinity:
		return strconv.AppendInt(dst, dateNegativeInfinity, 10), true
	}
	text, bc := strings.CutSuffix(text, " BC")
	if iso {
		dst, ok := appendISODay(append(dst, '"'), text, bc)
		return append(dst, 'Z', '"'), ok
	}
	days, ok := parseDate(text, bc)
	return strconv.AppendInt(dst, days, 10), ok
}

func appendTime(dst []byte, e *encoding, text string) ([]byte, bool) {
	micros, ok := parseClock(text)
	switch e.modes.time {
	case timeISO: // 24:00 is 00:00, as from Debezium
		dst = appendClock(append(dst, '"'), micros%microsPerDay)
		return append(dst, 'Z', '"'), ok
	case timeAdaptiveMicros:
		return strconv.AppendInt(dst, micros, 10), ok
	}
	dst, fits := appendUnits(dst, e.unit(), micros)
	return dst, ok && fits
}

func appendTimestamp(dst []byte, e *encoding, text string) ([]byte, bool) {
	if text == infinity || text == negativeInfinity {
		return appendInfinity(dst, e, text == infinity)
	}
	if e.modes.time == timeISO {
		return appendISO(dst, text, -1)
	}
	micros, ok := parseTimestamp(text)
	dst, fits := appendUnits(dst, e.unit(), micros)
	return dst, ok && fits
}

func appendInfinity(dst []byte, e *encoding, positive bool) ([]byte, bool) {
	nanos, micros, iso := int64(math.MinInt64), int64(timestampNegativeInfinity), `"-290308-12-21T19:59:27.6Z"`
	if positive {
		nanos, micros, iso = math.MaxInt64, timestampInfinity, `"+294247-01-10T04:00:25.2Z"`
	}
	switch e.modes.time {
	case timeISO:
		return append(dst, iso...), true
	case timeNanos:
		return strconv.AppendInt(dst, nanos, 10), true
	}
	return appendUnits(dst, e.unit(), micros)
}

// unit is what the numbers of a time or a timestamp count.
type unit byte

const (
	inMillis unit = iota
	inMicros
	inNanos
)

// unit is milliseconds for a declared precision up to 3, else microseconds, unless
// the mode has one for all.
func (e *encoding) unit() unit {
	switch {
	case e.modes.time == timeNanos:
		return inNanos
	case e.modes.time == timeMicros:
		return inMicros
	case e.modes.time == timeConnect, e.modifier >= 0 && e.modifier <= 3:
		return inMillis
	}
	return inMicros
}

// appendUnits appends microseconds in a unit, and returns false where 64 bits do not
// hold them. Milliseconds are those before, as in Java.
func appendUnits(dst []byte, u unit, micros int64) ([]byte, bool) {
	switch u {
	case inMillis:
		millis := micros / 1000
		if micros%1000 < 0 {
			millis--
		}
		return strconv.AppendInt(dst, millis, 10), true
	case inNanos:
		nanos, fits := addProduct(0, micros, 1000)
		return strconv.AppendInt(dst, nanos, 10), fits
	case inMicros:
	}
	return strconv.AppendInt(dst, micros, 10), true
}

// appendTimestamptz appends the moment as ISO 8601 in UTC; the session's time
// zone is UTC, so the text's offset is always +00. A declared precision has so many
// digits, where PostgreSQL leaves out zeros at the end.
func appendTimestamptz(dst []byte, modifier int32, text string) ([]byte, bool) {
	if text == infinity || text == negativeInfinity {
		return appendString(dst, []byte(text)), true
	}
	moment, ok := inUTC(text)
	if !ok {
		return dst, false
	}
	return appendISO(dst, moment, modifier)
}

// inUTC returns a timestamptz of UTC as the text of a timestamp.
func inUTC(text string) (string, bool) {
	rest, bc := strings.CutSuffix(text, " BC")
	moment, utc := strings.CutSuffix(rest, "+00")
	if bc {
		moment += " BC"
	}
	return moment, utc
}

// appendISO appends a timestamp as ISO 8601 in UTC, with so many digits behind the
// point as the modifier says, unless it is -1.
func appendISO(dst []byte, text string, modifier int32) ([]byte, bool) {
	text, bc := strings.CutSuffix(text, " BC")
	day, clock, ok := strings.Cut(text, " ")
	if !ok {
		return dst, false
	}
	dst, ok = appendISODay(append(dst, '"'), day, bc)
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
	return append(dst, 'Z', '"'), ok
}

// appendISODay appends a day as ISO 8601, which has a year 0, 1 BC, and a sign
// before years of more than four digits.
func appendISODay(dst []byte, day string, bc bool) ([]byte, bool) {
	if bc {
		year, monthDay, _ := strings.Cut(day, "-")
		n, err := strconv.Atoi(year)
		if err != nil {
			return dst, false
		}
		return append(append(appendYear(dst, 1-n), '-'), monthDay...), true
	}
	if len(day) > len("9999-12-31") {
		dst = append(dst, '+')
	}
	return append(dst, day...), true
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
	dst = appendClock(append(dst, '"'), micros)
	return append(dst, 'Z', '"'), true
}

// appendClock appends a time of day as 09:30:00.5.
func appendClock(dst []byte, micros int64) []byte {
	return time.UnixMicro(micros).UTC().AppendFormat(dst, "15:04:05.999999")
}

// parseDate returns the days since 1970-01-01 of year-month-day, where the year
// may have more than four digits.
func parseDate(text string, bc bool) (int64, bool) {
	year, month, day, ok := splitDate(text, bc)
	return time.Date(year, time.Month(month), day, 0, 0, 0, 0, time.UTC).Unix() / 86400, ok
}

// splitDate returns the parts of year-month-day; 1 BC is the year 0.
func splitDate(text string, bc bool) (year, month, day int, ok bool) {
	parts := strings.SplitN(text, "-", 3)
	if len(parts) != 3 {
		return 0, 0, 0, false
	}
	year, err1 := strconv.Atoi(parts[0])
	month, err2 := strconv.Atoi(parts[1])
	day, err3 := strconv.Atoi(parts[2])
	if bc {
		year = 1 - year
	}
	return year, month, day, err1 == nil && err2 == nil && err3 == nil
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
	case infinity:
		return math.MaxInt64, true
	case negativeInfinity:
		return math.MinInt64, true
	}
	p, ok := splitInterval(text)
	micros, fits := addProduct(0, p.years, 12*microsPerMonth)
	ok = ok && fits
	micros, fits = addProduct(micros, p.months, microsPerMonth)
	ok = ok && fits
	micros, fits = addProduct(micros, p.days, microsPerDay)
	return micros + p.micros, ok && fits
}

// intervalParts are the parts of an interval, each with its sign.
type intervalParts struct{ years, months, days, micros int64 }

func splitInterval(text string) (p intervalParts, ok bool) {
	words := strings.Fields(text)
	for i := 0; i < len(words); i++ {
		if strings.Contains(words[i], ":") {
			if p.micros, ok = parseSignedClock(words[i]); !ok {
				return p, false
			}
			continue
		}
		n, err := strconv.ParseInt(words[i], 10, 64)
		if err != nil || i+1 == len(words) {
			return p, false
		}
		i++
		switch strings.TrimSuffix(words[i], "s") {
		case "year":
			p.years = n
		case "mon":
			p.months = n
		case "day":
			p.days = n
		default:
			return p, false
		}
	}
	return p, len(words) > 0
}

// addProduct returns sum + n*unit, and false for a result that 64 bits do not hold.
func addProduct(sum, n, unit int64) (int64, bool) {
	if n > math.MaxInt64/unit || n < math.MinInt64/unit {
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
