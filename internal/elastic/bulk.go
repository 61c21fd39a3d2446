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
	if bytes.IndexByte(doc.Row, '\n') >= 0 || bytes.IndexByte(doc.Row, '\r') >= 0 {
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

// bulkPath asks for no more of the answer than is read.
const bulkPath = "/_bulk?filter_path=error,status,items.*.status,items.*.error.type,items.*.error.reason,items.*.error.caused_by"

// itemResult is what became of one operation.
type itemResult struct {
	Status int    `json:"status"`
	Error  *cause `json:"error"`
}

// bulk sends operations that lie one after the other in the body.
func (s *Store) bulk(ctx context.Context, b *batch, operations []operation) error {
	body := b.body[operations[0].start:operations[len(operations)-1].end]
	what := fmt.Sprintf("index %d documents at %s", len(operations), s.host)
	status, answer, err := s.send(ctx, http.MethodPost, bulkPath, body)
	switch {
	case err != nil:
		return classify(what, err)
	case status == http.StatusRequestEntityTooLarge:
		return s.split(ctx, b, operations, answer)
	case status >= http.StatusMultipleChoices:
		return classifyBody(what, status, answer)
	}
	results, plain := plainResults(answer, len(operations))
	if !plain {
		if results, err = readResults(answer); err != nil {
			return garbled(what, err)
		}
	}
	if len(results) != len(operations) {
		return garbled(what, fmt.Errorf("%d results", len(results)))
	}
	for i, result := range results {
		s.settle(b, operations[i].doc, result)
	}
	return nil
}

// plainResults reads the usual answer, in which each operation has a status and
// nothing else; ok is false for any other. It is a fraction of the work of readResults,
// in the hot part of the stream to Elasticsearch.
func plainResults(answer []byte, n int) (results []itemResult, ok bool) {
	rest, ok := bytes.CutPrefix(answer, []byte(`{"items":[`))
	if !ok {
		return nil, false
	}
	results = make([]itemResult, 0, n)
	for {
		after, found := bytes.CutPrefix(rest, []byte(`{"index":{"status":`))
		if !found {
			after, found = bytes.CutPrefix(rest, []byte(`{"delete":{"status":`))
		}
		const digits = 3
		if !found || len(after) < digits || after[0] == '0' {
			return nil, false
		}
		status, err := strconv.ParseUint(string(after[:digits]), 10, 0)
		if rest, found = bytes.CutPrefix(after[digits:], []byte(`}}`)); err != nil || !found {
			return nil, false
		}
		results = append(results, itemResult{Status: int(status)})
		switch {
		case string(rest) == `]}`:
			return results, true
		case len(rest) == 0 || rest[0] != ',':
			return nil, false
		}
		rest = rest[1:]
	}
}

// readResults reads any answer to a bulk request.
func readResults(answer []byte) ([]itemResult, error) {
	var reply struct {
		Items []struct {
			Index  *itemResult `json:"index"`
			Delete *itemResult `json:"delete"`
		} `json:"items"`
	}
	if err := json.Unmarshal(answer, &reply); err != nil {
		return nil, err
	}
	results := make([]itemResult, len(reply.Items))
	for i, item := range reply.Items {
		switch {
		case item.Index != nil:
			results[i] = *item.Index
		case item.Delete != nil:
			results[i] = *item.Delete
		default:
			return nil, fmt.Errorf("result %d is of neither an index nor a delete", i)
		}
	}
	return results, nil
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
