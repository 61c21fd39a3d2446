package saga

import (
	"encoding/base64"
	"encoding/json"
)

// Token is what a writer hands a reader: the rows that it wrote and their
// version. A read "at least" a token sees the write or a later one.
type Token struct {
	Version Version             `json:"v"`
	Keys    map[string][]string `json:"k"` // entity → KEYENC
}

// NewToken returns the token of a saga's owned rows.
func NewToken(v Version, owned []Owned) Token {
	t := Token{Version: v, Keys: map[string][]string{}}
	for _, o := range owned {
		t.Keys[o.Entity] = append(t.Keys[o.Entity], o.Key)
	}
	return t
}

// String returns the token's opaque form, safe in URLs: its JSON in base64.
func (t Token) String() string {
	c := canonical{out: make([]byte, 0, 256)}
	c.begin('{')
	c.text("v", t.Version.String())
	c.name("k")
	c.begin('{')
	for _, entity := range sortedNames(t.Keys) {
		c.name(entity)
		c.begin('[')
		for _, key := range t.Keys[entity] {
			c.comma()
			c.out = appendText(c.out, key)
		}
		c.end(']')
	}
	c.end('}')
	c.end('}')
	return base64.RawURLEncoding.EncodeToString(c.out)
}

// ParseToken reads the opaque form.
func ParseToken(s string) (Token, error) {
	var t Token
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err == nil {
		err = json.Unmarshal(b, &t)
	}
	if err != nil || t.Version == 0 {
		return Token{}, invalid("token %.20q: not a token that a write returned", s)
	}
	return t, nil
}
