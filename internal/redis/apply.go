package redis

import (
	"context"
	_ "embed"
	"fmt"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/capsaga/capsaga/saga"
)

//go:embed apply.lua
var applySource string

var applyScript = goredis.NewScript(applySource)

// Apply sets each document if its version is newer than the one that Redis
// holds. All go in one pipeline. The answer has an entry per document, in their
// order; what Redis refuses of one document is that entry's Err, and its
// neighbours are done all the same. The error is for a connection that failed:
// then any of the documents may have been applied, and all are to be sent again.
//
// lives gives an entity's times to live: of its rows (zero: for ever) and of its
// tombstones (zero: saga.DefaultTombstoneTTL). A nil lives means both defaults.
func (s *Store) Apply(ctx context.Context, docs []saga.Document, lives func(entity string) (ttl, tombstoneTTL time.Duration)) ([]saga.Applied, error) {
	if lives == nil {
		lives = func(string) (ttl, tombstoneTTL time.Duration) { return 0, 0 }
	}
	applied := make([]saga.Applied, len(docs))
	pending := make([]int, 0, len(docs))
	for i, doc := range docs {
		if doc.Version <= 0 {
			applied[i].Err = rejected(fmt.Sprintf("set %s: it has no version", s.key(doc)))
			continue
		}
		pending = append(pending, i)
	}
	// The first EVAL of a second round brings back a script that the server has
	// forgotten (a restart, a failover, SCRIPT FLUSH), for those after it too.
	for _, eval := range []bool{false, true} {
		if len(pending) == 0 {
			break
		}
		var err error
		if pending, err = s.applyRound(ctx, docs, pending, applied, eval, lives); err != nil {
			return nil, err
		}
	}
	return applied, nil
}

// applyRound sends the pending documents and returns those for which the server
// lacks the script.
func (s *Store) applyRound(ctx context.Context, docs []saga.Document, pending []int, applied []saga.Applied, eval bool,
	lives func(string) (time.Duration, time.Duration),
) (unknown []int, err error) {
	pipe := s.client.Pipeline()
	results := make([]*goredis.Cmd, len(pending))
	for i, at := range pending {
		keys, args := []string{s.key(docs[at])}, scriptArgs(docs[at], lives)
		if eval && i == 0 {
			results[i] = applyScript.Eval(ctx, pipe, keys, args...)
		} else {
			results[i] = applyScript.EvalSha(ctx, pipe, keys, args...)
		}
	}
	_, failed := pipe.Exec(ctx)
	for i, at := range pending {
		changed, err := resultOf(results[i], failed)
		switch {
		case err == nil:
			applied[at] = saga.Applied{Changed: changed}
		case !isReply(err):
			return nil, classify(fmt.Sprintf("set %d documents at %s", len(pending), s.addr), err)
		case !eval && goredis.HasErrorPrefix(err, "NOSCRIPT"):
			unknown = append(unknown, at)
		default:
			applied[at].Err = classify("set "+s.key(docs[at]), err)
		}
	}
	return unknown, nil
}

// resultOf reads one answer of a pipeline. Where a new connection was refused at
// its login, the commands hold neither an answer nor the error: the pipeline does.
func resultOf(result *goredis.Cmd, failed error) (changed bool, err error) {
	if err := result.Err(); err != nil {
		return false, err
	}
	if n, ok := result.Val().(int64); ok {
		return n == 1, nil
	}
	if failed == nil {
		failed = fmt.Errorf("the script answered %v", result.Val())
	}
	return false, failed
}

func (s *Store) key(doc saga.Document) string { return s.prefix.RedisKey(doc.Entity, doc.Key) }

func scriptArgs(doc saga.Document, lives func(string) (time.Duration, time.Duration)) []any {
	ttl, tombstoneTTL := lives(doc.Entity)
	if tombstoneTTL <= 0 {
		tombstoneTTL = saga.DefaultTombstoneTTL
	}
	if doc.Deleted() {
		return []any{doc.Version.Padded(), "del", "", millis(tombstoneTTL), 0}
	}
	keyLife, rowLife := rowLives(ttl, tombstoneTTL)
	return []any{doc.Version.Padded(), "row", []byte(doc.Row), millis(keyLife), millis(rowLife)}
}

// rowLives returns how long the key of a row lives, and how long the row in it
// where that is shorter: a version is never forgotten before a tombstone would be.
func rowLives(ttl, tombstoneTTL time.Duration) (key, row time.Duration) {
	switch {
	case ttl <= 0:
		return 0, 0
	case ttl < tombstoneTTL:
		return tombstoneTTL, ttl
	}
	return ttl, 0
}

// millis rounds up, so that a short life does not become none.
func millis(d time.Duration) int64 {
	return int64((d + time.Millisecond - 1) / time.Millisecond)
}
