package attack

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/capsaga/capsaga/internal/postgres"
	"github.com/capsaga/capsaga/saga"
)

// fill is a row that was read with a version to fill a sink with.
type fill struct {
	rowKey
	version saga.Version
	stamp   string
	etag    string
}

// filler reads random rows beside the attack, by ReadRow and naively.
type filler struct {
	*arena
	seed  uint64
	epoch saga.Epoch
	more  func() bool

	mu            sync.Mutex
	sound, naive  []fill
	absent, shown int // reads of no row, and of one that is not to fill a sink with
}

const fillers = 3

func (f *filler) run(ctx context.Context) error {
	db := f.open(fillers)
	group, ctx := errgroup.WithContext(ctx)
	for i := range fillers {
		random := rand.New(rand.NewPCG(f.seed, 1000+uint64(i)))
		group.Go(func() error {
			for f.more() {
				read := f.read
				if random.IntN(3) == 0 {
					read = f.readNaively
				}
				key := rowKey{[]string{"item", "item", "item", "part", "tally"}[random.IntN(5)], strconv.Itoa(1 + random.IntN(keys))}
				if err := read(ctx, db, key); err != nil {
					return fmt.Errorf("fill %v: %w", key, err)
				}
			}
			return nil
		})
	}
	return group.Wait()
}

func (f *filler) read(ctx context.Context, db *postgres.DB, key rowKey) error {
	row, err := db.ReadRow(ctx, f.catalog.Entities[key.table], key.key)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case !row.Found:
		f.absent++
	case row.Version == 0:
		f.shown++
	default:
		f.sound = append(f.sound, fill{rowKey: key, version: row.Version, stamp: rowStamp(row.Row), etag: row.ETag})
	}
	return nil
}

// readNaively reads the row and then the position: another transaction may have
// committed in between, and its change lies below the position.
func (f *filler) readNaively(ctx context.Context, db *postgres.DB, key rowKey) error {
	var stamp *string
	sql := fmt.Sprintf("SELECT max(stamp)::text FROM %s WHERE id = %s", key.table, key.key)
	if err := db.Pool().QueryRow(ctx, sql).Scan(&stamp); err != nil || stamp == nil {
		return err
	}
	var position string
	if err := db.Pool().QueryRow(ctx, "SELECT pg_current_wal_lsn()::text").Scan(&position); err != nil {
		return err
	}
	lsn, err := saga.ParseLSN(position)
	if err != nil {
		return err
	}
	version, err := saga.NewVersion(f.epoch, lsn)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.naive = append(f.naive, fill{rowKey: key, version: version, stamp: *stamp})
	return err
}
