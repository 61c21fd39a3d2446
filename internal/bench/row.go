package bench

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"

	"github.com/capsaga/capsaga/saga"
)

// entity is the entity of the sagas, and the name of its table.
const entity = "items"

// row is one row. Its content follows from its id alone, so that a reader can tell
// what a row has to be without having written it.
type row struct {
	ID      int64  `json:"id"`
	Title   string `json:"title"`
	Price   int64  `json:"price"`
	Payload string `json:"payload"`
}

// seed makes the rows of every run the same.
const seed = 20_260_101

const letters = "abcdefghijklmnopqrstuvwxyz0123456789      " // words of some length

// newRow returns the row of an id, about size bytes long as JSON.
func newRow(id int64, size int) row {
	random := rand.New(rand.NewPCG(seed, uint64(id)))
	payload := make([]byte, max(size-minRowBytes, 1))
	for i := range payload {
		payload[i] = letters[random.IntN(len(letters))]
	}
	return row{ID: id, Title: fmt.Sprintf("item %d", id), Price: random.Int64N(100_000), Payload: string(payload)}
}

func (r row) key() string { return strconv.FormatInt(r.ID, 10) }

func (r row) json() []byte {
	encoded, _ := json.Marshal(r) // texts and numbers always encode
	return encoded
}

// sagaOf names the saga that writes a row.
func sagaOf(prefix saga.Prefix, id int64) string { return fmt.Sprintf("%s-%d", prefix, id) }

// write returns the saga that writes the row.
func (r row) write(prefix saga.Prefix) saga.Write {
	text := func(s string) json.RawMessage { encoded, _ := json.Marshal(s); return encoded }
	return saga.Write{
		SagaID: sagaOf(prefix, r.ID),
		Mutations: []saga.Mutation{{Entity: entity, Op: saga.Upsert, Row: saga.Columns{
			"id": json.RawMessage(r.key()), "title": text(r.Title),
			"price": json.RawMessage(strconv.FormatInt(r.Price, 10)), "payload": text(r.Payload),
		}}},
	}
}

// tables are the table of the sagas and that of the writers without sagas, which
// no publication has.
const tables = `
CREATE TABLE items (id bigint PRIMARY KEY, title text NOT NULL, price bigint NOT NULL, payload text NOT NULL);
CREATE TABLE plain (LIKE items INCLUDING ALL);`

// partitions, mappings and settings are those of both topics and both indices.
const (
	partitions = 4
	mappings   = `{"properties": {"id": {"type": "long"}, "title": {"type": "text"}, "price": {"type": "long"}, "payload": {"type": "text"}}}`
	settings   = `{"number_of_shards": 1, "number_of_replicas": 0, "refresh_interval": "1s"}`
)

// catalogText is the catalog of the sagas' entity.
var catalogText = fmt.Sprintf(`version: 1
kafka_tables: [public.%[1]s]
entities:
  %[1]s:
    table: public.%[1]s
    key: [id]
    sinks:
      redis: {}
      kafka: {partitions: %[2]d}
      elasticsearch:
        mappings: %[3]s
        settings: %[4]s
`, entity, partitions, mappings, settings)
