package pgtext_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/capsaga/capsaga/internal/pgtext"
	"github.com/capsaga/capsaga/internal/stacktest"
)

func TestRecordForms(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		`(1,a)`:            {"1", "a"},
		`("a b","")`:       {"a b", ""},
		`("a""b","a\\b")`:  {`a"b`, `a\b`},
		`("(1,""x"")","})`: nil, // ends inside of quotes
		`(1,a`:             nil,
		`(1,\`:             nil,
		`1,a)`:             nil,
		`(1)`:              nil, // too few
		`(1,2,3)`:          nil, // too many
		``:                 nil,
	} {
		values := make([][]byte, 2)
		rest, err := pgtext.Record([]byte(text), values)
		if want == nil {
			require.Error(t, err, text)
			continue
		}
		require.NoError(t, err, text)
		require.Empty(t, rest)
		require.Equal(t, want, []string{string(values[0]), string(values[1])})
	}
	values := make([][]byte, 1)
	rest, err := pgtext.Record([]byte(`()("")`), values)
	require.NoError(t, err)
	require.Nil(t, values[0], "no character is NULL")
	rest, err = pgtext.Record(rest, values)
	require.NoError(t, err)
	require.Empty(t, rest)
	require.NotNil(t, values[0], "quotes alone are the empty text")
}

// Whatever PostgreSQL writes is read back, one record after the other.
func TestRecordsOfPostgreSQL(t *testing.T) {
	t.Parallel()
	stack := stacktest.New(t)
	conn, err := pgx.Connect(t.Context(), stack.PostgresURL)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(t.Context()) })
	text := rapid.OneOf(
		rapid.StringOf(rapid.SampledFrom([]rune(`"\(),{} `+"\t\n\r\v\f ab'ä✓"))),
		rapid.StringOf(rapid.Rune().Filter(func(r rune) bool { return r != 0 })),
	).Filter(func(s string) bool { return strings.ToValidUTF8(s, "") == s })
	rapid.Check(t, func(t *rapid.T) {
		rows := rapid.SliceOfN(rapid.SliceOfN(rapid.Ptr(text, true), 3, 3), 1, 5).Draw(t, "rows")
		var all []byte
		for _, row := range rows {
			var record string
			// The nested one has quotes in quotes.
			err := conn.QueryRow(t.Context(), "SELECT ROW($1::text, $2::text, ROW($3::text), NULL)::text", row[0], row[1], row[2]).Scan(&record)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, record...)
		}
		for _, row := range rows {
			values := make([][]byte, 4)
			rest, err := pgtext.Record(all, values)
			if err != nil {
				t.Fatalf("%q: %v", all, err)
			}
			all = rest
			inner := make([][]byte, 1)
			if rest, err := pgtext.Record(values[2], inner); err != nil || len(rest) > 0 {
				t.Fatalf("%q: %v, %q left", values[2], err, rest)
			}
			for i, got := range [][]byte{values[0], values[1], inner[0]} {
				if (got == nil) != (row[i] == nil) || got != nil && string(got) != *row[i] {
					t.Fatalf("column %d: %q, want %v", i, got, row[i])
				}
			}
			if values[3] != nil {
				t.Fatalf("NULL was read as %q", values[3])
			}
		}
		if len(all) > 0 {
			t.Fatalf("%q is left", all)
		}
	})
}

func BenchmarkRecord(b *testing.B) {
	record := []byte(`(4711,"a title with blanks",12.50,"2024-01-01 12:00:00+00",,"{""a"": 1}",plain)`)
	values := make([][]byte, 7)
	b.SetBytes(int64(len(record)))
	for b.Loop() {
		if _, err := pgtext.Record(record, values); err != nil {
			b.Fatal(err)
		}
	}
}
