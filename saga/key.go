package saga

import (
	"fmt"
	"net/url"
	"strings"
)

// MaxDocumentKeyBytes is the longest KEYENC that can be an Elasticsearch id.
const MaxDocumentKeyBytes = 512

// CheckDocumentKey returns a rejected *Error for a key (KEYENC) that cannot be an
// Elasticsearch id.
func CheckDocumentKey(entity, key string) error {
	if len(key) <= MaxDocumentKeyBytes {
		return nil
	}
	return &Error{
		Class: Rejected, System: string(Elasticsearch), Code: CodeInvalidValue,
		Message: fmt.Sprintf("the key %.40s… of %s has %d bytes in its encoded form, and a document's id at most %d: shorten the key, or take elasticsearch from the entity's sinks",
			key, entity, len(key), MaxDocumentKeyBytes),
	}
}

// emptyKey stands for a key whose only column is the empty string, because an
// Elasticsearch id cannot be empty. No PostgreSQL text holds a NUL, so no other
// key encodes to it.
const emptyKey = "%00"

// EncodeKey returns the KEYENC of a row: the text forms of its key columns, in
// the catalog's order, each percent-encoded and joined by ":". Two different
// keys never encode to the same string: ":" and "%" appear in a column's part
// only encoded. Bytes outside A-Z a-z 0-9 - . _ ~ are encoded.
func EncodeKey(columns []string) string {
	var b strings.Builder
	for i, column := range columns {
		if i > 0 {
			b.WriteByte(':')
		}
		escapeKeyColumn(&b, column)
	}
	if b.Len() == 0 {
		return emptyKey
	}
	return b.String()
}

func escapeKeyColumn(b *strings.Builder, column string) {
	const hex = "0123456789ABCDEF"
	for i := range len(column) {
		c := column[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-._~", c) >= 0:
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		}
	}
}

// DecodeKey returns the text forms of the key columns of a KEYENC.
func DecodeKey(key string) ([]string, error) {
	if key == emptyKey {
		return []string{""}, nil
	}
	columns := strings.Split(key, ":")
	for i, column := range columns {
		text, err := url.PathUnescape(column)
		if err != nil {
			return nil, fmt.Errorf("decode key %q: %w", key, err)
		}
		columns[i] = text
	}
	return columns, nil
}
