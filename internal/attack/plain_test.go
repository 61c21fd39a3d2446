package attack

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// plain runs one SQL transaction as any client might: in one exchange, or
// statement by statement, which holds its locks longer.
func (w *worker) plain(ctx context.Context) error {
	statements := pick(w, plainChoices)(w)
	if w.IntN(5) == 0 {
		statements = append([]string{"SET LOCAL synchronous_commit = off"}, statements...)
	}
	statements = slices.Concat([]string{"BEGIN"}, statements, []string{"COMMIT"})
	if w.IntN(3) == 0 {
		statements = []string{strings.Join(statements, "; ")}
	}
	w.counts.plain.Add(1)
	conn, err := w.db.Pool().Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	for _, sql := range statements {
		if _, err := conn.Conn().PgConn().Exec(ctx, sql).ReadAll(); err != nil {
			if !w.expected(err) {
				return fmt.Errorf("%.200s: %w", sql, err)
			}
			_, err = conn.Exec(ctx, "ROLLBACK")
			return err
		}
	}
	return nil
}

// expected reports whether an error is one that the attack provokes: a unique
// or a foreign key broken, or a deadlock.
func (w *worker) expected(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return false
	}
	switch pg.Code {
	case "23505", "23503":
		w.counts.conflicts.Add(1)
		return true
	case "40P01":
		w.counts.deadlocks.Add(1)
		return true
	}
	return false
}

var plainChoices = []choice[func(*worker) []string]{
	{16, (*worker).plainInsert},
	{10, (*worker).plainUpsert},
	{18, (*worker).plainUpdate},
	{8, (*worker).plainDelete},
	{14, (*worker).plainUpdateThenDelete},
	{8, (*worker).plainReplace},
	{8, (*worker).plainSeveral},
	{8, (*worker).plainSavepoint},
	{6, (*worker).plainMove},
	{4, (*worker).plainMoveOver},
	{8, (*worker).plainPart},
	{12, (*worker).plainTally},
}

func (w *worker) insert(k int) string {
	return fmt.Sprintf("INSERT INTO item (id, n, note, blob) VALUES (%d, %d, '%s', '%s')", k, max(0, w.IntN(9)-3), w.name, w.blob())
}

func (w *worker) update(k int) string {
	if w.IntN(10) == 0 {
		return fmt.Sprintf("UPDATE item SET n = n + 1, blob = '%s' WHERE id = %d", w.blob(), k)
	}
	return fmt.Sprintf("UPDATE item SET n = n + 1, note = '%s' WHERE id = %d", w.name, k)
}

func deleteItem(k int) string { return fmt.Sprintf("DELETE FROM item WHERE id = %d", k) }

func move(from, to int) string {
	return fmt.Sprintf("UPDATE item SET id = %d WHERE id = %d", to, from)
}

func (w *worker) plainInsert() []string { return []string{w.insert(w.key())} }

func (w *worker) plainUpsert() []string {
	return []string{w.insert(w.key()) + " ON CONFLICT (id) DO UPDATE SET n = item.n + 1, note = excluded.note"}
}

func (w *worker) plainUpdate() []string { return []string{w.update(w.key())} }
func (w *worker) plainDelete() []string { return []string{deleteItem(w.key())} }

// plainUpdateThenDelete is what record positions cannot order. While the row is
// held, an insert of its key writes its record and then waits; the delete's
// record comes after it, and yet its transaction commits first.
func (w *worker) plainUpdateThenDelete() []string {
	k := w.key()
	return []string{w.update(k), deleteItem(k)}
}

func (w *worker) plainReplace() []string {
	k := w.key()
	return []string{deleteItem(k), w.insert(k)}
}

func (w *worker) plainSeveral() []string {
	a, b := w.key(), w.key()
	return []string{
		w.insert(a) + " ON CONFLICT DO NOTHING",
		w.update(b), w.update(a), deleteItem(b), w.insert(b), w.update(b),
	}
}

// plainSavepoint writes rows in subtransactions, of which some are undone.
func (w *worker) plainSavepoint() []string {
	a, b := w.key(), w.key()
	ends := []string{"ROLLBACK TO s", "RELEASE s"}
	return []string{
		"SAVEPOINT s", w.update(a), w.update(b), ends[w.IntN(2)],
		"SAVEPOINT s", deleteItem(a), ends[w.IntN(2)],
		w.update(b), "SAVEPOINT s", w.insert(a) + " ON CONFLICT DO NOTHING", w.update(a), ends[w.IntN(2)],
	}
}

func (w *worker) plainMove() []string {
	k := w.key()
	return []string{move(k, w.other(k))}
}

func (w *worker) plainMoveOver() []string {
	k := w.key()
	to := w.other(k)
	return []string{deleteItem(to), move(k, to), w.update(to)}
}

func (w *worker) plainPart() []string {
	k, item := w.key(), w.key()
	return pick(w, []choice[[]string]{
		{4, []string{fmt.Sprintf("INSERT INTO part (id, item_id) VALUES (%d, %d) ON CONFLICT (id) DO UPDATE SET n = part.n + 1", k, item)}},
		{1, []string{fmt.Sprintf("DELETE FROM part WHERE id = %d", k)}},
		{1, []string{fmt.Sprintf("UPDATE part SET item_id = %d WHERE id = %d", item, k)}},
		{1, []string{fmt.Sprintf("UPDATE part SET id = %d WHERE id = %d", w.other(k), k)}},
	})
}

func (w *worker) plainTally() []string {
	k := w.key()
	update := fmt.Sprintf("UPDATE tally SET n = n + 100 WHERE id = %d", k)
	remove := fmt.Sprintf("DELETE FROM tally WHERE id = %d", k)
	insert := fmt.Sprintf("INSERT INTO tally (id) VALUES (%d)", k)
	return pick(w, []choice[[]string]{
		{1, []string{update}},
		{2, []string{update, remove}},
		{3, []string{insert}},
		{1, []string{insert + " ON CONFLICT (id) DO UPDATE SET n = 0"}},
	})
}
