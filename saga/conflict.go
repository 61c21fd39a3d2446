package saga

import "encoding/json"

// Conflict is a row that kept a saga from being undone, with what an operator
// needs to decide: what others made of it, what the saga did to it, and what it
// was before.
type Conflict struct {
	Entity string `json:"entity"`
	Key    string `json:"key"` // KEYENC
	Reason string `json:"reason"`
	// Theirs is the row as it is now; absent when there is none.
	Theirs json.RawMessage `json:"theirs,omitempty"`
	// Ours is the list of the saga's mutations of the row, in its order.
	Ours json.RawMessage `json:"ours,omitempty"`
	// Before is the row as it was before the saga; absent when there was none.
	Before json.RawMessage `json:"before,omitempty"`
}
