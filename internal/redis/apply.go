package redis

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/capsaga/capsaga/saga"
)

//go:embed apply.lua
var applySource string

var applyScript = goredis.NewScript(applySource)

// The bounds of one script, which keep it below a millisecond or two: nothing
// else is served meanwhile.
const (
	maxScriptRows  = 128
	maxScriptBytes = 256 << 10
)

// lifetimes gives an entity's times to live; see Apply.
type lifetimes func(entity string) (ttl, tombstoneTTL time.Duration)

// Apply sets each document if its version is newer than the one that Redis
// holds, and not below the entity's floor. They go in scripts of up to 128
// documents of an entity, all in one pipeline; documents of a row keep their
// order. The answer has an entry per document, in their order; what Redis refuses
// of one document is that entry's Err, and its neighbours are done all the same.
// The error is for a connection that failed: then any of the documents may have
// been applied, and all are to be sent again.
//
// lives gives an entity's times to live: of its rows (zero: for ever) and of its
// tombstones (zero: saga.DefaultTombstoneTTL). A nil lives means both defaults.
func (s *Store) Apply(ctx context.Context, docs []saga.Document, lives func(entity string) (ttl, tombstoneTTL time.Duration)) ([]saga.Applied, error) {
	if lives == nil {
		lives = func(string) (ttl, tombstoneTTL time.Duration) { return 0, 0 }
	}
	applied := make([]saga.Applied, len(docs))
	scripts := s.scripts(docs, applied)
	// The first EVAL of a second round brings back a script that the server has
	// forgotten (a restart, a failover, SCRIPT FLUSH), for those after it too.
	for _, eval := range []bool{false, true} {
		if len(scripts) == 0 {
			break
		}
		var err error
		if scripts, err = s.applyRound(ctx, docs, scripts, applied, eval, lives); err != nil {
			return nil, err
		}
	}
	return applied, nil
}

// applyRound sends the scripts and returns those to send once more because the
// server lacks the source: the first of them and, for the order of a row's
// documents, all after it.
func (s *Store) applyRound(ctx context.Context, docs []saga.Document, scripts []script, applied []saga.Applied, eval bool, lives lifetimes) ([]script, error) {
	pipe := s.client.Pipeline()
	results := make([]*goredis.SliceCmd, len(scripts))
	for i, script := range scripts {
		args := []any{"evalsha", applyScript.Hash()}
		if eval && i == 0 {
			args = []any{"eval", applySource}
		}
		results[i] = goredis.NewSliceCmd(ctx, s.appendArgs(args, docs, script, lives)...)
		_ = pipe.Process(ctx, results[i]) // it only joins the pipeline
	}
	_, failed := pipe.Exec(ctx)
	unknown := len(scripts)
	for i, script := range scripts {
		err := s.settle(docs, script, results[i], failed, applied)
		switch {
		case err == nil:
		case !isReply(err):
			return nil, classify(fmt.Sprintf("set %d documents at %s", len(docs), s.addr), err)
		case !eval && goredis.HasErrorPrefix(err, "NOSCRIPT"):
			unknown = min(unknown, i)
		default:
			for _, at := range script.docs {
				applied[at].Err = classify("set "+s.key(docs[at]), err)
			}
		}
	}
	return scripts[unknown:], nil
}

// settle notes what a script did with its documents. The error is for all of them.
// Where a new connection was refused at its login, the commands hold neither an
// answer nor the error: the pipeline does.
func (s *Store) settle(docs []saga.Document, script script, result *goredis.SliceCmd, failed error, applied []saga.Applied) error {
	answer, err := result.Result()
	if err != nil {
		return err
	}
	if len(answer) == 0 {
		if failed == nil {
			failed = errors.New("the script answered nothing")
		}
		return failed
	}
	letters, _ := answer[0].(string)
	refusals := answer[1:]
	if len(letters) != len(script.docs) {
		return fmt.Errorf("the script answered %.100q for %d documents", letters, len(script.docs))
	}
	for i, at := range script.docs {
		switch {
		case letters[i] != 'e':
			// A second round does not take back what the first one did.
			applied[at] = saga.Applied{Changed: letters[i] == '1' || applied[at].Changed}
		case len(refusals) == 0:
			return fmt.Errorf("the script answered %.100q without the reasons", letters)
		default:
			text, _ := refusals[0].(string)
			refusals = refusals[1:]
			applied[at] = saga.Applied{Err: classify("set "+s.key(docs[at]), refusal(text))}
		}
	}
	return nil
}

// refusal is an error reply that a script caught.
type refusal string

func (r refusal) Error() string { return string(r) }

// RedisError makes it one of the driver's.
func (refusal) RedisError() {}

func (s *Store) key(doc saga.Document) string { return s.prefix.RedisKey(doc.Entity, doc.Key) }

// floorKey returns the key of an entity's floor, which is no row's, as no
// entity's name begins with "_".
func (s *Store) floorKey(entity string) string { return s.markKey("floor:" + entity) }

// script is one call of the script.
type script struct {
	entity string
	docs   []int // their indexes
	bytes  int
}

// scripts deals the documents out, in order, and refuses those that nothing can
// be compared with.
func (s *Store) scripts(docs []saga.Document, applied []saga.Applied) []script {
	var scripts []script
	open := make(map[string]int) // the last script of each entity
	for i := range docs {
		doc := &docs[i]
		switch {
		case doc.Version <= 0:
			applied[i].Err = rejected(fmt.Sprintf("set %s: it has no version", s.key(*doc)))
			continue
		case doc.Row != nil && len(doc.Row) == 0:
			applied[i].Err = rejected(fmt.Sprintf("set %s: the row is empty", s.key(*doc)))
			continue
		}
		size := len(doc.Key) + len(doc.Row)
		at, found := open[doc.Entity]
		if !found || len(scripts[at].docs) >= maxScriptRows || scripts[at].bytes+size > maxScriptBytes {
			at = len(scripts)
			open[doc.Entity] = at
			scripts = append(scripts, script{entity: doc.Entity, docs: make([]int, 0, min(len(docs)-i, maxScriptRows))})
		}
		scripts[at].docs = append(scripts[at].docs, i)
		scripts[at].bytes += size
	}
	return scripts
}
