package saga

// MessageBackfill is the prefix of the logical messages by which a backfill puts
// a table's present rows into the WAL. Each is transactional, and what it says
// holds at the commit position of its transaction: the rows of a chunk were
// locked until then.
const MessageBackfill = "capsaga-backfill"

// BackfillKind says what a BackfillMessage is for.
type BackfillKind string

// The kinds, in the order in which they come.
const (
	BackfillBegin BackfillKind = "begin"
	BackfillRows  BackfillKind = "rows" // a chunk; there may be none or many
	BackfillEnd   BackfillKind = "end"
)

// BackfillMessage is the head of a backfill's logical message: one line of JSON.
// In a chunk the rows follow it, each as PostgreSQL's text form of a record of
// Columns, one after the other.
type BackfillMessage struct {
	ID     int64        `json:"id"` // of the backfill, in capsaga.backfill
	Kind   BackfillKind `json:"kind"`
	Entity string       `json:"entity"`
	Table  Table        `json:"table"`
	Sinks  []Sink       `json:"sinks"` // whose streams take the rows; the others pass over it
	// Floor is set where changes may have been missed, deletions among them: at the
	// end, what a sink holds of the entity at a version below it is no row any more.
	Floor Version `json:"floor,omitempty"`
	// Index names the new index of Elasticsearch that the backfill fills beside the
	// present one, and that takes its place at the end.
	Index string `json:"index,omitempty"`
	// Of a chunk: the table's OID, its replica identity (d, n, f or i), the columns
	// and how many rows there are.
	RelationID      uint32           `json:"relation,omitempty"`
	ReplicaIdentity string           `json:"replica_identity,omitempty"`
	Columns         []BackfillColumn `json:"columns,omitempty"`
	Rows            int              `json:"rows,omitempty"`
}

// BackfillColumn is a column of a chunk's rows, as pgoutput describes one.
type BackfillColumn struct {
	Name         string `json:"name"`
	TypeOID      uint32 `json:"type"`
	TypeModifier int32  `json:"modifier"`
	Identity     bool   `json:"identity,omitempty"` // part of the replica identity
}
