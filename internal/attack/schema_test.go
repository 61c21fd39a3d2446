package attack

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/internal/stacktest"
	"github.com/capsaga/capsaga/saga"
)

const (
	connections = 16
	keys        = 20 // of item, and as many of the tables that follow it
	publication = "attack"
)

// schema has everything that changes rows behind a statement's back. Each tuple
// gets a stamp of its own, so that a row's content tells which change made it.
//
// A row of item is rewritten by its immediate trigger (echo), in a subtransaction
// that is undone now and then and whose xid is the row's xmin; the trigger also
// changes tally and, where nobody holds it, a neighbour. The row is rewritten
// again by its deferred trigger (settled). A part changes its item, deferred; and
// goes or moves with it. A row of item whose n is 0 and a row of tally are left
// as they were written, so that an insert's own record stays the last one of its
// key.
const schema = `
CREATE SEQUENCE stamp;
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN NEW.stamp := nextval('stamp'); RETURN NEW; END $$;

CREATE TABLE item (
    id int PRIMARY KEY, n bigint NOT NULL DEFAULT 0, note text, blob text,
    echo bigint NOT NULL DEFAULT 0, settled bigint NOT NULL DEFAULT 0, stamp bigint);
ALTER TABLE item REPLICA IDENTITY FULL;
ALTER TABLE item ALTER blob SET STORAGE EXTERNAL;
CREATE TABLE part (
    id int PRIMARY KEY, item_id int NOT NULL REFERENCES item ON DELETE CASCADE ON UPDATE CASCADE,
    n bigint NOT NULL DEFAULT 0, stamp bigint);
CREATE TABLE tally (id int PRIMARY KEY, n bigint NOT NULL DEFAULT 0, stamp bigint);
ALTER TABLE tally REPLICA IDENTITY FULL;

CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON item FOR EACH ROW EXECUTE FUNCTION stamp();
CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON part FOR EACH ROW EXECUTE FUNCTION stamp();
CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON tally FOR EACH ROW EXECUTE FUNCTION stamp();

CREATE FUNCTION item_after() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    BEGIN
        UPDATE item SET echo = echo + 1 WHERE id = NEW.id AND NEW.n > 0;
        IF NEW.n % 4 = 2 THEN RAISE EXCEPTION 'undo'; END IF;
    EXCEPTION WHEN raise_exception THEN NULL;
    END;
    UPDATE tally SET n = n + 1 WHERE id = NEW.id;
    UPDATE item SET echo = echo + 1 WHERE id = (
        SELECT id FROM item WHERE id = 1 + NEW.id % 20 AND NEW.n % 3 = 1 FOR UPDATE SKIP LOCKED);
    RETURN NULL;
END $$;
CREATE TRIGGER item_after AFTER INSERT OR UPDATE ON item FOR EACH ROW
    WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION item_after();

CREATE FUNCTION item_deferred() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE item SET settled = n WHERE id = NEW.id AND settled <> n;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER item_deferred AFTER INSERT OR UPDATE ON item DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION item_deferred();

CREATE FUNCTION part_deferred() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE item SET echo = echo + 1 WHERE id = NEW.item_id;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER part_deferred AFTER INSERT OR UPDATE OF n ON part DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION part_deferred();

CREATE PUBLICATION attack FOR TABLE item, part, tally;
`

// arena is a database with the schema, and a slot for each observer.
type arena struct {
	t       *testing.T
	stack   stacktest.Stack
	db      *postgres.DB // of the writers, with as many connections as there are
	catalog *saga.Catalog
}

func newArena(t *testing.T) *arena {
	t.Helper()
	ctx := context.Background()
	a := &arena{t: t, stack: stacktest.New(t), catalog: &saga.Catalog{Entities: map[string]*saga.Entity{}}}
	_, err := postgres.Migrate(ctx, a.stack.PostgresURL)
	require.NoError(t, err)
	a.db = a.open(connections)
	for _, table := range []string{"item", "part", "tally"} {
		a.catalog.Entities[table] = &saga.Entity{
			Name: table, Table: saga.Table{Schema: "public", Name: table}, Key: []string{"id"}, Redis: &saga.RedisSink{},
		}
	}
	a.exec(schema)
	for _, slot := range []string{a.slot("observer"), a.slot("reader")} {
		a.exec(fmt.Sprintf("SELECT pg_create_logical_replication_slot('%s', 'pgoutput')", slot))
	}
	a.exec(fmt.Sprintf("INSERT INTO tally (id) SELECT generate_series(1, %d)", keys))
	return a
}

func (a *arena) slot(name string) string { return a.stack.Prefix.Slot(name) }

// open returns a pool of its own. Deadlocks are part of the attack; waiting a
// second for each is not.
func (a *arena) open(size int) *postgres.DB {
	a.t.Helper()
	url := fmt.Sprintf("%s&pool_max_conns=%d&deadlock_timeout=20ms", a.stack.PostgresURL, size)
	db, err := postgres.Open(context.Background(), url, postgres.WithReplicationTimeout(time.Second))
	require.NoError(a.t, err)
	a.t.Cleanup(db.Close)
	return db
}

func (a *arena) exec(sql string, args ...any) {
	a.t.Helper()
	_, err := a.db.Pool().Exec(context.Background(), sql, args...)
	require.NoError(a.t, err)
}
