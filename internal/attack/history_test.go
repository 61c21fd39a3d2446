package attack

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/capsaga/capsaga/saga"
)

// event is what one transaction left of one key: its last change there.
type event struct {
	rowChange
	tx *transaction
	// commit is the version by the transaction's commit position: that of plain
	// SQL, of rows that a saga changed without owning them, and of every row in
	// Kafka. own is the saga's V if the saga owns the key, else zero.
	commit, own saga.Version
}

// low returns the lower of the event's versions.
func (e event) low() saga.Version {
	if e.own != 0 {
		return e.own
	}
	return e.commit
}

// histories has the events of each key in commit order.
type histories map[rowKey][]event

func newHistories(epoch saga.Epoch, transactions []*transaction) (histories, error) {
	h := histories{}
	for _, tx := range transactions {
		commit, err := saga.NewVersion(epoch, tx.commit)
		if err != nil {
			return nil, err
		}
		var own saga.Version
		owned := ownedKeys(tx.end)
		if tx.end != nil {
			if own, err = saga.NewVersion(tx.end.Epoch, tx.endLSN); err != nil {
				return nil, err
			}
		}
		for key, last := range lastChanges(tx) {
			e := event{rowChange: last, tx: tx, commit: commit}
			if owned[key] {
				e.own = own
			}
			h[key] = append(h[key], e)
		}
	}
	return h, nil
}

func lastChanges(tx *transaction) map[rowKey]rowChange {
	last := map[rowKey]rowChange{}
	for _, c := range tx.changes {
		last[c.rowKey] = c
	}
	return last
}

// ownedKeys returns the keys that a saga's end message names. All tables of the
// attack are in schema public.
func ownedKeys(end *saga.EndMessage) map[rowKey]bool {
	owned := map[rowKey]bool{}
	if end == nil {
		return owned
	}
	for _, group := range end.Owned {
		table, err := saga.ParseTable(group.Table)
		if err != nil {
			continue
		}
		for _, key := range group.Keys {
			owned[rowKey{table.Name, key}] = true
		}
	}
	return owned
}

// checkOrder holds the rule against the histories: both versions of a key's event
// lie below both versions of the next.
func (h histories) checkOrder() (problems []string) {
	for key, events := range h {
		for i, e := range events {
			if e.own > e.commit {
				problems = append(problems, fmt.Sprintf("%v: saga %s: version %s is above its commit position %s", key, e.tx.end.SagaID, e.own.LSN(), e.commit.LSN()))
			}
			if i > 0 && events[i-1].commit >= e.low() {
				problems = append(problems, fmt.Sprintf("%v: version %s of one transaction is followed by %s of a later one", key, events[i-1].commit.LSN(), e.low().LSN()))
			}
		}
	}
	return problems
}

// falls counts how often a simpler rule gives a key's event a version that is not
// above that of the event before.
func (h histories) falls(rule func(event) saga.LSN) int {
	n := 0
	for _, events := range h {
		for i := 1; i < len(events); i++ {
			if rule(events[i]) <= rule(events[i-1]) {
				n++
			}
		}
	}
	return n
}

// byRecord is the simpler rule that takes the position of the key's last record.
func byRecord(e event) saga.LSN { return e.record }

// byBegin is the simpler rule that gives a saga's rows the position of its first
// message, which is written before the saga has waited for its rows.
func byBegin(e event) saga.LSN {
	if e.own != 0 {
		return e.tx.beginLSN
	}
	return e.tx.commit
}

// checkContents follows each row's contents through all changes in commit order:
// each change has to begin with what the one before it left. So commit order is
// the order in which the keys really changed.
func checkContents(transactions []*transaction) (problems []string) {
	stamps := map[rowKey]string{}
	for _, tx := range transactions {
		for _, c := range tx.changes {
			current := stamps[c.rowKey]
			switch {
			case c.full && c.before != current:
				problems = append(problems, fmt.Sprintf("%v: the change at %s follows stamp %q, and the stream's last is %q", c.rowKey, c.record, c.before, current))
			case !c.full && c.gone && current == "":
				problems = append(problems, fmt.Sprintf("%v: deleted at %s, and it was not there", c.rowKey, c.record))
			}
			stamps[c.rowKey] = c.stamp
		}
	}
	return problems
}

// checkReports holds what sagas reported against the stream.
func checkReports(epoch saga.Epoch, transactions []*transaction, reports []sagaReport) (problems []string) {
	bySaga := map[string]*transaction{}
	for _, tx := range transactions {
		if (tx.begin == nil) != (tx.end == nil) {
			problems = append(problems, fmt.Sprintf("the transaction committed at %s has one of a saga's two messages", tx.commit))
			continue
		}
		if tx.end == nil {
			continue
		}
		if bySaga[tx.end.SagaID] != nil || tx.begin.SagaID != tx.end.SagaID {
			problems = append(problems, fmt.Sprintf("saga %s: committed twice, or framed as %s", tx.end.SagaID, tx.begin.SagaID))
		}
		bySaga[tx.end.SagaID] = tx
	}
	if len(bySaga) != len(reports) {
		problems = append(problems, fmt.Sprintf("%d sagas in the stream, and %d reported committed", len(bySaga), len(reports)))
	}
	for _, r := range reports {
		tx := bySaga[r.id]
		if tx == nil {
			problems = append(problems, fmt.Sprintf("saga %s: not in the stream", r.id))
			continue
		}
		for _, problem := range r.check(epoch, tx) {
			problems = append(problems, fmt.Sprintf("saga %s: %s", r.id, problem))
		}
	}
	return problems
}

func (r sagaReport) check(epoch saga.Epoch, tx *transaction) (problems []string) {
	if v, err := saga.NewVersion(epoch, tx.endLSN); err != nil || v != r.version || tx.end.Epoch != epoch {
		problems = append(problems, fmt.Sprintf("reported version %s (%s), and its end message is at %s", r.version, r.version.LSN(), tx.endLSN))
	}
	owned, last := ownedKeys(tx.end), lastChanges(tx)
	if len(owned) != len(r.owned) {
		problems = append(problems, fmt.Sprintf("reported %d owned keys, and its end message has %d", len(r.owned), len(owned)))
	}
	for _, o := range r.owned {
		key := rowKey{o.Entity, o.Key}
		change, changed := last[key]
		switch {
		case !owned[key]:
			problems = append(problems, fmt.Sprintf("%v is not in its end message", key))
		case !changed:
			problems = append(problems, fmt.Sprintf("%v: owned, and the stream has no change of it", key))
		case o.Gone() != change.gone:
			problems = append(problems, fmt.Sprintf("%v: reported gone %t, and the stream says %t", key, o.Gone(), change.gone))
		case o.Row != nil: // a repeated call answers from the ledger, which keeps no rows
			problems = append(problems, differences(key, o.Row, change.row)...)
		}
	}
	return problems
}

// differences compares a row as JSON with the stream's text values, column by
// column. What the stream did not send, unchanged TOAST, is skipped.
func differences(key rowKey, row json.RawMessage, want map[string]*string) (problems []string) {
	decoder := json.NewDecoder(bytes.NewReader(row))
	decoder.UseNumber()
	var columns map[string]any
	if err := decoder.Decode(&columns); err != nil {
		return []string{fmt.Sprintf("%v: row %q: %s", key, row, err)}
	}
	for name, text := range want {
		value := columns[name]
		if (value == nil) != (text == nil) || text != nil && fmt.Sprint(value) != *text {
			problems = append(problems, fmt.Sprintf("%v: column %s is reported as %.40v, which differs from the stream's last change", key, name, value))
		}
	}
	return problems
}
