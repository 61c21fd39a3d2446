package kafkapub

import (
	"math/big"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgtype"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/capsaga/capsaga/internal/pgtext"
	"github.com/capsaga/capsaga/saga"
)

// encoded returns a value as a column of a type and a modifier has it.
func encoded(oid uint32, modifier int32, m modes, text string) string {
	e := encodingOf(&pgtext.Type{OID: oid, Modifier: -1}, modifier, m)
	return string(appendValue(nil, &e, []byte(text)))
}

// numeric returns the type modifier of numeric(precision,scale).
func numeric(precision, scale int32) int32 { return precision<<16 | scale&0x7ff + 4 }

// The base64 is that of BigInteger.toByteArray, the doubles those of
// BigDecimal.doubleValue.
func TestDecimalModes(t *testing.T) {
	t.Parallel()
	digits, tiny, huge := "12345678901234567890.123456789", "0."+strings.Repeat("0", 330)+"1", "1"+strings.Repeat("0", 400)
	for _, c := range []struct {
		name                    string
		oid                     uint32
		modifier                int32
		text                    string
		asString, exact, double string
	}{
		{"scale 2", pgtype.NumericOID, numeric(20, 2), "0.00", `"0.00"`, `"AA=="`, `0.0`},
		{"scale 2", pgtype.NumericOID, numeric(20, 2), "1.50", `"1.50"`, `"AJY="`, `1.5`},
		{"scale 2", pgtype.NumericOID, numeric(20, 2), "-1.50", `"-1.50"`, `"/2o="`, `-1.5`},
		{"a full byte", pgtype.NumericOID, numeric(20, 2), "1.27", `"1.27"`, `"fw=="`, `1.27`},
		{"a byte for the sign", pgtype.NumericOID, numeric(20, 2), "1.28", `"1.28"`, `"AIA="`, `1.28`},
		{"the least byte", pgtype.NumericOID, numeric(20, 2), "-1.28", `"-1.28"`, `"gA=="`, `-1.28`},
		{"below it", pgtype.NumericOID, numeric(20, 2), "-1.29", `"-1.29"`, `"/38="`, `-1.29`},
		{"64 bits", pgtype.NumericOID, numeric(20, 2), "-92233720368547758.08", `"-92233720368547758.08"`, `"gAAAAAAAAAA="`, `-9.223372036854776E16`},
		{"more", pgtype.NumericOID, numeric(30, 2), "12345678901234567890.12", `"12345678901234567890.12"`, `"Qu0SOwvYIDoU"`, `1.2345678901234567E19`},
		{"more, negative", pgtype.NumericOID, numeric(30, 2), "-12345678901234567890.12", `"-12345678901234567890.12"`, `"vRLtxPQn38Xs"`, `-1.2345678901234567E19`},
		{"scale 0", pgtype.NumericOID, numeric(5, 0), "100", `"100"`, `"ZA=="`, `100.0`},
		{"a scale over the precision", pgtype.NumericOID, numeric(2, 5), "0.00012", `"0.00012"`, `"DA=="`, `1.2E-4`},
		{"a negative scale", pgtype.NumericOID, numeric(3, -2), "12300", `"12300"`, `"ew=="`, `12300.0`},
		{"zero of a negative scale", pgtype.NumericOID, numeric(3, -2), "0", `"0"`, `"AA=="`, `0.0`},
		{"NaN of a scale", pgtype.NumericOID, numeric(20, 2), "NaN", `"NAN"`, `"NAN"`, `"NaN"`},
		{"any scale", pgtype.NumericOID, -1, "0.000", `"0.000"`, `{"scale":0,"value":"AA=="}`, `0.0`},
		{"any scale", pgtype.NumericOID, -1, "100", `"100"`, `{"scale":0,"value":"ZA=="}`, `100.0`},
		{"any scale", pgtype.NumericOID, -1, "1.50", `"1.50"`, `{"scale":1,"value":"Dw=="}`, `1.5`},
		{"any scale", pgtype.NumericOID, -1, "-0.001", `"-0.001"`, `{"scale":3,"value":"/w=="}`, `-0.001`},
		{"any scale", pgtype.NumericOID, -1, digits, `"` + digits + `"`, `{"scale":9,"value":"J+QbMka+ybFuOYEV"}`, `1.2345678901234567E19`},
		{"128 bits", pgtype.NumericOID, -1, "-340282366920938463463374607431768211456", `"-340282366920938463463374607431768211456"`, `{"scale":0,"value":"/wAAAAAAAAAAAAAAAAAAAAA="}`, `-3.402823669209385E38`},
		{"NaN", pgtype.NumericOID, -1, "NaN", `"NAN"`, `"NAN"`, `"NaN"`},
		{"infinity", pgtype.NumericOID, -1, "Infinity", `"POSITIVE_INFINITY"`, `"POSITIVE_INFINITY"`, `"Infinity"`},
		{"negative infinity", pgtype.NumericOID, -1, "-Infinity", `"NEGATIVE_INFINITY"`, `"NEGATIVE_INFINITY"`, `"-Infinity"`},
		{"money", moneyOID, -1, "$0.00", `"0.00"`, `"AA=="`, `0.0`},
		{"money", moneyOID, -1, "-$1,234.50", `"-1234.50"`, `"/h3G"`, `-1234.5`},
		{"the least money", moneyOID, -1, "-$92,233,720,368,547,758.08", `"-92233720368547758.08"`, `"gAAAAAAAAAA="`, `-9.223372036854776E16`},
	} {
		for m, want := range map[decimalMode]string{decimalString: c.asString, decimalPrecise: c.exact, decimalDouble: c.double} {
			require.Equal(t, want, encoded(c.oid, c.modifier, modes{decimal: m}, c.text), "%s: %s in mode %d", c.name, c.text, m)
		}
	}
	double := modes{decimal: decimalDouble}
	require.Equal(t, `"Infinity"`, encoded(pgtype.NumericOID, -1, double, huge))
	require.Equal(t, `"-Infinity"`, encoded(pgtype.NumericOID, -1, double, "-"+huge))
	require.Equal(t, `0.0`, encoded(pgtype.NumericOID, -1, double, tiny))
	require.Equal(t, `-0.0`, encoded(pgtype.NumericOID, -1, double, "-"+tiny))
}

