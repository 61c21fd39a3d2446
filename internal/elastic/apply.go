package elastic

import (
	"context"
	"fmt"
	"net/http"

	"github.com/capsaga/capsaga/saga"
)

// maxBulkBytes bounds one request. Elasticsearch takes 100 MB and works best
// with a tenth of that.
const maxBulkBytes = 8 << 20

// maxTargets bounds how often documents follow an entity from one index, which is
// gone, to the next.
const maxTargets = 4

// lineBytes is about what an operation takes beside its key and row.
const lineBytes = 128

// batch is an Apply under way.
type batch struct {
	docs    []saga.Document
	applied []saga.Applied
	body    []byte
	gone    []int // documents whose index is gone
}

// newBatch returns a batch with all its documents pending.
func newBatch(docs []saga.Document) (b *batch, pending []int) {
	b = &batch{docs: docs, applied: make([]saga.Applied, len(docs))}
	pending = make([]int, len(docs))
	for i := range pending {
		pending[i] = i
	}
	return b, pending
}

// Apply indexes or deletes each document if its version is above the one that
// Elasticsearch holds, and not below the entity's floor. The answer has an entry per
// document, in their order; what Elasticsearch refuses of one document is that
// entry's Err, and its neighbours are done all the same. The error is for a request
// that failed as a whole: then any of the documents may have been applied, and all
// are to be sent again. All go in one request, unless they are larger than 8 MB
// together or the server finds them too large; and where an entity's index is
// replaced meanwhile, its documents go once more to the new one.
func (s *Store) Apply(ctx context.Context, docs []saga.Document) ([]saga.Applied, error) {
	b, pending := newBatch(docs)
	for try := 1; len(pending) > 0; try++ {
		b.gone = nil
		err := s.applyOnce(ctx, b, pending, func(entity string) (target, error) { return s.targetOf(ctx, entity) })
		if err != nil {
			return nil, err
		}
		pending = b.gone
		for _, i := range pending {
			s.targets.forget(docs[i].Entity)
		}
		if try == maxTargets {
			for _, i := range pending {
				b.applied[i].Err = restless(s.describe(docs[i]))
			}
			break
		}
	}
	return b.applied, nil
}

// ApplyTo is Apply into an index that BeginRebuild made. Documents for an index that
// is gone are done with: nobody is going to read it, and its name is not used again.
func (s *Store) ApplyTo(ctx context.Context, index string, docs []saga.Document) ([]saga.Applied, error) {
	indices, found, err := s.describeIndices(ctx, index)
	if err != nil {
		return nil, err
	}
	b, pending := newBatch(docs)
	d, ok := indices[index]
	if !found || !ok {
		return b.applied, nil
	}
	err = s.applyOnce(ctx, b, pending, func(entity string) (target, error) {
		return target{index: index, floor: s.generation(entity, index, d).capsaga.Floor}, nil
	})
	if err != nil {
		return nil, err
	}
	return b.applied, nil
}

// applyOnce sends the pending documents to where their entities' rows are now. What
// is rejected before it is sent is the document's error.
func (s *Store) applyOnce(ctx context.Context, b *batch, pending []int, targetOf func(entity string) (target, error)) error {
	operations, err := s.write(b, pending, targetOf)
	if err != nil {
		return err
	}
	for len(operations) > 0 {
		n := 1
		for n < len(operations) && operations[n].end-operations[0].start <= maxBulkBytes {
			n++
		}
		if err := s.bulk(ctx, b, operations[:n]); err != nil {
			return err
		}
		operations = operations[n:]
	}
	return nil
}

// aim is where an entity's documents go, or why they do not.
type aim struct {
	target
	err error
}

// write writes the body for the pending documents.
func (s *Store) write(b *batch, pending []int, targetOf func(entity string) (target, error)) ([]operation, error) {
	operations := make([]operation, 0, len(pending))
	size := 0
	for _, i := range pending {
		size += lineBytes + len(b.docs[i].Key) + len(b.docs[i].Row)
	}
	b.body = make([]byte, 0, size)
	aims := make(map[string]aim, 1)
	var to aim
	last := ""
	for _, i := range pending {
		doc := &b.docs[i]
		if doc.Entity != last {
			var known bool
			if to, known = aims[doc.Entity]; !known {
				to.target, to.err = targetOf(doc.Entity)
				aims[doc.Entity] = to
			}
			last = doc.Entity
		}
		start := len(b.body)
		err := s.checkDocument(doc)
		if err == nil {
			err = to.err
		}
		if err == nil && doc.Version >= to.floor {
			b.body, err = s.appendLines(b.body, doc, to.index)
		}
		switch {
		case err == nil && len(b.body) > start:
			operations = append(operations, operation{i, start, len(b.body)})
		case err == nil: // below the floor, which is as good as applied
		case saga.ClassOf(err) == saga.Rejected:
			b.body = b.body[:start]
			b.applied[i].Err = err
		default:
			return nil, err
		}
	}
	return operations, nil
}

func (s *Store) checkDocument(doc *saga.Document) error {
	if doc.Version <= 0 {
		return rejected(saga.CodeRejected, s.describe(*doc)+": it has no version")
	}
	return saga.CheckDocumentKey(doc.Entity, doc.Key)
}

// settle notes the outcome of one document.
func (s *Store) settle(b *batch, i int, result itemResult) {
	if result.Error != nil && result.Error.Type == indexNotFound {
		b.gone = append(b.gone, i)
		return
	}
	b.applied[i] = s.result(b.docs[i], result.Status, result.Error)
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
