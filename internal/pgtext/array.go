package pgtext

// AppendArray appends an array's text form as a JSON array, nested for more
// dimensions: {1,NULL,"a \"b\""}, after bounds such as [0:2]= where they are not
// from 1. element appends one element, whose text is valid until it returns. It
// returns false for text that is no array's; what was appended then means nothing.
func AppendArray(dst, text []byte, delimiter byte, element func(dst, text []byte) []byte) ([]byte, bool) {
	p := arrayParser{text: text, delimiter: delimiter, append: element}
	p.skipBounds()
	out, ok := p.array(dst)
	if !ok || p.at != len(p.text) {
		return dst, false
	}
	return out, true
}

type arrayParser struct {
	text      []byte
	at        int
	delimiter byte
	append    func(dst, text []byte) []byte
	value     []byte // of the element that is being read, unescaped
}

func (p *arrayParser) skipBounds() {
	if len(p.text) > 0 && p.text[0] == '[' {
		for i, c := range p.text {
			if c == '=' {
				p.at = i + 1
				return
			}
		}
	}
}

func (p *arrayParser) peek() byte {
	if p.at < len(p.text) {
		return p.text[p.at]
	}
	return 0
}

func (p *arrayParser) array(dst []byte) ([]byte, bool) {
	if p.peek() != '{' {
		return dst, false
	}
	p.at++
	dst = append(dst, '[')
	if p.peek() == '}' {
		p.at++
		return append(dst, ']'), true
	}
	for {
		var ok bool
		if p.peek() == '{' {
			dst, ok = p.array(dst)
		} else {
			dst, ok = p.element(dst)
		}
		if !ok {
			return dst, false
		}
		switch p.peek() {
		case p.delimiter:
			p.at++
			dst = append(dst, ',')
		case '}':
			p.at++
			return append(dst, ']'), true
		default:
			return dst, false
		}
	}
}

func (p *arrayParser) element(dst []byte) ([]byte, bool) {
	p.value = p.value[:0]
	quoted := p.peek() == '"'
	if quoted {
		p.at++
	}
	for p.at < len(p.text) {
		c := p.text[p.at]
		switch {
		case c == '\\' && p.at+1 < len(p.text):
			p.at++
			c = p.text[p.at]
		case quoted && c == '"':
			p.at++
			return p.append(dst, p.value), true
		case !quoted && (c == p.delimiter || c == '}'):
			if string(p.value) == "NULL" {
				return append(dst, "null"...), true
			}
			return p.append(dst, p.value), len(p.value) > 0
		}
		p.value = append(p.value, c)
		p.at++
	}
	return dst, false
}
