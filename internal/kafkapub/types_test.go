package kafkapub_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/kafkapub"
	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/saga"
)

type typeCase struct{ column, value, want string }

// typeCases are columns, a value each, and the JSON that comes of it.
var typeCases = []typeCase{
	{"smallint", "'-32768'", `-32768`},
	{"integer", "2147483647", `2147483647`},
	{"bigint", "9223372036854775807", `9223372036854775807`},
	{"oid", "4294967295", `4294967295`},
	{"real", "'1.1'", `1.1`},
	{"real", "'NaN'", `"NaN"`},
	{"double precision", "0.1", `0.1`},
	{"double precision", "1e300", `1.0E300`},
	{"double precision", "5e-324", `4.9E-324`},
	{"double precision", "100", `100.0`},
	{"double precision", "'-Infinity'", `"-Infinity"`},
	{"numeric", "12345678901234567890.123456789", `"12345678901234567890.123456789"`},
	{"numeric(10,2)", "1.5", `"1.50"`},
	{"numeric", "'NaN'", `"NAN"`},
	{"numeric", "'Infinity'", `"POSITIVE_INFINITY"`},
	{"numeric", "'-Infinity'", `"NEGATIVE_INFINITY"`},
	{"money", "'-1234.5'", `"-1234.50"`},
	{"boolean", "true", `true`},
	{"boolean", "false", `false`},
	{"date", "'2026-03-01'", `20513`},
	{"date", "'1969-12-31'", `-1`},
	{"date", "'0044-03-15 BC'", `-735160`},
	{"date", "'12026-03-01'", `3672938`},
	{"date", "'infinity'", `2147483647`},
	{"date", "'-infinity'", `-2147483648`},
	{"time", "'09:30:00.123456'", `34200123456`},
	{"time(3)", "'09:30:00.123'", `34200123`},
	{"time", "'24:00:00'", `86400000000`},
	{"timetz", "'09:30:00.5+02:30'", `"07:00:00.5Z"`},
	{"timetz", "'01:00:00+02'", `"23:00:00Z"`},
	{"timestamp", "'2026-03-01 09:30:00.123456'", `1772357400123456`},
	{"timestamp", "'1969-12-31 23:59:59.999999'", `-1`},
	{"timestamp(3)", "'2026-03-01 09:30:00.123'", `1772357400123`},
	{"timestamp(0)", "'2026-03-01 09:30:00'", `1772357400000`},
	{"timestamp", "'infinity'", `9223372036825200000`},
	{"timestamp", "'-infinity'", `-9223372036832400000`},
	{"timestamptz", "'2026-03-01 09:30:00.5+02'", `"2026-03-01T07:30:00.5Z"`},
	{"timestamptz(3)", "'2026-03-01 09:30:00.5Z'", `"2026-03-01T09:30:00.500Z"`},
	{"timestamptz(3)", "'2026-03-01 09:30:00Z'", `"2026-03-01T09:30:00.000Z"`},
	{"timestamptz(0)", "'2026-03-01 09:30:00Z'", `"2026-03-01T09:30:00Z"`},
	{"timestamptz", "'2026-03-01 09:30:00Z'", `"2026-03-01T09:30:00Z"`},
	{"timestamptz", "'12026-03-01 00:00:00Z'", `"+12026-03-01T00:00:00Z"`},
	{"timestamptz", "'0044-03-15 12:00:00Z BC'", `"-0043-03-15T12:00:00Z"`},
	{"timestamptz", "'infinity'", `"infinity"`},
	{"interval", "'1 year 2 mons 3 days 04:05:06.789'", `37091106789000`},
	{"interval", "'-1 day +00:00:01'", `-86399000000`},
	{"interval", "'-00:00:00.5'", `-500000`},
	{"interval", "'0'", `0`},
	{"interval", "'infinity'", `9223372036854775807`},
	{"interval", "'170000000 years'", `"170000000 years"`},
	{"bytea", `'\x00ff10'`, `"AP8Q"`},
	{"bytea", `''`, `""`},
	{"bit", "B'1'", `true`},
	{"bit(10)", "B'1000000011'", `"AwI="`},
	{"varbit", "B'101'", `"BQ=="`},
	{"text", `E'a"b\\c\n\t\x01\u20ac\U0001F600'`, `"a\"b\\c\n\t\u0001€😀"`},
	{"text", "''", `""`},
	{"text", "'null'", `"null"`},
	{"varchar(5)", "'abc'", `"abc"`},
	{"char(5)", "'ab'", `"ab   "`},
	{`"char"`, "'x'", `"x"`},
	{"name", "'n'", `"n"`},
	{"json", `'{"a": 1e2,  "b":[1]}'`, `"{\"a\": 1e2,  \"b\":[1]}"`},
	{"jsonb", `'{"b": 1.00}'`, `"{\"b\": 1.00}"`},
	{"xml", "'<a/>'", `"<a/>"`},
	{"uuid", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", `"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"`},
	{"inet", "'10.0.0.1/8'", `"10.0.0.1/8"`},
	{"macaddr", "'08:00:2b:01:02:03'", `"08:00:2b:01:02:03"`},
	{"int4range", "'[1,5)'", `"[1,5)"`},
	{"tsvector", "'a b'", `"'a' 'b'"`},
	{"point", "'(1,2)'", `"(1,2)"`},
	{"mood", "'so so'", `"so so"`},
	{"percent", "55", `55`},
	{"short_moment", "'2026-03-01 09:30:00.123'", `1772357400123`},
	{"address", "'(Main,3)'", `"(Main,3)"`},
	{"integer[]", "'{1,NULL,3}'", `[1,null,3]`},
	{"integer[]", "'{}'", `[]`},
	{"integer[]", "'[0:1]={7,8}'", `[7,8]`},
	{"integer[]", "'{{1,2},{3,4}}'", `[[1,2],[3,4]]`},
	{"text[]", `ARRAY['a,b', 'q"\', '', NULL, 'NULL', '{}']`, `["a,b","q\"\\","",null,"NULL","{}"]`},
	{"numeric[]", "'{1.50,NaN}'", `["1.50","NAN"]`},
	{"bytea[]", `ARRAY['\x00ff10'::bytea]`, `["AP8Q"]`},
	{"timestamp(3)[]", `ARRAY['2026-03-01 09:30:00.123'::timestamp]`, `[1772357400123]`},
	{"timestamptz[]", `ARRAY['2026-03-01 09:30:00Z'::timestamptz]`, `["2026-03-01T09:30:00Z"]`},
	{"box[]", `'{(1,1),(0,0);(3,3),(2,2)}'`, `["(1,1),(0,0)","(3,3),(2,2)"]`},
	{"mood[]", `'{"so so"}'`, `["so so"]`},
	{"percent[]", "'{1,2}'", `[1,2]`},
	{"integer", "NULL", `null`},
	{"text[]", "NULL", `null`},
}

// modeCases are as typeCases, with the modes that are furthest from the defaults.
var modeCases = []typeCase{
	{"numeric(10,2)", "1.5", `"AJY="`},
	{"numeric(10,2)", "'NaN'", `"NAN"`},
	{"numeric(30,10)", "-12345678901234567890.0123456789", `"/nEW8Ak8jB8R8/sq6w=="`},
	{"numeric(3,-2)", "12345", `"ew=="`},
	{"numeric", "1.50", `{"scale":1,"value":"Dw=="}`},
	{"numeric", "1e20", `{"scale":0,"value":"BWvHXi1jEAAA"}`},
	{"numeric", "'-Infinity'", `"NEGATIVE_INFINITY"`},
	{"money", "'-1234.5'", `"/h3G"`},
	{"price", "1.5", `"AJY="`},
	{"numeric[]", "'{1.50,NaN,NULL}'", `[{"scale":1,"value":"Dw=="},"NAN",null]`},
	{"numeric(10,2)[]", "'{1.5}'", `["AJY="]`},
	{"date", "'2026-03-01'", `{"year":2026,"month":3,"day":1,"specialValue":null}`},
	{"date", "'infinity'", `{"year":null,"month":null,"day":null,"specialValue":"POSITIVE_INFINITY"}`},
	{"time(3)", "'24:00:00'", `{"hour":24,"minute":0,"second":0,"nanos":0,"precision":3}`},
	{"timetz", "'09:30:00.5-08'", `{"hour":9,"minute":30,"second":0,"nanos":500000000,"offsetSeconds":-28800,"precision":6}`},
	{"timestamp", "'294276-12-31 23:59:59.999999'", `{"year":294276,"month":12,"day":31,"hour":23,"minute":59,"second":59,"nanos":999999000,"specialValue":null,"precision":6}`},
	{"timestamptz(0)", "'2026-03-01 09:30:00+02'", `{"year":2026,"month":3,"day":1,"hour":7,"minute":30,"second":0,"nanos":0,"offsetSeconds":0,"zoneId":"Z","specialValue":null,"precision":0}`},
	{"interval", "'1 year 2 mons -3 days -04:05:06.789'", `{"years":1,"months":2,"days":-3,"hours":-4,"minutes":-5,"seconds":-6,"nanos":-789000000,"precision":6}`},
	{"interval(2)", "'1 day'", `{"years":0,"months":0,"days":1,"hours":0,"minutes":0,"seconds":0,"nanos":0,"precision":2}`},
	{"interval day", "'1 day'", `{"years":0,"months":0,"days":1,"hours":0,"minutes":0,"seconds":0,"nanos":0,"precision":65535}`},
	{"date[]", "'{2026-03-01}'", `[{"year":2026,"month":3,"day":1,"specialValue":null}]`},
	{"real", "1.5", `1.5`},
}

func TestEachTypeIsEncodedAsDocumented(t *testing.T) {
	t.Parallel()
	checkTypes(t, typeCases)
}

func TestTheCatalogChoosesTheModes(t *testing.T) {
	t.Parallel()
	checkTypes(t, modeCases, func(_ *stream.Config, c *kafkapub.Config) {
		c.Catalog = &saga.Catalog{DecimalHandlingMode: saga.DecimalPrecise, TimePrecisionMode: saga.TimeStructured}
	})
}

func checkTypes(t *testing.T, cases []typeCase, configure ...func(*stream.Config, *kafkapub.Config)) {
	t.Helper()
	w := newWorld(t)
	w.exec("CREATE TYPE mood AS ENUM ('so so', 'fine')")
	w.exec("CREATE DOMAIN percent AS integer CHECK (VALUE BETWEEN 0 AND 100)")
	w.exec("CREATE DOMAIN price AS numeric(10,2)")
	w.exec("CREATE DOMAIN short_moment AS timestamp(3)")
	w.exec("CREATE TYPE address AS (street text, number int)")
	columns, values := "id int PRIMARY KEY", "1"
	for i, c := range cases {
		columns += fmt.Sprintf(", c%d %s", i, c.column)
		values += fmt.Sprintf(", (%s)::%s", c.value, c.column)
	}
	w.exec("CREATE TABLE everything (" + columns + ")")
	r := w.start(configure...)
	w.exec("INSERT INTO everything VALUES (" + values + ")")
	w.settle(r.positions)

	events := w.events(w.topic("everything"))
	require.Len(t, events, 1)
	var envelope struct{ After map[string]json.RawMessage }
	require.NoError(t, json.Unmarshal([]byte(events[0].Value), &envelope), events[0].Value)
	for i, c := range cases {
		require.Equal(t, c.want, string(envelope.After[fmt.Sprintf("c%d", i)]), "%s %s", c.column, c.value)
	}
}
