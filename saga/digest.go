package saga

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

// Digest identifies the content of a write: the hexadecimal SHA-256 of the
// canonical JSON of its mutations, consistency and policy, defaults filled in, and
// of its before- and after-steps and its stream's change where it has some.
// Objects' keys are sorted; numbers keep their literal text, so 1 and 1.0
// differ.
//
// The ledger keeps digests for ever: the bytes that they are of must never change.
func (w *Write) Digest() string { return digestOf(w.canonical()) }

func digestOf(text []byte) string {
	if text == nil {
		return "" // a RawMessage that is not JSON: Validate and the parser let none pass
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// canonical returns what slowCanonical does, which it asks only about values that
// ParseWrite does not let pass.
func (w *Write) canonical() []byte {
	c := canonical{out: make([]byte, 0, 1024)}
	c.write(w)
	if c.doubt || !utf8.Valid(c.out) {
		return w.slowCanonical()
	}
	return c.out
}

// slowCanonical defines the text that a digest is of. It is nil for a write with a
// value that is not JSON.
func (w *Write) slowCanonical() []byte {
	normal := struct {
		Mutations   []Mutation  `json:"mutations"`
		Consistency Consistency `json:"consistency"`
		OnReject    OnReject    `json:"on_reject"`
		ParkAfter   string      `json:"park_after"`
		BeforeSteps []Task      `json:"before_steps,omitempty"`
		AfterSteps  []Task      `json:"after_steps,omitempty"`

		Stream *StreamChange `json:"stream,omitempty"`
	}{w.Mutations, w.consistencyOrDefault(), w.Policy.OnRejectOrDefault(), w.Policy.ParkAfterOrDefault().String(), w.BeforeSteps, w.AfterSteps, w.Stream}
	// The second pass sorts the keys inside of values too.
	first, err := json.Marshal(normal)
	if err != nil {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(first))
	d.UseNumber()
	var value any
	if d.Decode(&value) != nil {
		return nil
	}
	text, err := json.Marshal(value)
	if err != nil {
		return nil
	}
	return text
}

func (w *Write) consistencyOrDefault() Consistency {
	if w.Consistency == "" {
		return AP
	}
	return w.Consistency
}

// write writes the content of a write, the fields of each object in the order of
// their names.
func (c *canonical) write(w *Write) {
	c.begin('{')
	c.tasks("after_steps", w.AfterSteps)
	c.tasks("before_steps", w.BeforeSteps)
	c.text("consistency", string(w.consistencyOrDefault()))
	c.name("mutations")
	if w.Mutations == nil {
		c.raw(nil)
	} else {
		c.begin('[')
		for i := range w.Mutations {
			c.mutation(&w.Mutations[i])
		}
		c.end(']')
	}
	c.text("on_reject", string(w.Policy.OnRejectOrDefault()))
	c.text("park_after", w.Policy.ParkAfterOrDefault().String())
	if w.Stream != nil {
		c.name("stream")
		c.stream(w.Stream)
	}
	c.end('}')
}

func (c *canonical) mutation(m *Mutation) {
	c.begin('{')
	c.columns("add", m.Add)
	c.text("entity", m.Entity)
	if m.Expect != nil {
		c.name("expect")
		c.expect(m.Expect)
	}
	c.columns("key", m.Key)
	c.text("op", string(m.Op))
	c.columns("row", m.Row)
	c.columns("set", m.Set)
	c.end('}')
}

func (c *canonical) columns(name string, columns Columns) {
	if len(columns) == 0 {
		return
	}
	c.name(name)
	c.begin('{')
	var room [16]string
	names := room[:0]
	for column := range columns {
		names = append(names, column)
	}
	slices.Sort(names)
	for _, column := range names {
		c.name(column)
		c.raw(columns[column])
	}
	c.end('}')
}

func (c *canonical) expect(e *Expect) {
	c.begin('{')
	c.optionalText("etag", e.ETag)
	if e.Exists != nil {
		c.name("exists")
		c.out = strconv.AppendBool(c.out, *e.Exists)
	}
	if len(e.Where) > 0 {
		c.name("where")
		c.begin('[')
		for i := range e.Where {
			where := &e.Where[i]
			c.begin('[')
			c.out = appendText(c.out, where.Column)
			c.comma()
			c.out = appendText(c.out, where.Operator)
			c.comma()
			c.raw(where.Value)
			c.end(']')
		}
		c.end(']')
	}
	c.end('}')
}

func (c *canonical) tasks(name string, tasks []Task) {
	if len(tasks) == 0 {
		return
	}
	c.name(name)
	c.begin('[')
	for i := range tasks {
		t := &tasks[i]
		c.begin('{')
		c.text("activity", t.Activity)
		c.optionalText("compensation", t.Compensation)
		if len(t.Input) > 0 {
			c.name("input")
			c.raw(t.Input)
		}
		c.text("name", t.Name)
		c.text("task_queue", t.TaskQueue)
		if t.Timeout != 0 {
			c.text("timeout", time.Duration(t.Timeout).String())
		}
		c.end('}')
	}
	c.end(']')
}

func (c *canonical) stream(s *StreamChange) {
	c.begin('{')
	c.text("entity", s.Entity)
	c.text("key", s.Key)
	c.text("op", string(s.Op))
	c.text("sink", string(s.Sink))
	c.text("version", s.Version.String())
	c.end('}')
}

// The parts of objects and arrays. Each but end puts a comma in front where one
// belongs.

func (c *canonical) begin(bracket byte) {
	c.comma()
	c.out = append(c.out, bracket)
}

func (c *canonical) end(bracket byte) { c.out = append(c.out, bracket) }

func (c *canonical) name(name string) {
	c.comma()
	c.out = append(appendText(c.out, name), ':')
}

func (c *canonical) text(name, value string) {
	c.name(name)
	c.out = appendText(c.out, value)
}

func (c *canonical) optionalText(name, value string) {
	if value != "" {
		c.text(name, value)
	}
}
