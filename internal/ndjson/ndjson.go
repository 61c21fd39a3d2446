// Package ndjson reads files of one JSON value a line, one line at a time. Memory
// stays bounded by the longest line that is allowed, whatever the file holds: a
// longer line is passed over while it is read, and reported with its number, so
// that the rest of the file is still processed. The package does not look into
// the JSON.
package ndjson

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// Line is one line that is not blank.
type Line struct {
	Number int    // from 1; blank lines count
	Data   []byte // without the end of the line; the caller's own
	// Err is a *TooLongError when the line is longer than is allowed; Data is
	// empty then.
	Err error
}

// TooLongError tells of a line that was passed over.
type TooLongError struct {
	Bytes, Max int64
}

func (e *TooLongError) Error() string {
	return fmt.Sprintf("a line of %d bytes: at most %d are allowed; split it into several writes", e.Bytes, e.Max)
}

// Reader reads lines.
type Reader struct {
	r      *bufio.Reader
	max    int
	number int
	read   int64
}

// bufferSize is what is read at once; a line may be longer.
const bufferSize = 64 << 10

// NewReader returns a reader of lines of at most limit bytes each.
func NewReader(r io.Reader, limit int) *Reader {
	return &Reader{r: bufio.NewReaderSize(r, bufferSize), max: limit}
}

// BytesRead is how far the reader has come in its input.
func (r *Reader) BytesRead() int64 { return r.read }

// Next returns the next line that is not blank, and io.EOF after the last. Any
// other error is the input's.
func (r *Reader) Next() (Line, error) {
	for {
		line, err := r.next()
		if err != nil || line.Err != nil || len(line.Data) > 0 {
			return line, err
		}
	}
}

// byteOrderMark begins files of some editors.
var byteOrderMark = []byte("\xef\xbb\xbf")

func (r *Reader) next() (Line, error) {
	var data []byte
	var length int64
	for {
		piece, err := r.r.ReadSlice('\n')
		r.read += int64(len(piece))
		length += int64(len(piece))
		// The line's end, CR LF at most, is not counted in the end.
		if length <= int64(r.max)+2 {
			data = append(data, piece...)
		} else {
			data = nil
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && length == 0:
			return Line{}, io.EOF
		case err != nil && !errors.Is(err, io.EOF):
			return Line{}, fmt.Errorf("read line %d: %w", r.number+1, err)
		}
		r.number++
		return r.line(data, length), nil
	}
}

func (r *Reader) line(data []byte, length int64) Line {
	if r.number == 1 {
		data = bytes.TrimPrefix(data, byteOrderMark)
	}
	data = bytes.TrimSpace(data)
	if length > int64(r.max)+2 || len(data) > r.max {
		return Line{Number: r.number, Err: &TooLongError{Bytes: length, Max: int64(r.max)}}
	}
	return Line{Number: r.number, Data: data}
}
