package saga

import (
	"bytes"
	"slices"
)

// canonical writes canonical JSON: no white space, objects' names sorted, texts
// as encoding/json writes them, numbers as they came. It gives the bytes that
// slowCanonical gives, or has doubts.
type canonical struct {
	out []byte
	// doubt is set where a value is not one that scanner takes. Then slowCanonical
	// has to decide, and out is of no use.
	doubt   bool
	scan    scanner // of the value that is being copied
	members []member
	spare   []byte // room for members that change places
}

// member is a name with its value in an object that is being copied.
type member struct {
	name     []byte
	from, to int // where both stand in out, with a comma behind them
}

// raw copies any JSON value.
func (c *canonical) raw(value []byte) {
	if value == nil {
		value = []byte("null") // as a json.RawMessage has it
	}
	c.scan = scanner{data: value, names: c.scan.names[:0], text: c.scan.text}
	if !c.value() || !c.scan.end() {
		c.doubt = true
	}
}

func (c *canonical) value() bool {
	s := &c.scan
	switch s.next() {
	case '{':
		return c.object()
	case '[':
		c.out = append(c.out, '[')
		ok := s.array(func() bool {
			c.comma()
			return c.value()
		})
		c.out = append(c.out, ']')
		return ok
	case '"':
		text, ok := s.string()
		c.out = appendText(c.out, text)
		return ok
	}
	from := s.at
	ok := s.literal()
	c.out = append(c.out, s.data[from:s.at]...)
	return ok
}

func (c *canonical) object() bool {
	c.out = append(c.out, '{')
	start, outer := len(c.out), len(c.members)
	ok := c.scan.object(func(name []byte) bool {
		m := member{name: name, from: len(c.out)}
		c.out = append(appendText(c.out, name), ':')
		ok := c.value()
		c.out = append(c.out, ',')
		m.to = len(c.out)
		c.members = append(c.members, m)
		return ok
	})
	c.sort(c.members[outer:], start)
	c.members = c.members[:outer]
	if len(c.out) > start {
		c.out = c.out[:len(c.out)-1] // the last comma
	}
	c.out = append(c.out, '}')
	return ok
}

// sort brings the members that stand in out from start on into the order of
// their names.
func (c *canonical) sort(members []member, start int) {
	byName := func(a, b member) int { return bytes.Compare(a.name, b.name) }
	if slices.IsSortedFunc(members, byName) {
		return
	}
	slices.SortFunc(members, byName)
	c.spare = c.spare[:0]
	for _, m := range members {
		c.spare = append(c.spare, c.out[m.from:m.to]...)
	}
	copy(c.out[start:], c.spare)
}

// comma separates what follows from a value that stands before it.
func (c *canonical) comma() {
	if len(c.out) == 0 {
		return
	}
	switch c.out[len(c.out)-1] {
	case '{', '[', ':':
	default:
		c.out = append(c.out, ',')
	}
}

// asIs tells the bytes that encoding/json writes into a string as they are. Of
// those that are not ASCII, it escapes U+2028 and U+2029.
var asIs = func() (plain [256]bool) {
	for c := ' '; c <= 0xff; c++ {
		plain[c] = c != '"' && c != '\\' && c != '<' && c != '>' && c != '&' && c != 0xe2
	}
	return plain
}()

// appendText appends a valid UTF-8 text as a JSON string, as encoding/json does.
func appendText[Text string | []byte](out []byte, text Text) []byte {
	const hex = "0123456789abcdef"
	out = append(out, '"')
	done := 0
	for i := 0; i < len(text); i++ {
		c := text[i]
		if asIs[c] {
			continue
		}
		if c == 0xe2 { // U+2028 is e2 80 a8, U+2029 is e2 80 a9
			if i+2 < len(text) && text[i+1] == 0x80 && text[i+2]&^1 == 0xa8 {
				out = append(out, text[done:i]...)
				out = append(out, `\u202`...)
				out = append(out, hex[text[i+2]&15])
				done = i + 3
			}
			continue
		}
		out = append(out, text[done:i]...)
		done = i + 1
		switch c {
		case '"', '\\':
			out = append(out, '\\', c)
		case '\b':
			out = append(out, `\b`...)
		case '\f':
			out = append(out, `\f`...)
		case '\n':
			out = append(out, `\n`...)
		case '\r':
			out = append(out, `\r`...)
		case '\t':
			out = append(out, `\t`...)
		default:
			out = append(out, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	out = append(out, text[done:]...)
	return append(out, '"')
}
