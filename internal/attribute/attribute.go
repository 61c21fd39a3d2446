// Package attribute holds the typed search attributes by which sagas are found
// in Temporal. `capsaga catalog apply` creates them in the namespace; without
// them Temporal refuses a start that names them, and a workflow that sets them
// cannot go on until they are there.
package attribute

import (
	"encoding/json"

	"go.temporal.io/sdk/temporal"

	"github.com/capsaga/capsaga/saga"
)

// The search attributes.
var (
	Status     = temporal.NewSearchAttributeKeyKeyword(saga.AttributeStatus)
	ErrorClass = temporal.NewSearchAttributeKeyKeyword(saga.AttributeErrorClass)
	BlockedOn  = temporal.NewSearchAttributeKeyKeywordList(saga.AttributeBlockedOn)
	Entities   = temporal.NewSearchAttributeKeyKeywordList(saga.AttributeEntities)
	Keys       = temporal.NewSearchAttributeKeyKeywordList(saga.AttributeKeys)
)

// maxValueBytes is Temporal's limit on one search attribute's value, in JSON.
const maxValueBytes = 2048

// Start returns the attributes that a saga starts with.
func Start(w *saga.Write) []temporal.SearchAttributeUpdate {
	updates := []temporal.SearchAttributeUpdate{Status.ValueSet(string(saga.Pending))}
	if entities := fitting(w.Entities()); entities != nil {
		updates = append(updates, Entities.ValueSet(entities))
	}
	if c := w.Stream; c != nil { // its key is known before its commit
		if keys := KeysOf([]saga.Owned{{Entity: c.Entity, Key: c.Key}}); keys != nil {
			updates = append(updates, Keys.ValueSet(keys))
		}
	}
	return updates
}

// StartBatch returns the attributes that a batch starts with: its writes' rows are
// too many to be named.
func StartBatch(entities []string) []temporal.SearchAttributeUpdate {
	updates := []temporal.SearchAttributeUpdate{Status.ValueSet(string(saga.Pending))}
	if entities := fitting(entities); entities != nil {
		updates = append(updates, Entities.ValueSet(entities))
	}
	return updates
}

// KeysOf returns the owned rows as entity/KEYENC, or nil when they do not fit
// into an attribute: half a list would make a search for a key lie.
func KeysOf(owned []saga.Owned) []string {
	keys := make([]string, 0, min(len(owned), maxValueBytes))
	total := 0
	for _, o := range owned {
		key := o.Entity + "/" + o.Key
		if total += len(key); total > maxValueBytes {
			return nil
		}
		keys = append(keys, key)
	}
	return fitting(keys)
}

// fitting returns the values if Temporal takes them as one attribute, else nil.
func fitting(values []string) []string {
	encoded, err := json.Marshal(values)
	if err != nil || len(values) == 0 || len(encoded) > maxValueBytes {
		return nil
	}
	return values
}
