package saga

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// StreamChange is a change of one row that plain SQL has committed, and that a
// sink refused when the sink's stream brought it. The saga of such a write commits
// nothing: it only brings the row to that sink, and waits for an operator while the
// sink goes on refusing it. Capsaga's own streams write them, and nobody else.
type StreamChange struct {
	Sink   Sink   `json:"sink"` // that refused the row: redis or elasticsearch
	Entity string `json:"entity"`
	Key    string `json:"key"` // KEYENC
	// Version is that of the change that was refused first. Later changes of the row
	// that are refused while the saga is open become part of it.
	Version Version `json:"version"`
	Op      Op      `json:"op"` // of that change: upsert (the row was there after it) or delete
}

// maxStreamName keeps the ids of the sagas of the streams within MaxSagaIDBytes.
const maxStreamName = MaxSagaIDBytes - len("cdc-") - len(Elasticsearch) - len("--9223372036854775807")

// maxStreamEntity is how much of an entity's name such an id has where the name
// with the key is too long for it.
const maxStreamEntity = 100

// Row names the row in its sink, in at most MaxSagaIDBytes bytes. An entity's name
// has no "-" and a key no "@", so two rows have two names: what is too long is
// told by a digest.
func (c *StreamChange) Row() string {
	name := c.Entity + "-" + c.Key
	if len(name) > maxStreamName {
		sum := sha256.Sum256([]byte(name))
		name = c.Entity[:min(len(c.Entity), maxStreamEntity)] + "-@" + hex.EncodeToString(sum[:16])
	}
	return string(c.Sink) + "-" + name
}

// SagaID returns the id of the saga that the change begins.
func (c *StreamChange) SagaID() string { return "cdc-" + c.Row() + "-" + c.Version.String() }

// SkippedSagaID returns the id of the one saga that keeps all waivers of the row,
// where the catalog says that what the sink refuses is skipped.
func (c *StreamChange) SkippedSagaID() string { return "cdc-" + c.Row() + "-skipped" }

// Target names the row for people: "products/42".
func (c *StreamChange) Target() string { return c.Entity + "/" + c.Key }

// Summary says in one line what was changed and who refused it.
func (c *StreamChange) Summary() string {
	did := "written"
	if c.Op == Delete {
		did = "deleted"
	}
	return fmt.Sprintf("%s %s by SQL, refused by %s", c.Target(), did, c.Sink)
}

// validate checks the change, which goes with a saga id alone.
func (c *StreamChange) validate() error {
	switch {
	case c.Sink != Redis && c.Sink != Elasticsearch:
		return fmt.Errorf("sink %q: want redis or elasticsearch", c.Sink)
	case !ValidEntityName(c.Entity):
		return fmt.Errorf("entity %q: want the name of an entity of the catalog", c.Entity)
	case c.Key == "":
		return fmt.Errorf("key is missing")
	case c.Version <= 0:
		return fmt.Errorf("version %s: want that of the change", c.Version)
	case c.Op != Upsert && c.Op != Delete:
		return fmt.Errorf("op %q: want upsert or delete", c.Op)
	}
	if _, err := DecodeKey(c.Key); err != nil {
		return err
	}
	return nil
}

// validateStream checks the write of a saga that commits nothing.
func (w *Write) validateStream() error {
	empty := Write{SagaID: w.SagaID, Stream: w.Stream}
	if len(w.Mutations) > 0 || len(w.BeforeSteps) > 0 || len(w.AfterSteps) > 0 || w.Consistency != empty.Consistency || w.Policy != empty.Policy {
		return invalid("stream goes with saga_id alone: plain SQL has committed the change already, so there is nothing to mutate, and the policy is the catalog's")
	}
	if err := w.Stream.validate(); err != nil {
		return invalid("stream: %s", err)
	}
	return nil
}

// ETagUnknown stands for the etag of a row that is there but was written by plain
// SQL: the WAL does not tell it. No row has this etag, so it meets no expectation.
const ETagUnknown = "unknown"

// Refused is a row that a sink refused for good, of a change that plain SQL had
// committed.
type Refused struct {
	Sink    Sink
	Entity  *Entity
	Key     string // KEYENC
	Version Version
	Deleted bool
	Error   ErrorInfo
}

// Write returns the write of the saga that the refusal begins.
func (r *Refused) Write() Write {
	change := &StreamChange{Sink: r.Sink, Entity: r.Entity.Name, Key: r.Key, Version: r.Version, Op: Upsert}
	if r.Deleted {
		change.Op = Delete
	}
	return Write{SagaID: change.SagaID(), Stream: change}
}

// Owned returns the row as the saga has it.
func (r *Refused) Owned() Owned {
	o := Owned{Entity: r.Entity.Name, Key: r.Key, ETag: ETagUnknown}
	if r.Deleted {
		o.ETag = ""
	}
	return o
}