// What is not of the scale stays readable.
func TestDigitsBeyondTheScaleAreText(t *testing.T) {
	t.Parallel()
	require.Equal(t, `"1.505"`, string(appendUnscaled(nil, []byte("1.505"), 2)))
	require.Equal(t, `"12310"`, string(appendUnscaled(nil, []byte("12310"), -2)))
}

// The short way to the bytes gives the same as the long one.
func TestUnscaledBytesProperty(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64().Draw(t, "n")
		text := strconv.FormatInt(n, 10)
		require.Equal(t, string(appendBase64(nil, twosComplement(big.NewInt(n)))), string(appendUnscaled(nil, []byte(text), 0)), text)
	})
}

var timeModes = []timeMode{timeAdaptive, timeAdaptiveMicros, timeConnect, timeMicros, timeNanos, timeISO, timeStructured}

func TestTimeModes(t *testing.T) {
	t.Parallel()
	const noDay = `"year":null,"month":null,"day":null`
	const noTime = noDay + `,"hour":null,"minute":null,"second":null,"nanos":null`
	for _, c := range []struct {
		name     string
		oid      uint32
		modifier int32
		text     string
		want     []string // in the order of timeModes; the last one holds for all that follow
	}{
		{"date", pgtype.DateOID, -1, "2026-03-01", []string{"20513", "20513", "20513", "20513", "20513", `"2026-03-01Z"`, `{"year":2026,"month":3,"day":1,"specialValue":null}`}},
		{"date BC", pgtype.DateOID, -1, "0044-03-15 BC", []string{"-735160", "-735160", "-735160", "-735160", "-735160", `"-0043-03-15Z"`, `{"year":-43,"month":3,"day":15,"specialValue":null}`}},
		{"1 BC", pgtype.DateOID, -1, "0001-01-01 BC", []string{"-719528", "-719528", "-719528", "-719528", "-719528", `"0000-01-01Z"`, `{"year":0,"month":1,"day":1,"specialValue":null}`}},
		{"far date", pgtype.DateOID, -1, "12026-03-01", []string{"3672938", "3672938", "3672938", "3672938", "3672938", `"+12026-03-01Z"`, `{"year":12026,"month":3,"day":1,"specialValue":null}`}},
		{"infinite date", pgtype.DateOID, -1, "infinity", []string{"2147483647", "2147483647", "2147483647", "2147483647", "2147483647", `"-5877611-06-21Z"`, `{` + noDay + `,"specialValue":"POSITIVE_INFINITY"}`}},
		{"infinite date", pgtype.DateOID, -1, "-infinity", []string{"-2147483648", "-2147483648", "-2147483648", "-2147483648", "-2147483648", `"-5877611-06-22Z"`, `{` + noDay + `,"specialValue":"NEGATIVE_INFINITY"}`}},

		{"time", pgtype.TimeOID, -1, "09:30:00.123456", []string{
			"34200123456", "34200123456", "34200123", "34200123456", "34200123456000", `"09:30:00.123456Z"`,
			`{"hour":9,"minute":30,"second":0,"nanos":123456000,"precision":6}`,
		}},
		{"time(3)", pgtype.TimeOID, 3, "09:30:07.5", []string{
			"34207500", "34207500000", "34207500", "34207500000", "34207500000000", `"09:30:07.5Z"`,
			`{"hour":9,"minute":30,"second":7,"nanos":500000000,"precision":3}`,
		}},
		{"time(0)", pgtype.TimeOID, 0, "09:30:00", []string{
			"34200000", "34200000000", "34200000", "34200000000", "34200000000000", `"09:30:00Z"`,
			`{"hour":9,"minute":30,"second":0,"nanos":0,"precision":0}`,
		}},
		{"end of day", pgtype.TimeOID, -1, "24:00:00", []string{
			"86400000000", "86400000000", "86400000", "86400000000", "86400000000000", `"00:00:00Z"`,
			`{"hour":24,"minute":0,"second":0,"nanos":0,"precision":6}`,
		}},

		{"timestamp", pgtype.TimestampOID, -1, "2026-03-01 09:30:00.123456", []string{
			"1772357400123456", "1772357400123456", "1772357400123", "1772357400123456", "1772357400123456000", `"2026-03-01T09:30:00.123456Z"`,
			`{"year":2026,"month":3,"day":1,"hour":9,"minute":30,"second":0,"nanos":123456000,"specialValue":null,"precision":6}`,
		}},
		{"timestamp(3)", pgtype.TimestampOID, 3, "2026-03-01 09:30:00.5", []string{
			"1772357400500", "1772357400500", "1772357400500", "1772357400500000", "1772357400500000000", `"2026-03-01T09:30:00.5Z"`,
			`{"year":2026,"month":3,"day":1,"hour":9,"minute":30,"second":0,"nanos":500000000,"specialValue":null,"precision":3}`,
		}},
		{"before 1970", pgtype.TimestampOID, -1, "1969-12-31 23:59:59.999999", []string{
			"-1", "-1", "-1", "-1", "-1000", `"1969-12-31T23:59:59.999999Z"`,
			`{"year":1969,"month":12,"day":31,"hour":23,"minute":59,"second":59,"nanos":999999000,"specialValue":null,"precision":6}`,
		}},
		{"timestamp BC", pgtype.TimestampOID, -1, "0044-03-15 12:00:00 BC", []string{
			"-63517780800000000", "-63517780800000000", "-63517780800000", "-63517780800000000", `"0044-03-15 12:00:00 BC"`, `"-0043-03-15T12:00:00Z"`,
			`{"year":-43,"month":3,"day":15,"hour":12,"minute":0,"second":0,"nanos":0,"specialValue":null,"precision":6}`,
		}},
		{"the last nanosecond", pgtype.TimestampOID, -1, "2262-04-11 23:47:16.854775", []string{
			"9223372036854775", "9223372036854775", "9223372036854", "9223372036854775", "9223372036854775000", `"2262-04-11T23:47:16.854775Z"`,
			`{"year":2262,"month":4,"day":11,"hour":23,"minute":47,"second":16,"nanos":854775000,"specialValue":null,"precision":6}`,
		}},
		{"past it", pgtype.TimestampOID, -1, "2262-04-11 23:47:16.854776", []string{
			"9223372036854776", "9223372036854776", "9223372036854", "9223372036854776", `"2262-04-11 23:47:16.854776"`, `"2262-04-11T23:47:16.854776Z"`,
			`{"year":2262,"month":4,"day":11,"hour":23,"minute":47,"second":16,"nanos":854776000,"specialValue":null,"precision":6}`,
		}},
		{"infinity", pgtype.TimestampOID, -1, "infinity", []string{
			"9223372036825200000", "9223372036825200000", "9223372036825200", "9223372036825200000", "9223372036854775807", `"+294247-01-10T04:00:25.2Z"`,
			`{` + noTime + `,"specialValue":"POSITIVE_INFINITY","precision":6}`,
		}},
		{"infinity", pgtype.TimestampOID, -1, "-infinity", []string{
			"-9223372036832400000", "-9223372036832400000", "-9223372036832400", "-9223372036832400000", "-9223372036854775808", `"-290308-12-21T19:59:27.6Z"`,
			`{` + noTime + `,"specialValue":"NEGATIVE_INFINITY","precision":6}`,
		}},
		{"infinity(3)", pgtype.TimestampOID, 3, "infinity", []string{
			"9223372036825200", "9223372036825200", "9223372036825200", "9223372036825200000", "9223372036854775807", `"+294247-01-10T04:00:25.2Z"`,
			`{` + noTime + `,"specialValue":"POSITIVE_INFINITY","precision":3}`,
		}},

		{"timestamptz", pgtype.TimestamptzOID, -1, "2026-03-01 07:30:00.5+00", []string{
			`"2026-03-01T07:30:00.5Z"`, `"2026-03-01T07:30:00.5Z"`, `"2026-03-01T07:30:00.5Z"`, `"2026-03-01T07:30:00.5Z"`, `"2026-03-01T07:30:00.5Z"`, `"2026-03-01T07:30:00.5Z"`,
			`{"year":2026,"month":3,"day":1,"hour":7,"minute":30,"second":0,"nanos":500000000,"offsetSeconds":0,"zoneId":"Z","specialValue":null,"precision":6}`,
		}},
		{"timestamptz(3) BC", pgtype.TimestamptzOID, 3, "0044-03-15 12:00:00+00 BC", []string{
			`"-0043-03-15T12:00:00.000Z"`, `"-0043-03-15T12:00:00.000Z"`, `"-0043-03-15T12:00:00.000Z"`, `"-0043-03-15T12:00:00.000Z"`, `"-0043-03-15T12:00:00.000Z"`, `"-0043-03-15T12:00:00.000Z"`,
			`{"year":-43,"month":3,"day":15,"hour":12,"minute":0,"second":0,"nanos":0,"offsetSeconds":0,"zoneId":"Z","specialValue":null,"precision":3}`,
		}},
		{"infinite timestamptz", pgtype.TimestamptzOID, -1, "-infinity", []string{
			`"-infinity"`, `"-infinity"`, `"-infinity"`, `"-infinity"`, `"-infinity"`, `"-infinity"`,
			`{` + noTime + `,"offsetSeconds":null,"zoneId":null,"specialValue":"NEGATIVE_INFINITY","precision":6}`,
		}},
		{"timetz", timetzOID, -1, "09:30:00.5-02:30", []string{
			`"12:00:00.5Z"`, `"12:00:00.5Z"`, `"12:00:00.5Z"`, `"12:00:00.5Z"`, `"12:00:00.5Z"`, `"12:00:00.5Z"`,
			`{"hour":9,"minute":30,"second":0,"nanos":500000000,"offsetSeconds":-9000,"precision":6}`,
		}},
		{"timetz at the end of day", timetzOID, 0, "24:00:00+02", []string{
			`"22:00:00Z"`, `"22:00:00Z"`, `"22:00:00Z"`, `"22:00:00Z"`, `"22:00:00Z"`, `"22:00:00Z"`,
			`{"hour":24,"minute":0,"second":0,"nanos":0,"offsetSeconds":7200,"precision":0}`,
		}},
		{"interval", pgtype.IntervalOID, -1, "1 year 2 mons -3 days -04:05:06.789", []string{
			"36543293211000", "36543293211000", "36543293211000", "36543293211000", "36543293211000", "36543293211000",
			`{"years":1,"months":2,"days":-3,"hours":-4,"minutes":-5,"seconds":-6,"nanos":-789000000,"precision":6}`,
		}},
		{"interval(3)", pgtype.IntervalOID, 0x7fff<<16 | 3, "00:00:00", []string{
			"0", "0", "0", "0", "0", "0", `{"years":0,"months":0,"days":0,"hours":0,"minutes":0,"seconds":0,"nanos":0,"precision":3}`,
		}},
		{"infinite interval", pgtype.IntervalOID, -1, "infinity", []string{
			"9223372036854775807", "9223372036854775807", "9223372036854775807", "9223372036854775807", "9223372036854775807", "9223372036854775807", `"infinity"`,
		}},
		{"a long interval", pgtype.IntervalOID, -1, "170000000 years", []string{
			`"170000000 years"`, `"170000000 years"`, `"170000000 years"`, `"170000000 years"`, `"170000000 years"`, `"170000000 years"`,
			`{"years":170000000,"months":0,"days":0,"hours":0,"minutes":0,"seconds":0,"nanos":0,"precision":6}`,
		}},
	} {
		for i, m := range timeModes {
			require.Equal(t, c.want[i], encoded(c.oid, c.modifier, modes{time: m}, c.text), "%s: %s in mode %d", c.name, c.text, m)
		}
	}
}

