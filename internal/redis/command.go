package redis

import (
	"strconv"
	"strings"
	"time"

	"github.com/capsaga/capsaga/saga"
)

// versionDigits is the length of a version as Redis holds it.
const versionDigits = 19

// appendArgs appends the arguments of a script after its name. It is the hot part
// of the stream to Redis: the keys and versions of all rows are pieces of one
// text, and rows are written from where they are.
func (s *Store) appendArgs(args []any, docs []saga.Document, script script, lives lifetimes) []any {
	const perRow = 3
	args = append(make([]any, 0, len(args)+5+perRow*len(script.docs)), args...)
	args = append(args, len(script.docs)+1, s.floorKey(script.entity))
	prefix := s.prefix.RedisKey(script.entity, "")
	size := 0
	for _, at := range script.docs {
		size += len(prefix) + len(docs[at].Key) + versionDigits + 1
	}
	var text strings.Builder
	text.Grow(size) // so that the pieces stay where they are
	pieces := make([]string, 0, 2*len(script.docs))
	piece := func(from int) *string {
		pieces = append(pieces, text.String()[from:])
		return &pieces[len(pieces)-1]
	}
	for _, at := range script.docs {
		from := text.Len()
		text.WriteString(prefix)
		text.WriteString(docs[at].Key)
		args = append(args, piece(from))
	}
	args = appendLives(args, script.entity, lives)
	for _, at := range script.docs {
		from := text.Len()
		writeVersion(&text, docs[at])
		args = append(args, piece(from), (*rowArg)(&docs[at]))
	}
	return args
}

// writeVersion writes the version as saga.Version.Padded does, with a "+" where
// equal is newer.
func writeVersion(text *strings.Builder, doc saga.Document) {
	var digits [versionDigits]byte
	number := strconv.AppendInt(digits[:0], int64(doc.Version), 10)
	const zeros = "0000000000000000000"
	text.WriteString(zeros[len(number):])
	text.Write(number)
	if doc.Again {
		text.WriteByte('+')
	}
}

// rowArg is a document as an argument: its row. As a pointer it costs nothing.
type rowArg saga.Document

// MarshalBinary returns the row; empty for a tombstone.
func (d *rowArg) MarshalBinary() ([]byte, error) { return d.Row, nil }

func appendLives(args []any, entity string, lives lifetimes) []any {
	ttl, tombstoneTTL := lives(entity)
	if tombstoneTTL <= 0 {
		tombstoneTTL = saga.DefaultTombstoneTTL
	}
	keyLife, rowLife := rowLives(ttl, tombstoneTTL)
	return append(args, millis(tombstoneTTL), millis(keyLife), millis(rowLife))
}

// rowLives returns how long the key of a row lives, and how long the row in it
// where that is shorter: a version is never forgotten before a tombstone would be.
func rowLives(ttl, tombstoneTTL time.Duration) (key, row time.Duration) {
	switch {
	case ttl <= 0:
		return 0, 0
	case ttl < tombstoneTTL:
		return tombstoneTTL, ttl
	}
	return ttl, 0
}

// millis rounds up, so that a short life does not become none.
func millis(d time.Duration) int64 {
	return int64((d + time.Millisecond - 1) / time.Millisecond)
}
