package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// verification reads back the rows of one measurement.
type verification struct {
	*systems
	rowRange
	places places
	begin  kadm.ListedOffsets
}

// mark notes where the topic ends before the measurement.
func (v *verification) mark(ctx context.Context) (err error) {
	v.begin, err = v.admin.ListEndOffsets(ctx, v.places.topic)
	if err == nil {
		err = v.begin.Error()
	}
	return err
}

// verifyTimeout bounds the reading back of one measurement's rows.
const verifyTimeout = 2 * time.Minute

// verify returns nil if every row is in all four systems with its content. It does
// not wait for any: what was reported visible has to be there.
func (v *verification) verify(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	for _, system := range []struct {
		name string
		read func(context.Context, func(row)) error
	}{
		{"postgresql", v.readPostgres}, {"redis", v.readRedis}, {"kafka", v.readKafka}, {"elasticsearch", v.readElasticsearch},
	} {
		t := &tally{verification: v, seen: make([]bool, v.size())}
		if err := system.read(ctx, t.take); err != nil {
			return fmt.Errorf("read the rows back from %s: %w", system.name, err)
		}
		if err := t.result(); err != nil {
			return fmt.Errorf("%s: %w", system.name, err)
		}
	}
	return nil
}

// tally compares what is read with what was written.
type tally struct {
	*verification
	seen  []bool
	other string // the first row that is not as it should be
}

func (t *tally) take(r row) {
	switch {
	case r.ID < t.first || r.ID >= t.last || (r.ID-t.first)%t.step != 0:
		t.note(fmt.Sprintf("row %d was not written", r.ID))
	case r != newRow(r.ID, t.bytes):
		t.note(fmt.Sprintf("row %d has other content: %.200s", r.ID, r.json()))
	default:
		t.seen[(r.ID-t.first)/t.step] = true
	}
}

func (t *tally) note(other string) {
	if t.other == "" {
		t.other = other
	}
}

func (t *tally) result() error {
	if t.other != "" {
		return errors.New(t.other)
	}
	missing, first := 0, int64(0)
	for at, seen := range t.seen {
		if !seen {
			if missing++; missing == 1 {
				first = t.first + int64(at)*t.step
			}
		}
	}
	if missing > 0 {
		return fmt.Errorf("%d of %d rows are missing, the first is %d", missing, len(t.seen), first)
	}
	return nil
}

func (v *verification) readPostgres(ctx context.Context, take func(row)) error {
	rows, err := v.pool.Query(ctx, "SELECT id, title, price, payload FROM "+v.places.table+" WHERE id >= $1 AND id < $2 AND (id - $1) % $3 = 0", v.first, v.last, v.step)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var r row
		if err := rows.Scan(&r.ID, &r.Title, &r.Price, &r.Payload); err != nil {
			return err
		}
		take(r)
	}
	return rows.Err()
}

// A page is what is read at once, by rows and by bytes.
const (
	pageRows  = 1000
	pageBytes = 8 << 20
)

// pages calls read with the ids of one page after the other.
func (v *verification) pages(read func(ids []string) error) error {
	page := int64(min(pageRows, max(1, pageBytes/v.bytes))) * v.step
	for from := v.first; from < v.last; from += page {
		var ids []string
		for id := from; id < min(from+page, v.last); id += v.step {
			ids = append(ids, strconv.FormatInt(id, 10))
		}
		if err := read(ids); err != nil {
			return err
		}
	}
	return nil
}

func (v *verification) readRedis(ctx context.Context, take func(row)) error {
	return v.pages(func(ids []string) error {
		pipe := v.redis.Pipeline()
		values := make([]interface{ Result() (string, error) }, len(ids))
		for i, id := range ids {
			if v.places.hash {
				values[i] = pipe.HGet(ctx, v.places.redis+id, "d")
			} else {
				values[i] = pipe.Get(ctx, v.places.redis+id)
			}
		}
		_, _ = pipe.Exec(ctx) // each value has its own error
		for _, value := range values {
			text, err := value.Result()
			if errors.Is(err, goredis.Nil) {
				continue // missing, which the tally tells
			}
			if err != nil {
				return err
			}
			if err := takeJSON([]byte(text), take); err != nil {
				return err
			}
		}
		return nil
	})
}

func takeJSON(encoded []byte, take func(row)) error {
	var r row
	if err := json.Unmarshal(encoded, &r); err != nil {
		return fmt.Errorf("%.200s: %w", encoded, err)
	}
	take(r)
	return nil
}

func (v *verification) readElasticsearch(ctx context.Context, take func(row)) error {
	return v.pages(func(ids []string) error {
		body, err := json.Marshal(map[string]any{"ids": ids})
		if err != nil {
			return err
		}
		var answer struct {
			Docs []struct {
				Found  bool            `json:"found"`
				Source json.RawMessage `json:"_source"`
			} `json:"docs"`
		}
		path := "/" + v.places.index + "/_mget?filter_path=docs.found,docs._source"
		if err := v.elasticsearch(ctx, http.MethodPost, path, body, &answer); err != nil {
			return err
		}
		for _, doc := range answer.Docs {
			if doc.Found {
				if err := takeJSON(doc.Source, take); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// readKafka reads the records from the mark up to where the topic ends now.
func (v *verification) readKafka(ctx context.Context, take func(row)) error {
	ends, err := v.admin.ListEndOffsets(ctx, v.places.topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return err
	}
	from, left := map[int32]kgo.Offset{}, map[int32]int64{}
	ends.Each(func(end kadm.ListedOffset) {
		begin, _ := v.begin.Lookup(end.Topic, end.Partition)
		if end.Offset > begin.Offset {
			from[end.Partition] = kgo.NewOffset().At(begin.Offset)
			left[end.Partition] = end.Offset
		}
	})
	if len(left) == 0 {
		return nil
	}
	client, err := kgo.NewClient(append(v.kafka, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{v.places.topic: from}))...)
	if err != nil {
		return err
	}
	defer client.Close()
	// A record may come again after the mark: a stream delivers at least once.
	later := func(r row) {
		if r.ID >= v.first {
			take(r)
		}
	}
	for len(left) > 0 {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return err
		}
		for _, r := range fetches.Records() {
			if err := v.takeRecord(r, later); err != nil {
				return err
			}
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
		}
	}
	return nil
}

// takeRecord reads a row, or Debezium's envelope of one.
func (v *verification) takeRecord(r *kgo.Record, take func(row)) error {
	if !v.places.hash {
		return takeJSON(r.Value, take)
	}
	var event struct {
		After json.RawMessage `json:"after"`
	}
	if err := json.Unmarshal(r.Value, &event); err != nil {
		return fmt.Errorf("%.200s: %w", r.Value, err)
	}
	return takeJSON(event.After, take)
}
