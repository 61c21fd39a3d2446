package ndjson

import (
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func all(t *testing.T, r *Reader) []Line {
	t.Helper()
	var lines []Line
	for {
		line, err := r.Next()
		if errors.Is(err, io.EOF) {
			return lines
		}
		require.NoError(t, err)
		lines = append(lines, line)
	}
}

func TestLinesAreCountedAndTrimmed(t *testing.T) {
	for name, test := range map[string]struct {
		input string
		want  []Line
	}{
		"empty":               {"", nil},
		"only blank lines":    {"\n  \r\n\t\n", nil},
		"no newline at end":   {"{}\n[]", []Line{{Number: 1, Data: []byte("{}")}, {Number: 2, Data: []byte("[]")}}},
		"windows":             {"{}\r\n\r\n[]\r\n", []Line{{Number: 1, Data: []byte("{}")}, {Number: 3, Data: []byte("[]")}}},
		"byte order mark":     {"\xef\xbb\xbf{}\n", []Line{{Number: 1, Data: []byte("{}")}}},
		"mark and blank line": {"\xef\xbb\xbf\n{}", []Line{{Number: 2, Data: []byte("{}")}}},
		"spaces around":       {"  {} \n", []Line{{Number: 1, Data: []byte("{}")}}},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, test.want, all(t, NewReader(strings.NewReader(test.input), 100)))
			assert.Equal(t, test.want, all(t, NewReader(iotest.OneByteReader(strings.NewReader(test.input)), 100)))
		})
	}
}

func TestTheLimitIsExact(t *testing.T) {
	for _, end := range []string{"", "\n", "\r\n"} {
		lines := all(t, NewReader(strings.NewReader(strings.Repeat("x", 100)+end), 100))
		require.Len(t, lines, 1)
		assert.NoError(t, lines[0].Err)
		assert.Len(t, lines[0].Data, 100)
		lines = all(t, NewReader(strings.NewReader(strings.Repeat("x", 101)+end), 100))
		require.Len(t, lines, 1)
		assert.Error(t, lines[0].Err)
	}
}

// TestALongLineIsPassedOver reads a line of 100 MB between two good ones and
// looks at what that allocates.
func TestALongLineIsPassedOver(t *testing.T) {
	const long = 100 << 20
	input := io.MultiReader(
		strings.NewReader("{\"a\":1}\n\""),
		io.LimitReader(repeat('x'), long-1),
		strings.NewReader("\n{\"b\":2}\n"),
	)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	lines := all(t, NewReader(input, 1<<20))
	runtime.ReadMemStats(&after)

	require.Len(t, lines, 3)
	assert.Equal(t, `{"a":1}`, string(lines[0].Data))
	assert.Equal(t, 2, lines[1].Number)
	assert.Empty(t, lines[1].Data)
	var tooLong *TooLongError
	require.ErrorAs(t, lines[1].Err, &tooLong)
	assert.EqualValues(t, long+1, tooLong.Bytes)
	assert.Equal(t, Line{Number: 3, Data: []byte(`{"b":2}`)}, lines[2])
	assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(16<<20))
}

type repeat byte

func (b repeat) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(b)
	}
	return len(p), nil
}

func TestAFailingInputIsNamedByItsLine(t *testing.T) {
	r := NewReader(io.MultiReader(strings.NewReader("{}\n{"), iotest.ErrReader(errors.New("disk"))), 100)
	_, err := r.Next()
	require.NoError(t, err)
	_, err = r.Next()
	require.ErrorContains(t, err, "line 2")
	require.ErrorContains(t, err, "disk")
}
