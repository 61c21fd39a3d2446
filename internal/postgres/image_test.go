package postgres_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"
)

// typeSamples has, per type, SQL expressions of values that a detour through JSON
// or through another type would lose.
var typeSamples = []struct {
	column  string
	samples []string
}{
	{"int2", []string{"-32768", "32767"}},
	{"int8", []string{"9223372036854775807", "-9007199254740993"}},
	{"numeric", []string{"'NaN'", "'Infinity'", "'-Infinity'", "1.10", "1e300", "0.000000000000000000000000001"}},
	{"numeric(10,2)", []string{"1.00", "'NaN'"}},
	{"real", []string{"'NaN'", "'-Infinity'", "0.1", "3.4028235e38"}},
	{"double precision", []string{"'NaN'", "'Infinity'", "0.1", "'-0'", "5e-324", "0.30000000000000004"}},
	{"money", []string{"'-1234567.89'"}},
	{"boolean", []string{"true", "false"}},
	{"text", []string{"''", "'null'", "'NULL'", `E'"\\ \t\n\u0001é𝄞'`, "' x '", `'{"a":1}'`, "repeat('z', 50000)"}},
	{"varchar(5)", []string{"'a  '", "''"}},
	{"char(4)", []string{"'x'", "''"}},
	{`"char"`, []string{`'"'`, "' '"}},
	{"name", []string{"'a b'"}},
	{"bytea", []string{`'\x'`, `'\x00ff5c27'`}},
	{"bit(3)", []string{"B'101'"}},
	{"bit varying", []string{"B''", "B'0001'"}},
	{"date", []string{"'infinity'", "'-infinity'", "'4713-01-01 BC'", "'2026-02-03'"}},
	{"time(3)", []string{"'24:00'", "'01:02:03.004'"}},
	{"timetz", []string{"'01:02:03.000004-15:59'"}},
	{"timestamp", []string{"'infinity'", "'0001-01-01 00:00:00 BC'", "'2026-02-03 04:05:06.789012'"}},
	{"timestamptz", []string{"'-infinity'", "'2026-02-03 04:05:06.789012+05:30'"}},
	{"interval", []string{"'-1 year 2 mons -3 days 04:05:06.7'", "'infinity'"}},
	{"interval day to second(0)", []string{"'3 days 04:05:06.7'"}},
	{"uuid", []string{"'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'"}},
	{"inet", []string{"'10.0.0.1/8'", "'::1'", "'10.0.0.1'"}},
	{"macaddr", []string{"'08:00:2b:01:02:03'"}},
	{"json", []string{"'null'", `'{"a" : 1.10, "a": 2}'`, `'"text"'`, "'[]'", "'1'"}},
	{"jsonb", []string{"'null'", `'{"n":1e20,"s":"\u00e9"}'`, `'"null"'`}},
	{"jsonpath", []string{"'$.a[*] ? (@ > 1)'"}},
	{"xml", []string{"'<a b=\"c\">d</a>'"}},
	{"point", []string{"'(1.5,-0)'"}},
	{"box", []string{"'(3,4),(1,2)'"}},
	{"tsvector", []string{`'a:1A ''b c'':2'`}},
	{"tsquery", []string{"'a & !b'"}},
	{"int4range", []string{"'empty'", "'[1,5)'", "'(,)'"}},
	{"nummultirange", []string{"'{}'", "'{[1.0,2.00],(5,)}'"}},
	{"int[]", []string{"'{}'", "'{1,NULL,3}'", "'{{1,2},{3,4}}'", "'[0:1]={7,8}'"}},
	{"text[]", []string{`ARRAY['', NULL, 'NULL', 'a,"b"\c', '{}']`}},
	{"json[]", []string{`ARRAY['null'::json, NULL, '{"a": [1]}']`}},
	{"mood", []string{"'so so'"}},
	{"mood[]", []string{"'{\"so so\",fine}'"}},
	{"cents", []string{"7"}},
	{"pair", []string{"ROW(NULL, NULL)", "ROW(1, '')", `ROW(NULL, 'a,"b")')`}},
	{"pair[]", []string{"ARRAY[ROW(NULL, NULL)::pair, NULL, ROW(1, 'x,y')::pair]"}},
	{"pg_lsn", []string{"'0/16B3748'"}},
	{"regclass", []string{"'product'"}},
	{"oid", []string{"4294967295"}},
}

// Whatever a row holds, undoing a patch or a delete of it brings it back to the
// last byte.
func TestImagesAreExact(t *testing.T) {
	f := setup(t)
	f.exec(`CREATE TYPE mood AS ENUM ('so so', 'fine'); CREATE DOMAIN cents AS bigint CHECK (VALUE >= 0); CREATE TYPE pair AS (a int, "b c" text)`)
	var columns, nulls []string
	for i, s := range typeSamples {
		columns = append(columns, fmt.Sprintf(`"c %d's" %s`, i, s.column))
		nulls = append(nulls, fmt.Sprintf(`"c %d's":null`, i))
	}
	f.exec(fmt.Sprintf(`CREATE TABLE many (id bigint PRIMARY KEY, %s, stored text GENERATED ALWAYS AS (id::text) STORED, virt bigint GENERATED ALWAYS AS (id) VIRTUAL)`, strings.Join(columns, ", ")))
	f.entity("many", "public.many", "id")
	id := 0
	roundTrip := func(values []string) {
		id++
		f.exec(fmt.Sprintf("INSERT INTO many VALUES (%d, %s)", id, strings.Join(values, ", ")))
		where := fmt.Sprintf("FROM many m WHERE id = %d", id)
		row := f.text("SELECT m::text " + where)
		for _, mutation := range []string{
			fmt.Sprintf(`{"entity":"many","op":"delete","key":{"id":%d}}`, id),
			fmt.Sprintf(`{"entity":"many","op":"patch","key":{"id":%d},"set":{%s}}`, id, strings.Join(nulls, ",")),
		} {
			saga := fmt.Sprintf("s%d %d", id, len(mutation))
			f.committed(fmt.Sprintf(`{"saga_id":%q,"mutations":[%s]}`, saga, mutation))
			assert.NotEqual(t, row, f.text("SELECT coalesce((SELECT m::text "+where+"), '')"))
			f.undone(saga)
			assert.Equal(t, row, f.text("SELECT m::text "+where), mutation)
		}
	}
	for n := range 7 {
		values := make([]string, len(typeSamples))
		for i, s := range typeSamples {
			values[i] = s.samples[n%len(s.samples)]
		}
		roundTrip(values)
	}
	rapid.Check(t, func(rt *rapid.T) {
		values := make([]string, len(typeSamples))
		for i, s := range typeSamples {
			values[i] = rapid.SampledFrom(append([]string{"NULL"}, s.samples...)).Draw(rt, s.column)
		}
		roundTrip(values)
	})
}