// The elements of an array are written as the column's values would be.
func TestModesReachArraysAndDomains(t *testing.T) {
	t.Parallel()
	m := modes{decimal: decimalPrecise, time: timeConnect}
	array := func(element *pgtext.Type, modifier int32, text string) string {
		e := encodingOf(&pgtext.Type{Modifier: -1, Element: element, Delimiter: ','}, modifier, m)
		return string(appendValue(nil, &e, []byte(text)))
	}
	number := &pgtext.Type{OID: pgtype.NumericOID, Modifier: -1}
	require.Equal(t, `[{"scale":1,"value":"Dw=="},null,"NAN"]`, array(number, -1, "{1.50,NULL,NaN}"))
	require.Equal(t, `[["AJY="],["AA=="]]`, array(number, numeric(10, 2), "{{1.50},{0.00}}"))
	require.Equal(t, `[1772357400123]`, array(&pgtext.Type{OID: pgtype.TimestampOID, Modifier: -1}, -1, `{"2026-03-01 09:30:00.123456"}`))
	require.Equal(t, `["AJY="]`, array(&pgtext.Type{OID: pgtype.NumericOID, Modifier: numeric(10, 2)}, -1, "{1.50}"), "of a domain")
	domain := encodingOf(&pgtext.Type{OID: pgtype.NumericOID, Modifier: numeric(10, 2)}, -1, m)
	require.Equal(t, `"AJY="`, string(appendValue(nil, &domain, []byte("1.50"))))
}

func TestModesOfACatalog(t *testing.T) {
	t.Parallel()
	require.Zero(t, modesOf(nil))
	require.Zero(t, modesOf(&saga.Catalog{}))
	require.Zero(t, modesOf(&saga.Catalog{DecimalHandlingMode: saga.DecimalString, TimePrecisionMode: saga.TimeAdaptive}))
	for name, want := range map[saga.DecimalMode]decimalMode{saga.DecimalPrecise: decimalPrecise, saga.DecimalDouble: decimalDouble} {
		require.Equal(t, modes{decimal: want}, modesOf(&saga.Catalog{DecimalHandlingMode: name}))
	}
	for name, want := range map[saga.TimeMode]timeMode{
		saga.TimeAdaptiveMicroseconds: timeAdaptiveMicros, saga.TimeConnect: timeConnect, saga.TimeISOString: timeISO,
		saga.TimeMicroseconds: timeMicros, saga.TimeNanoseconds: timeNanos, saga.TimeStructured: timeStructured,
	} {
		require.Equal(t, modes{time: want}, modesOf(&saga.Catalog{TimePrecisionMode: name}))
	}
}
