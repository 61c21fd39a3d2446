package pgtext

import (
	"bytes"
	"errors"
)

var (
	errNoRecord    = errors.New("read a record: want ( at its beginning")
	errUnendedText = errors.New("read a record: it ends in the middle of a value")
	errFieldCount  = errors.New("read a record: it has another number of columns than its head says")
)

// Record reads the text form of a record, such as (1,"a ""b""",), at the beginning
// of src, and returns what follows it. It fills values, of which there are as many
// as the record has columns; nil is NULL. Values share memory with src unless they
// had to be unescaped.
func Record(src []byte, values [][]byte) (rest []byte, err error) {
	if len(src) == 0 || src[0] != '(' {
		return nil, errNoRecord
	}
	src = src[1:]
	for i := range values {
		if values[i], src, err = recordValue(src); err != nil {
			return nil, err
		}
		want := byte(',')
		if i == len(values)-1 {
			want = ')'
		}
		if len(src) == 0 || src[0] != want {
			return nil, errFieldCount
		}
		src = src[1:]
	}
	return src, nil
}

// recordValue reads a value up to the comma or parenthesis behind it. Without a
// single character it is NULL; the empty text is written as "".
func recordValue(src []byte) (value, rest []byte, err error) {
	end := bytes.IndexAny(src, `,)"\`)
	switch {
	case end < 0:
		return nil, nil, errUnendedText
	case src[end] == ',' || src[end] == ')':
		if end == 0 {
			return nil, src, nil
		}
		return src[:end:end], src[end:], nil
	}
	if src[0] == '"' { // nearly always the whole value is quoted, and often nothing in it is
		if end := 1 + bytes.IndexAny(src[1:], `"\`); end > 0 && src[end] == '"' && end+1 < len(src) && (src[end+1] == ',' || src[end+1] == ')') {
			return src[1:end:end], src[end+1:], nil
		}
	}
	return unescapeValue(src)
}

// unescapeValue takes quotes off, wherever they are: they are doubled inside of
// quotes, and a backslash stands before any character.
func unescapeValue(src []byte) (value, rest []byte, err error) {
	value = []byte{}
	quoted := false
	for i := 0; i < len(src); i++ {
		switch c := src[i]; {
		case c == '\\':
			if i++; i == len(src) {
				return nil, nil, errUnendedText
			}
			value = append(value, src[i])
		case c == '"' && quoted && i+1 < len(src) && src[i+1] == '"':
			i++
			value = append(value, c)
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ',' || c == ')'):
			return value, src[i:], nil
		default:
			value = append(value, c)
		}
	}
	return nil, nil, errUnendedText
}
