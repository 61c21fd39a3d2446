package saga

import (
	"bytes"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// scanner reads JSON once, from left to right. It takes what checkJSON takes:
// RFC 8259 without names that stand twice in one object, without halves of
// surrogate pairs, and at most MaxNesting levels deep. Each method passes over
// white space, reads one thing and returns false if it is not there. After a
// false nothing that was read may be used: the slow path finds the error's text.
//
// That the text is valid UTF-8 is for the caller to check.
type scanner struct {
	data  []byte
	at    int // of the next byte
	depth int
	names [][]byte // those of the objects that are open
	text  []byte   // room for a string with escapes
}

// next returns the next byte that is no white space, and 0 at the end.
func (s *scanner) next() byte {
	for ; s.at < len(s.data); s.at++ {
		switch c := s.data[s.at]; c {
		case ' ', '\t', '\n', '\r':
		default:
			return c
		}
	}
	return 0
}

func (s *scanner) take(c byte) bool {
	if s.next() != c {
		return false
	}
	s.at++
	return true
}

// end reports whether nothing follows.
func (s *scanner) end() bool { return s.next() == 0 && s.at == len(s.data) }

// object calls member for each name, to read its value.
func (s *scanner) object(member func(name []byte) bool) bool {
	if !s.take('{') || s.depth == MaxNesting {
		return false
	}
	s.depth++
	first := len(s.names)
	for more := !s.take('}'); more; {
		name, ok := s.name()
		if !ok || !s.take(':') {
			return false
		}
		s.names = append(s.names, name)
		if !member(name) {
			return false
		}
		if more = s.take(','); !more && !s.take('}') {
			return false
		}
	}
	unique := distinct(s.names[first:])
	s.names = s.names[:first]
	s.depth--
	return unique
}

// array calls element to read each value.
func (s *scanner) array(element func() bool) bool {
	if !s.take('[') || s.depth == MaxNesting {
		return false
	}
	s.depth++
	for more := !s.take(']'); more; {
		if !element() {
			return false
		}
		if more = s.take(','); !more && !s.take(']') {
			return false
		}
	}
	s.depth--
	return true
}

// skip reads any value.
func (s *scanner) skip() bool {
	switch s.next() {
	case '{':
		return s.object(func([]byte) bool { return s.skip() })
	case '[':
		return s.array(s.skip)
	case '"':
		_, ok := s.string()
		return ok
	}
	return s.literal()
}

// string reads a string. The result holds until the next one is read.
func (s *scanner) string() ([]byte, bool) {
	text, escaped, ok := s.quoted()
	if ok && escaped {
		s.text, ok = unescape(s.text[:0], text)
		text = s.text
	}
	return text, ok
}

// name reads a string whose result stays.
func (s *scanner) name() ([]byte, bool) {
	text, escaped, ok := s.quoted()
	if ok && escaped {
		text, ok = unescape(nil, text)
	}
	return text, ok
}

// quoted reads a string and returns what is between its quotes, and whether there
// are escapes in it, which it does not check.
func (s *scanner) quoted() (text []byte, escaped, ok bool) {
	if !s.take('"') {
		return nil, false, false
	}
	for i := s.at; i < len(s.data); i++ {
		switch c := s.data[i]; {
		case c == '"':
			text, s.at = s.data[s.at:i], i+1
			return text, escaped, true
		case c == '\\':
			escaped = true
			i++
		case c < ' ':
			return nil, false, false
		}
	}
	return nil, false, false
}

// literal reads a number, true, false or null.
func (s *scanner) literal() bool {
	switch s.next() {
	case 't':
		return s.word("true")
	case 'f':
		return s.word("false")
	case 'n':
		return s.word("null")
	}
	return s.number()
}

func (s *scanner) word(word string) bool {
	if !bytes.HasPrefix(s.data[s.at:], []byte(word)) {
		return false
	}
	s.at += len(word)
	return true
}

func (s *scanner) number() bool {
	s.follows("-")
	if !s.follows("0") && !s.digits() {
		return false
	}
	if s.follows(".") && !s.digits() {
		return false
	}
	if s.follows("eE") {
		s.follows("+-")
		return s.digits()
	}
	return true
}

// follows takes the very next byte if it is one of a set.
func (s *scanner) follows(set string) bool {
	if s.at == len(s.data) || strings.IndexByte(set, s.data[s.at]) < 0 {
		return false
	}
	s.at++
	return true
}

func (s *scanner) digits() bool {
	from := s.at
	for s.at < len(s.data) && s.data[s.at] >= '0' && s.data[s.at] <= '9' {
		s.at++
	}
	return s.at > from
}

// distinct reports whether no name stands twice. It may sort them.
func distinct(names [][]byte) bool {
	rising := func() bool {
		for i := 1; i < len(names); i++ {
			if bytes.Compare(names[i-1], names[i]) >= 0 {
				return false
			}
		}
		return true
	}
	if rising() {
		return true
	}
	slices.SortFunc(names, bytes.Compare)
	return rising()
}

// unescape appends the text that is written between the quotes of a string.
func unescape(to, quoted []byte) ([]byte, bool) {
	for len(quoted) > 0 {
		plain := bytes.IndexByte(quoted, '\\')
		if plain < 0 {
			return append(to, quoted...), true
		}
		to = append(to, quoted[:plain]...)
		quoted = quoted[plain:]
		if len(quoted) < 2 {
			return to, false
		}
		switch c := quoted[1]; c {
		case '"', '\\', '/':
			to = append(to, c)
		case 'b':
			to = append(to, '\b')
		case 'f':
			to = append(to, '\f')
		case 'n':
			to = append(to, '\n')
		case 'r':
			to = append(to, '\r')
		case 't':
			to = append(to, '\t')
		default: // \uXXXX, or none
			r, ok := escaped(quoted)
			if ok && utf16.IsSurrogate(r) {
				quoted = quoted[6:]
				low, paired := escaped(quoted)
				r = utf16.DecodeRune(r, low)
				ok = paired && r != utf8.RuneError
			}
			if !ok {
				return to, false
			}
			to = utf8.AppendRune(to, r)
			quoted = quoted[6:]
			continue
		}
		quoted = quoted[2:]
	}
	return to, true
}
