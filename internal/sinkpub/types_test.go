package sinkpub_test

import (
	"fmt"
	"testing"

	"github.com/capsaga/capsaga/saga"
)

// typeCases are types with values of them, as SQL. A null goes with each.
var typeCases = []struct {
	typ    string
	values []string
}{
	{"smallint", []string{"-32768"}},
	{"bigint", []string{"9223372036854775807"}},
	{"oid", []string{"4294967295"}},
	{"real", []string{"1.1", "'NaN'", "'-Infinity'", "1e-30"}},
	{"double precision", []string{"0.1", "1e300", "5e-324", "'Infinity'", "'-0'"}},
	{"numeric", []string{"12345678901234567890.123456789", "'NaN'", "'Infinity'", "'-Infinity'", "1e-20", "0"}},
	{"numeric(10,2)", []string{"1.5", "-0.01"}},
	{"money", []string{"'-1234.5'"}},
	{"boolean", []string{"true", "false"}},
	{"text", []string{"''", `'a "b" \ c'`, `E'\b\f\n\r\t\x01\x1f\x7f'`, "'Zoë 🎬'", "'NULL'"}},
	{"varchar(5)", []string{"'ab'"}},
	{"char(5)", []string{"'ab'"}},
	{`"char"`, []string{"'x'"}},
	{"name", []string{"'n'"}},
	{"bytea", []string{`'\x00ff10'`, "''"}},
	{"uuid", []string{"'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"}},
	{"date", []string{"'2026-03-01'", "'infinity'", "'-infinity'", "'0044-03-15 BC'", "'12026-03-01'"}},
	{"time", []string{"'09:30:00.5'", "'24:00'"}},
	{"timetz", []string{"'09:30:00.5+02:30'"}},
	{"timestamp", []string{"'2026-03-01 09:30:00.123456'", "'infinity'", "'-infinity'", "'0044-03-15 12:00 BC'", "'12026-03-01'"}},
	{"timestamptz", []string{"'2026-03-01 09:30:00.5+02'", "'infinity'", "'-infinity'", "'0044-03-15 12:00Z BC'", "'12026-03-01 00:00Z'"}},
	{"interval", []string{"'1 year 2 mons -3 days 04:05:06.789'", "'infinity'"}},
	{"json", []string{`'{"a" : 1.0, "n": 12345678901234567890, "z": "\u0000", "b":[null]}'`, "'null'", "'1e400'", `E'{"a":\n1}'`}},
	{"jsonb", []string{`'{"n": 12345678901234567890.5, "a":"\u00eb"}'`, "'null'", `'"x"'`}},
	{"inet", []string{"'192.168.0.1/24'"}},
	{"macaddr", []string{"'08:00:2b:01:02:03'"}},
	{"bit(3)", []string{"'101'"}},
	{"varbit", []string{"'10'"}},
	{"point", []string{"'(1,2)'"}},
	{"tsvector", []string{"'a fat cat'"}},
	{"pg_lsn", []string{"'0/16B3748'"}},
	{"int4range", []string{"'[1,5)'", "'empty'"}},
	{"tstzmultirange", []string{"'{[2026-01-01,2026-01-02)}'"}},
	{"int[]", []string{"'{}'", "'{1,NULL,3}'", "'{{1,2},{3,4}}'", "'[0:1]={7,8}'"}},
	{"text[]", []string{`ARRAY['a','b c','d"e','NULL',NULL,'','{}','a,b','\']`}},
	{"timestamptz[]", []string{"'{2026-03-01 09:30:00+02,infinity}'"}},
	{"boolean[]", []string{"'{t,f}'"}},
	{"numeric[]", []string{"'{1.50,NaN}'"}},
	{"jsonb[]", []string{`ARRAY['{"a":1}','null']::jsonb[]`}},
	{"int2vector", []string{"'1 2 3'"}},
	{"box[]", []string{"'{(1,2),(3,4);(5,6),(7,8)}'"}},
	{"mood", []string{"'sad'"}},
	{"mood[]", []string{"'{sad,happy}'"}},
	{"percent", []string{"50"}},
	{"percent[]", []string{"'{1,2}'"}},
	{"stamp", []string{"'2026-03-01 09:30'"}},
	{"pair", []string{`ROW(1,'a "b"')`, "ROW(NULL,NULL)"}},
	{"pair[]", []string{"ARRAY[ROW(1,'x'),NULL]::pair[]"}},
	{"pairs", []string{"ARRAY[ROW(1,'x')]::pair[]"}},
}

// A row as the stream writes it is the row as PostgreSQL writes it, to the byte.
func TestRowsAreRowToJSON(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, sql := range []string{
		"CREATE TYPE mood AS ENUM ('sad', 'happy')", "CREATE TYPE pair AS (n int, s text)",
		"CREATE DOMAIN percent AS int CHECK (VALUE BETWEEN 0 AND 100)", "CREATE DOMAIN stamp AS timestamp(0)",
		"CREATE DOMAIN pairs AS pair[]",
	} {
		w.exec(sql)
	}
	var all []*saga.Entity
	for i, c := range typeCases {
		e := entity(fmt.Sprintf("t%d", i), "id")
		w.exec(fmt.Sprintf(`CREATE TABLE %s (id int PRIMARY KEY, "Quoted ""name" text, v %s)`, e.Name, c.typ))
		all = append(all, e)
	}
	r := w.start(nil, all...)
	for i, c := range typeCases {
		w.exec(fmt.Sprintf("INSERT INTO t%d (id) VALUES (0)", i))
		for n, value := range c.values {
			w.exec(fmt.Sprintf("INSERT INTO t%d (id, v) VALUES (%d, %s)", i, n+1, value))
		}
	}
	w.settle(r)
	for i, e := range all {
		t.Run(typeCases[i].typ, func(t *testing.T) { w.requireSame(e) })
	}
}
