package saga

import "encoding/json"

// Document is a row as a sink holds it: what a compare-and-set writes, and what
// a read returns.
type Document struct {
	Entity  string
	Key     string // KEYENC
	Version Version
	// Row is the row's columns as one JSON object; nil means that the row was
	// deleted and that the version is its tombstone's.
	Row json.RawMessage
	// Again says that an earlier part of the same transaction may have been applied
	// at the same version: then equal is newer.
	Again bool
}

// Deleted reports whether the document is a tombstone.
func (d Document) Deleted() bool { return d.Row == nil }

// Applied is the outcome of one compare-and-set.
type Applied struct {
	// Changed is false when the sink already held this version or a newer one,
	// which is success too.
	Changed bool
	// Err is a classified *Error when the sink did not take the document.
	Err error
}
