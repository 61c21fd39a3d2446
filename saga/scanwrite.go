package saga

import (
	"bytes"
	"encoding"
	"encoding/json"
	"unicode/utf8"
)

// scanWrite reads a write in one pass, as slowParseWrite does in several. It
// returns false for all that it would refuse, and for what is seldom written, such
// as null for a field.
func scanWrite(data []byte) (*Write, bool) {
	if !utf8.Valid(data) {
		return nil, false
	}
	var room [32][]byte
	// The columns' values become parts of the copy.
	s := scanner{data: bytes.Clone(data), names: room[:0]}
	w := new(Write)
	return w, s.write(w) && s.end()
}

func (s *scanner) write(w *Write) bool {
	return s.object(func(name []byte) bool {
		switch string(name) {
		case "saga_id":
			return scanString(s, &w.SagaID)
		case "mutations":
			return scanList(s, &w.Mutations, s.mutation)
		case "consistency":
			return scanString(s, &w.Consistency)
		case "policy":
			return s.policy(&w.Policy)
		case "before_steps":
			return scanList(s, &w.BeforeSteps, s.task)
		case "after_steps":
			return scanList(s, &w.AfterSteps, s.task)
		case "stream":
			w.Stream = new(StreamChange)
			return s.stream(w.Stream)
		}
		return false
	})
}

func (s *scanner) policy(p *Policy) bool {
	return s.object(func(name []byte) bool {
		switch string(name) {
		case "on_reject":
			return scanString(s, &p.OnReject)
		case "park_after":
			return s.textOf(&p.ParkAfter)
		}
		return false
	})
}

func (s *scanner) stream(c *StreamChange) bool {
	return s.object(func(name []byte) bool {
		switch string(name) {
		case "sink":
			return scanString(s, &c.Sink)
		case "entity":
			return scanString(s, &c.Entity)
		case "key":
			return scanString(s, &c.Key)
		case "version":
			return s.textOf(&c.Version)
		case "op":
			return scanString(s, &c.Op)
		}
		return false
	})
}

func (s *scanner) task(t *Task) bool {
	return s.object(func(name []byte) bool {
		switch string(name) {
		case "name":
			return scanString(s, &t.Name)
		case "task_queue":
			return scanString(s, &t.TaskQueue)
		case "activity":
			return scanString(s, &t.Activity)
		case "input":
			return s.raw(&t.Input)
		case "compensation":
			return scanString(s, &t.Compensation)
		case "timeout":
			return s.textOf(&t.Timeout)
		}
		return false
	})
}

func (s *scanner) mutation(m *Mutation) bool {
	return s.object(func(name []byte) bool {
		switch string(name) {
		case "entity":
			return scanString(s, &m.Entity)
		case "op":
			return scanString(s, &m.Op)
		case "row":
			return s.columns(&m.Row)
		case "key":
			return s.columns(&m.Key)
		case "set":
			return s.columns(&m.Set)
		case "add":
			return s.columns(&m.Add)
		case "expect":
			m.Expect = new(Expect)
			return s.expect(m.Expect)
		}
		return false
	})
}

func (s *scanner) expect(e *Expect) bool {
	return s.object(func(name []byte) bool {
		switch string(name) {
		case "etag":
			return scanString(s, &e.ETag)
		case "exists":
			e.Exists = new(s.next() == 't')
			return s.word("true") || s.word("false")
		case "where":
			return scanList(s, &e.Where, s.condition)
		}
		return false
	})
}

func (s *scanner) condition(c *Condition) bool {
	parts := 0
	ok := s.array(func() bool {
		parts++
		switch parts {
		case 1:
			return scanString(s, &c.Column)
		case 2:
			return scanString(s, &c.Operator)
		case 3:
			return s.raw(&c.Value)
		}
		return false
	})
	return ok && parts == 3
}

func (s *scanner) columns(c *Columns) bool {
	columns := Columns{}
	*c = columns
	return s.object(func(name []byte) bool {
		var value json.RawMessage
		ok := s.raw(&value)
		columns[string(name)] = value
		return ok
	})
}

// raw reads any value and keeps its text, a part of the data.
func (s *scanner) raw(to *json.RawMessage) bool {
	s.next()
	from := s.at
	ok := s.skip()
	*to = s.data[from:s.at:s.at]
	return ok
}

// textOf reads a string into what has a form of its own.
func (s *scanner) textOf(to encoding.TextUnmarshaler) bool {
	text, ok := s.string()
	return ok && to.UnmarshalText(text) == nil
}

func scanString[T ~string](s *scanner, to *T) bool {
	text, ok := s.string()
	*to = T(text)
	return ok
}

// scanList reads an array, of which element reads one value. As for
// encoding/json, an empty one is not nil.
func scanList[T any](s *scanner, to *[]T, element func(*T) bool) bool {
	*to = []T{}
	return s.array(func() bool {
		var value T
		*to = append(*to, value)
		return element(&(*to)[len(*to)-1])
	})
}
