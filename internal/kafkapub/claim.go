package kafkapub

import (
	"encoding/json"

	"github.com/capsaga/capsaga/internal/kafka"
	"github.com/capsaga/capsaga/internal/stream"
	"github.com/capsaga/capsaga/saga"
)

// claim makes a record that is too large for its topic a reference to the row: in
// place, with the same key and headers, but of the row only what identifies it.
func (s *session) claim(p *plan, r record, full kafka.Record) (kafka.Record, error) {
	row := r.after
	if row == nil {
		row = r.before
	}
	header, err := json.Marshal(s.claimCheck(p, row, full.Key))
	if err != nil {
		return kafka.Record{}, err
	}
	r.shape = p.claimedShape()
	s.rowBuf = s.appendEnvelope(s.rowBuf[:0], p, r)
	full.Value = append([]byte(nil), s.rowBuf...)
	full.Headers = append(append([]kafka.Header(nil), full.Headers...), kafka.Header{Key: saga.HeaderClaimCheck, Value: header})
	return full, nil
}

func (p *plan) claimedShape() shape {
	if len(p.key) == 0 {
		return shapeShort
	}
	return shapeKey
}

func (s *session) claimCheck(p *plan, row stream.Tuple, key []byte) saga.ClaimCheck {
	table := p.relation.Table
	check := saga.ClaimCheck{Schema: table.Schema, Table: table.Name, Version: string(s.version), Key: key}
	if entity := s.config.entity(table); entity != nil {
		if encoded, ok := p.encodeKey(entity, row); ok {
			check.Entity, check.Key = entity.Name, encoded
		}
	}
	return check
}

// encodeKey returns a row's KEYENC as a JSON string; false where the row, of which
// only the replica identity may be known, does not have the entity's key.
func (p *plan) encodeKey(entity *saga.Entity, row stream.Tuple) (json.RawMessage, bool) {
	texts := make([]string, len(entity.Key))
	for n, column := range entity.Key {
		i := p.column(column)
		if i < 0 || i >= len(row) || row[i].Kind != stream.Text {
			return nil, false
		}
		texts[n] = string(row[i].Text)
	}
	encoded, err := json.Marshal(saga.EncodeKey(texts))
	return encoded, err == nil
}
