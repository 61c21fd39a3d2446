package stream

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// encodeTuple writes a tuple as PostgreSQL does.
func encodeTuple(dst []byte, kind byte, tuple Tuple) []byte {
	dst = binary.BigEndian.AppendUint16(append(dst, kind), uint16(len(tuple))) //nolint:gosec // short
	for _, v := range tuple {
		dst = append(dst, byte(v.Kind))
		if v.Kind == Text {
			dst = append(binary.BigEndian.AppendUint32(dst, uint32(len(v.Text))), v.Text...) //nolint:gosec // short
		}
	}
	return dst
}

func drawTuple(t *rapid.T, label string) Tuple {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Value {
		v := Value{Kind: rapid.SampledFrom([]Kind{Null, Unchanged, Text}).Draw(t, "kind")}
		if v.Kind == Text {
			v.Text = rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "text")
		}
		return v
	}), 0, 6).Draw(t, label)
}

// A row's message is read as it was written, whatever becomes of the buffer; one
// that is cut short is an error.
func TestParseRowProperty(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := Change{Op: rapid.SampledFrom([]Op{Insert, Update, Delete}).Draw(t, "op")}
		data := binary.BigEndian.AppendUint32([]byte{byte(want.Op)}, 4_000_000_000)
		if want.Op == Delete || want.Op == Update && rapid.Bool().Draw(t, "has old") {
			want.Old, want.OldFull = drawTuple(t, "old"), rapid.Bool().Draw(t, "full")
			kind := byte('K')
			if want.OldFull {
				kind = 'O'
			}
			data = encodeTuple(data, kind, want.Old)
		}
		if want.Op != Delete {
			want.New = drawTuple(t, "new")
			data = encodeTuple(data, 'N', want.New)
		}
		message, err := parse(data)
		require.NoError(t, err)
		buffer := append([]byte(nil), data...)
		clear(data)
		got := message.(*row)
		require.Equal(t, uint32(4_000_000_000), got.relation)
		require.Equal(t, want.Op, got.change.Op)
		require.Equal(t, want.OldFull, got.change.OldFull)
		requireTuple(t, want.Old, got.change.Old)
		requireTuple(t, want.New, got.change.New)
		if cut := rapid.IntRange(1, len(buffer)).Draw(t, "cut"); cut < len(buffer) {
			_, err := parse(buffer[:cut])
			require.Error(t, err, "cut at %d of %d", cut, len(buffer))
		}
	})
}

func requireTuple(t *rapid.T, want, got Tuple) {
	require.Len(t, got, len(want))
	for i := range want {
		require.Equal(t, want[i].Kind, got[i].Kind)
		require.Equal(t, string(want[i].Text), string(got[i].Text))
	}
}

func TestParseGarbage(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		data := rapid.SliceOf(rapid.Byte()).Draw(t, "data")
		op := rapid.SampledFrom([]byte("IUD")).Draw(t, "op")
		_, _ = parse(append([]byte{op}, data...)) // does not panic
	})
}
