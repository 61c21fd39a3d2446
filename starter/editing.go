package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/capsaga/capsaga/internal/catalog"
	"github.com/capsaga/capsaga/internal/config"
	"github.com/capsaga/capsaga/saga"
)

// operationOf reads what is to be done from the flags.
func (a *app) operationOf(o *operation) (saga.Operation, error) {
	op := saga.Operation{Action: o.action, Step: saga.StepName(o.step), Reason: o.reason, Row: o.row}
	if o.action != saga.ActionEdit {
		return op, nil
	}
	var err error
	switch {
	case len(o.set) == 0 && o.patch == "":
		return op, usagef("an edit needs --set COLUMN=JSON or --patch; see `capsaga edit --help`")
	case len(o.set) > 0 && o.patch != "":
		return op, usagef("--set and --patch do not go together: a patch says all")
	case o.row != "" && o.patch != "":
		return op, usagef("--row goes with --set: a patch names its rows")
	case o.patch != "":
		op.Mutations, err = a.mutations(o.patch)
	default:
		op.Set, err = parseSet(o.set)
	}
	return op, err
}

// parseSet reads COLUMN=JSON.
func parseSet(texts []string) (saga.Columns, error) {
	set := saga.Columns{}
	for _, text := range texts {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return nil, usagef("--set %q: want COLUMN=JSON", text)
		}
		if !json.Valid([]byte(value)) {
			quoted, _ := json.Marshal(value) // a text always is
			return nil, usagef("--set %s: the value is not JSON: a text is written %s", text, shellWord(name+"="+string(quoted)))
		}
		if _, again := set[name]; again {
			return nil, usagef("--set %s: column %s is set twice", text, name)
		}
		set[name] = json.RawMessage(value)
	}
	return set, nil
}

// mutations reads a --patch as strictly as a write.
func (a *app) mutations(patch string) ([]saga.Mutation, error) {
	text := []byte(patch)
	var err error
	if patch == "-" {
		text, err = io.ReadAll(io.LimitReader(a.stdin, saga.MaxWriteBytes+1))
	} else if name, ok := strings.CutPrefix(patch, "@"); ok {
		text, err = os.ReadFile(name)
	}
	if err != nil {
		return nil, fmt.Errorf("--patch: %w", err)
	}
	text = bytes.TrimSpace(text)
	if !bytes.HasPrefix(text, []byte("[")) {
		return nil, usagef(`--patch: want a JSON list of mutations, as [{"entity":"products","op":"patch","key":{"id":42},"set":{"title":"Lamp"}}]`)
	}
	w, err := saga.ParseWrite(fmt.Appendf(nil, `{"saga_id":"edit","mutations":%s}`, text))
	if err != nil {
		var e *saga.Error
		if errors.As(err, &e) {
			return nil, usagef("--patch: %s", e.Message)
		}
		return nil, usagef("--patch: %w", err)
	}
	return w.Mutations, nil
}

// patchOf turns the columns to set into a mutation of the row that the saga owns.
func (a *app) patchOf(ctx context.Context, c config.Config, sagaID string, op saga.Operation) (saga.Operation, error) {
	file, err := catalog.Load(c.CatalogPath)
	if err != nil {
		return op, err
	}
	s, err := a.lookUp(ctx, c, sagaID)
	if err != nil {
		return op, err
	}
	patch, err := file.Catalog.RowPatch(&s.Outcome, op.Row, op.Set)
	if err != nil {
		return op, usagef("%w; --row ENTITY/KEY names a row, --patch gives the mutations whole", err)
	}
	op.Mutations, op.Set, op.Row = []saga.Mutation{patch}, nil, ""
	return op, nil
}

// digest names a text.
func digest(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}
