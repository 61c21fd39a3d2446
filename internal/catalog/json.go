package catalog

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/capsaga/capsaga/saga"
)

// object returns a mapping of the file as a JSON object, with its members in the
// file's order and numbers as they are written. Nothing gives nil.
func (d *decoder) object(f field) json.RawMessage {
	if f.Kind == yaml.ScalarNode && f.ShortTag() == "!!null" {
		return nil
	}
	if f.Kind != yaml.MappingNode {
		d.problem(f, "want an object, got %s", kindOf(f.Node))
		return nil
	}
	var b bytes.Buffer
	d.json(&b, f, 1)
	return b.Bytes()
}

func (d *decoder) json(b *bytes.Buffer, f field, depth int) {
	if depth > saga.MaxNesting {
		d.problem(f, "nested deeper than %d levels", saga.MaxNesting)
		return
	}
	switch f.Kind {
	case yaml.MappingNode:
		d.jsonObject(b, f, depth)
	case yaml.SequenceNode:
		b.WriteByte('[')
		for i, item := range d.items(f) {
			if i > 0 {
				b.WriteByte(',')
			}
			d.json(b, item, depth+1)
		}
		b.WriteByte(']')
	default:
		d.jsonScalar(b, f)
	}
}

func (d *decoder) jsonObject(b *bytes.Buffer, f field, depth int) {
	b.WriteByte('{')
	for i, m := range d.members(f) {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(quote(m.name))
		b.WriteByte(':')
		d.json(b, m, depth+1)
	}
	b.WriteByte('}')
}

func (d *decoder) jsonScalar(b *bytes.Buffer, f field) {
	switch f.ShortTag() {
	case "!!null":
		b.WriteString("null")
	case "!!bool":
		b.WriteString(strings.ToLower(f.Value))
	case "!!int", "!!float":
		text, err := jsonNumber(f.Value)
		if err != nil {
			d.problem(f, "%s", err)
			return
		}
		b.WriteString(text)
	case "!!str", "!!timestamp": // JSON has no dates: the text is what was meant
		b.Write(quote(f.Value))
	default:
		d.problem(f, "%s has no form in JSON", kindOf(f.Node))
	}
}

// jsonNumber keeps a number's text; only YAML's own forms, such as 0x10 and .5,
// are written anew, without loss.
func jsonNumber(text string) (string, error) {
	if json.Valid([]byte(text)) {
		return text, nil
	}
	if n, ok := new(big.Int).SetString(text, 0); ok {
		return n.String(), nil
	}
	sign, digits := "", strings.ReplaceAll(text, "_", "")
	switch digits[:1] {
	case "-":
		sign, digits = "-", digits[1:]
	case "+":
		digits = digits[1:]
	}
	mantissa, exponent, _ := strings.Cut(strings.ToLower(digits), "e")
	whole, fraction, _ := strings.Cut(mantissa, ".")
	whole = strings.TrimLeft(whole, "0")
	if whole == "" {
		whole = "0"
	}
	number := sign + whole
	if fraction != "" {
		number += "." + fraction
	}
	if exponent != "" {
		number += "e" + exponent
	}
	if !json.Valid([]byte(number)) {
		return "", fmt.Errorf("the number %s has no form in JSON", text)
	}
	return number, nil
}

// quote writes a JSON string without escaping <, > and &, which no page shows.
func quote(s string) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string always encodes
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
