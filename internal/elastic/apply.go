package elastic

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"

	"github.com/capsaga/capsaga/saga"
)

// maxBulkBytes bounds one request. Elasticsearch takes 100 MB and works best
// with a tenth of that.
const maxBulkBytes = 8 << 20

// operation is one document's lines in the body of a bulk request.
type operation struct {
	doc        int // its index in docs
	start, end int // of its lines in the body
}

// batch is an Apply under way.
type batch struct {
	docs    []saga.Document
	applied []saga.Applied
	body    bytes.Buffer
}

// Apply indexes or deletes each document if its version is above the one that
// Elasticsearch holds. The answer has an entry per document, in their order;
// what Elasticsearch refuses of one document is that entry's Err, and its
// neighbours are done all the same. The error is for a request that failed as a
// whole: then any of the documents may have been applied, and all are to be sent
// again. All go in one request, unless they are larger than 8 MB together or the
// server finds them too large.
func (s *Store) Apply(ctx context.Context, docs []saga.Document) ([]saga.Applied, error) {
	b := &batch{docs: docs, applied: make([]saga.Applied, len(docs))}
	operations := make([]operation, 0, len(docs))
	for i, doc := range docs {
		start := b.body.Len()
		err := s.writeLines(ctx, &b.body, doc)
		switch {
		case err == nil:
			operations = append(operations, operation{i, start, b.body.Len()})
		case saga.ClassOf(err) == saga.Rejected:
			b.body.Truncate(start)
			b.applied[i].Err = err
		default:
			return nil, err
		}
	}
	for len(operations) > 0 {
		n := 1
		for n < len(operations) && operations[n].end-operations[0].start <= maxBulkBytes {
			n++
		}
		if err := s.bulk(ctx, b, operations[:n]); err != nil {
			return nil, err
		}
		operations = operations[n:]
	}
	return b.applied, nil
}

// bulk sends operations that lie one after the other in the body.
func (s *Store) bulk(ctx context.Context, b *batch, operations []operation) error {
	body := b.body.Bytes()[operations[0].start:operations[len(operations)-1].end]
	what := fmt.Sprintf("index %d documents at %s", len(operations), s.host)
	status, answer, err := s.send(ctx, http.MethodPost, "/_bulk?require_alias=true&filter_path=error,status,items.*.status,items.*.error", body)
	switch {
	case err != nil:
		return classify(what, err)
	case status == http.StatusRequestEntityTooLarge:
		return s.split(ctx, b, operations, answer)
	case status >= http.StatusMultipleChoices:
		return classifyBody(what, status, answer)
	}
	var reply struct {
		Items []map[string]struct {
			Status int    `json:"status"`
			Error  *cause `json:"error"`
		} `json:"items"`
	}
	if err := json.Unmarshal(answer, &reply); err != nil {
		return garbled(what, err)
	}
	if len(reply.Items) != len(operations) {
		return garbled(what, fmt.Errorf("%d results", len(reply.Items)))
	}
	for i, item := range reply.Items {
		for _, result := range item { // the one key is the action's name
			b.applied[operations[i].doc] = s.result(b.docs[operations[i].doc], result.Status, result.Error)
		}
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

// result reads the outcome of one document.
func (s *Store) result(doc saga.Document, status int, c *cause) saga.Applied {
	switch {
	case status == http.StatusConflict:
		return saga.Applied{} // this version or a newer one is there
	case status == http.StatusNotFound && c == nil:
		return saga.Applied{Changed: true} // nothing to delete; the version is noted
	case c == nil && status >= http.StatusOK && status < http.StatusMultipleChoices:
		return saga.Applied{Changed: true}
	}
	return saga.Applied{Err: classifyStatus(s.describe(doc), status, c)}
}

func (s *Store) describe(doc saga.Document) string {
	verb := "index"
	if doc.Deleted() {
		verb = "delete"
	}
	return fmt.Sprintf("%s %s in %s", verb, doc.Key, s.prefix.Alias(doc.Entity))
}

// action is the first line of an operation.
type action struct {
	Index       string `json:"_index"`
	ID          string `json:"_id"`
	Version     int64  `json:"version"`
	VersionType string `json:"version_type"`
}

// writeLines appends the lines of one document. A rejected error is the
// document's, any other the whole request's.
func (s *Store) writeLines(ctx context.Context, body *bytes.Buffer, doc saga.Document) error {
	if doc.Version <= 0 {
		return rejected(saga.CodeRejected, s.describe(doc)+": it has no version")
	}
	if err := saga.CheckDocumentKey(doc.Entity, doc.Key); err != nil {
		return err
	}
	verb := "index"
	if doc.Deleted() {
		verb = "delete"
		if err := s.requireAlias(ctx, doc); err != nil {
			return err
		}
	}
	versionType := "external"
	if doc.Again {
		versionType = "external_gte"
	}
	line, err := json.Marshal(map[string]action{
		verb: {s.prefix.Alias(doc.Entity), doc.Key, int64(doc.Version), versionType},
	})
	if err != nil {
		return rejected(saga.CodeInvalidValue, s.describe(doc)+": "+err.Error())
	}
	body.Write(line)
	body.WriteByte('\n')
	if doc.Deleted() {
		return nil
	}
	return s.writeRow(body, doc)
}

// writeRow appends a row as it is: re-encoding would pass its numbers through
// floating point. Only line breaks, which PostgreSQL's json columns keep, have
// to go, as they end an operation.
func (s *Store) writeRow(body *bytes.Buffer, doc saga.Document) error {
	if bytes.ContainsAny(doc.Row, "\n\r") {
		if err := json.Compact(body, doc.Row); err != nil {
			return rejected(saga.CodeInvalidValue, s.describe(doc)+": the row is not JSON: "+err.Error())
		}
	} else {
		body.Write(doc.Row)
	}
	body.WriteByte('\n')
	return nil
}

// aliasCache remembers the entities whose alias has been seen.
type aliasCache struct{ seen sync.Map }

// requireAlias rejects the deletion of a document when the alias is missing.
// Elasticsearch's require_alias does so for indexing only: a delete with an
// external version would create an index with the alias's name. The template
// that EnsureIndex leaves forbids that later on, so one look per entity is
// enough.
func (s *Store) requireAlias(ctx context.Context, doc saga.Document) error {
	if _, ok := s.aliases.seen.Load(doc.Entity); ok {
		return nil
	}
	alias := s.prefix.Alias(doc.Entity)
	found, err := s.exists(ctx, "look for alias "+alias, "/_alias/"+alias)
	if err != nil {
		return err
	}
	if !found {
		return classifyStatus(s.describe(doc), http.StatusNotFound, &cause{Type: "index_not_found_exception", Reason: "there is no alias " + alias})
	}
	s.aliases.seen.Store(doc.Entity, true)
	return nil
}
