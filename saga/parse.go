package saga

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// ParseMutations reads a JSON list of mutations as strictly as ParseWrite reads
// those of a write.
func ParseMutations(data []byte) ([]Mutation, error) {
	if len(data) > MaxWriteBytes {
		return nil, invalid("mutations of %d bytes: at most %d are allowed", len(data), MaxWriteBytes)
	}
	if err := checkJSON(data); err != nil {
		return nil, invalid("%s", err)
	}
	if err := checkMutationFields(items(data)); err != nil {
		return nil, invalid("%s", err)
	}
	var mutations []Mutation
	if err := json.Unmarshal(data, &mutations); err != nil {
		return nil, invalid("%s", describeJSON(err))
	}
	return mutations, ValidateMutations(mutations)
}

// ParseWrite reads one write from JSON, strictly, and validates it. Unknown
// fields, a key that stands twice in an object, invalid UTF-8, more than
// MaxNesting levels and more than MaxWriteBytes are errors with
// CodeInvalidWrite.
func ParseWrite(data []byte) (*Write, error) {
	if len(data) > MaxWriteBytes {
		return nil, invalid("a write of %d bytes: at most %d are allowed; split it into several sagas", len(data), MaxWriteBytes)
	}
	w, ok := scanWrite(data)
	if !ok {
		var err error
		if w, err = slowParseWrite(data); err != nil {
			return nil, err
		}
	}
	if err := w.Validate(); err != nil {
		return nil, err
	}
	return w, nil
}

// slowParseWrite is what scanWrite does, with encoding/json. It says what is wrong
// with a write, and reads those that scanWrite leaves to it.
func slowParseWrite(data []byte) (*Write, error) {
	if err := checkJSON(data); err != nil {
		return nil, invalid("%s", err)
	}
	if err := checkFields(data); err != nil {
		return nil, invalid("%s", err)
	}
	w := new(Write)
	if err := json.Unmarshal(data, w); err != nil {
		return nil, invalid("%s", describeJSON(err))
	}
	return w, nil
}

// checkJSON walks the tokens for what encoding/json lets pass.
func checkJSON(data []byte) error {
	if !utf8.Valid(data) {
		return errors.New("not valid UTF-8")
	}
	if at := loneSurrogate(data); at >= 0 {
		return fmt.Errorf("half of a surrogate pair at byte %d: it stands for no character", at)
	}
	type level struct {
		object  bool
		wantKey bool
		keys    map[string]struct{}
	}
	var levels []level
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return errors.New(describeJSON(err))
		}
		if len(levels) > 0 {
			top := &levels[len(levels)-1]
			if key, ok := token.(string); ok && top.object && top.wantKey {
				if _, twice := top.keys[key]; twice {
					return fmt.Errorf("key %q stands twice in one object, before byte %d", key, d.InputOffset())
				}
				top.keys[key] = struct{}{}
				top.wantKey = false
				continue
			}
			if top.object {
				top.wantKey = true
			}
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			if len(levels) == MaxNesting {
				return fmt.Errorf("nested deeper than %d levels at byte %d", MaxNesting, d.InputOffset())
			}
			object := token == json.Delim('{')
			next := level{object: object, wantKey: object}
			if object {
				next.keys = map[string]struct{}{}
			}
			levels = append(levels, next)
		case json.Delim('}'), json.Delim(']'):
			levels = levels[:len(levels)-1]
		}
		if len(levels) == 0 {
			return checkEnd(d, data)
		}
	}
	return errors.New("ends before its JSON value does")
}

// loneSurrogate returns where an escape such as \ud800 stands without its other
// half, or -1. encoding/json reads each of them as the same replacement
// character, and so would make two saga ids or keys one.
func loneSurrogate(data []byte) int {
	for i := 0; i+5 < len(data); i++ {
		if data[i] != '\\' {
			continue
		}
		if data[i+1] != 'u' {
			i++ // the escaped character, which may be a backslash
			continue
		}
		first, ok := escaped(data[i:])
		if !ok {
			continue
		}
		if second, paired := escaped(data[i+6:]); paired && utf16.DecodeRune(first, second) != utf8.RuneError {
			i += 11
			continue
		}
		if utf16.IsSurrogate(first) {
			return i
		}
		i += 5
	}
	return -1
}

// escaped reads \uXXXX at the start of data.
func escaped(data []byte) (rune, bool) {
	if len(data) < 6 || data[0] != '\\' || data[1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(data[2:6]), 16, 16)
	return rune(n), err == nil
}

// checkEnd refuses anything after the value.
func checkEnd(d *json.Decoder, data []byte) error {
	if rest := bytes.TrimSpace(data[d.InputOffset():]); len(rest) > 0 {
		return fmt.Errorf("more text after the JSON value, at byte %d", d.InputOffset())
	}
	return nil
}

// checkFields compares the names of the write's own fields exactly:
// encoding/json would take "Saga_ID" for saga_id.
func checkFields(data []byte) error {
	top, err := fields(data, "", "saga_id", "mutations", "consistency", "policy", "before_steps", "after_steps", "stream")
	if err != nil {
		return err
	}
	if policy := top["policy"]; isObject(policy) {
		if _, err := fields(policy, "policy.", "on_reject", "park_after"); err != nil {
			return err
		}
	}
	if stream := top["stream"]; isObject(stream) {
		if _, err := fields(stream, "stream.", "sink", "entity", "key", "version", "op"); err != nil {
			return err
		}
	}
	for _, list := range []string{"before_steps", "after_steps"} {
		for i, task := range items(top[list]) {
			if !isObject(task) {
				continue
			}
			if _, err := fields(task, fmt.Sprintf("%s[%d].", list, i), "name", "task_queue", "activity", "input", "compensation", "timeout"); err != nil {
				return err
			}
		}
	}
	return checkMutationFields(items(top["mutations"]))
}

// items returns the elements of a list, and none of what is no list: the typed
// decoding that follows says what is wrong with it.
func items(list json.RawMessage) (elements []json.RawMessage) {
	_ = json.Unmarshal(list, &elements)
	return elements
}

func checkMutationFields(mutations []json.RawMessage) error {
	for i, m := range mutations {
		if !isObject(m) {
			continue
		}
		at := fmt.Sprintf("mutations[%d].", i)
		named, err := fields(m, at, "entity", "op", "row", "key", "set", "add", "expect")
		if err != nil {
			return err
		}
		if expect := named["expect"]; isObject(expect) {
			if _, err := fields(expect, at+"expect.", "etag", "exists", "where"); err != nil {
				return err
			}
		}
	}
	return nil
}

func isObject(raw json.RawMessage) bool { return len(raw) > 0 && bytes.TrimSpace(raw)[0] == '{' }

func fields(data json.RawMessage, at string, allowed ...string) (map[string]json.RawMessage, error) {
	if !isObject(data) {
		return nil, errors.New("want a JSON object with saga_id and mutations")
	}
	var named map[string]json.RawMessage
	if err := json.Unmarshal(data, &named); err != nil {
		return nil, errors.New(describeJSON(err))
	}
	for _, name := range sortedNames(named) {
		if !slices.Contains(allowed, name) {
			return nil, fmt.Errorf("unknown field %s%s", at, name)
		}
	}
	return named, nil
}

func describeJSON(err error) string {
	var syntax *json.SyntaxError
	var typed *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return fmt.Sprintf("malformed JSON at byte %d: %s", syntax.Offset, syntax)
	case errors.As(err, &typed):
		return fmt.Sprintf("field %s: a JSON %s does not fit", typed.Field, typed.Value)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "ends before its JSON value does"
	}
	return err.Error()
}
