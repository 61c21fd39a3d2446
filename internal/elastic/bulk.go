package elastic

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"github.com/capsaga/capsaga/saga"
)

// operation is one document's lines in the body of a bulk request.
type operation struct {
	doc        int // its index in docs
	start, end int // of its lines in the body
}

// appendLines appends the lines of one document.
func (s *Store) appendLines(body []byte, doc *saga.Document, index string) ([]byte, error) {
	if doc.Deleted() {
		body = append(body, `{"delete":{"_index":"`...)
	} else {
		body = append(body, `{"index":{"_index":"`...)
	}
	body = append(body, index...)
	body = append(body, `","_id":`...)
	body = appendString(body, doc.Key)
	body = append(body, `,"version":`...)
	body = strconv.AppendInt(body, int64(doc.Version), 10)
	// Of parts of one transaction the later one wins.
	if doc.Again {
		body = append(body, `,"version_type":"external_gte"}}`...)
	} else {
		body = append(body, `,"version_type":"external"}}`...)
	}
	body = append(body, '\n')
	if doc.Deleted() {
		return body, nil
	}
	return s.appendRow(body, doc)
}

// appendString appends a text as JSON. Encoded keys hardly ever need escapes.
func appendString(body []byte, text string) []byte {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c == '"' || c == '\\' || c >= 0x7f {
			quoted, _ := json.Marshal(text) // a string always passes
			return append(body, quoted...)
		}
	}
	body = append(body, '"')
	body = append(body, text...)
	return append(body, '"')
}

// appendRow appends a row as it is: re-encoding would pass its numbers through
// floating point. Only line breaks, which PostgreSQL's json columns keep, have
// to go, as they end an operation.
func (s *Store) appendRow(body []byte, doc *saga.Document) ([]byte, error) {
	if bytes.ContainsAny(doc.Row, "\n\r") {
		var compact bytes.Buffer
		if err := json.Compact(&compact, doc.Row); err != nil {
			return body, rejected(saga.CodeInvalidValue, s.describe(*doc)+": the row is not JSON: "+err.Error())
		}
		body = append(body, compact.Bytes()...)
	} else {
		body = append(body, doc.Row...)
	}
	return append(body, '\n'), nil
}

// itemResult is what became of one operation.
type itemResult struct {
	Status int    `json:"status"`
	Error  *cause `json:"error"`
}

// bulk sends operations that lie one after the other in the body. Of the answer it
// asks for no more than it reads.
func (s *Store) bulk(ctx context.Context, b *batch, operations []operation) error {
	body := b.body[operations[0].start:operations[len(operations)-1].end]
	what := fmt.Sprintf("index %d documents at %s", len(operations), s.host)
	status, answer, err := s.send(ctx, http.MethodPost, "/_bulk?filter_path=error,status,items.*.status,items.*.error", body)
	switch {
	case err != nil:
		return classify(what, err)
	case status == http.StatusRequestEntityTooLarge:
		return s.split(ctx, b, operations, answer)
	case status >= http.StatusMultipleChoices:
		return classifyBody(what, status, answer)
	}
	var reply struct {
		Items []struct {
			Index  itemResult `json:"index"`
			Delete itemResult `json:"delete"`
		} `json:"items"`
	}
	if err := json.Unmarshal(answer, &reply); err != nil {
		return garbled(what, err)
	}
	if len(reply.Items) != len(operations) {
		return garbled(what, fmt.Errorf("%d results", len(reply.Items)))
	}
	for i, item := range reply.Items {
		result := item.Index
		if b.docs[operations[i].doc].Deleted() {
			result = item.Delete
		}
		s.settle(b, operations[i].doc, result)
	}
	return nil
}

// split sends operations that were too large together in halves, so that only a
// document that is too large alone is rejected.
func (s *Store) split(ctx context.Context, b *batch, operations []operation, answer []byte) error {
	if n := len(operations); n > 1 {
		if err := s.bulk(ctx, b, operations[:n/2]); err != nil {
			return err
		}
		return s.bulk(ctx, b, operations[n/2:])
	}
	doc := b.docs[operations[0].doc]
	b.applied[operations[0].doc].Err = classifyBody(s.describe(doc), http.StatusRequestEntityTooLarge, answer)
	return nil
}
