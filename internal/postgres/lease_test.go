package postgres

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/capsaga/capsaga/saga"
)

// slotModel is a server's WAL with a slot and what is written down of it, in the
// sizes that PostgreSQL's records have.
type slotModel struct {
	wal     saga.LSN
	slot    SlotMark
	known   knownStream
	system  int64
	held    bool
	missed  bool // a commit lies before the slot and was confirmed by nobody
	pending bool // a commit lies behind the slot
	had     saga.LSN
	settled saga.LSN // the holder's bound
}

const (
	leastCommit   = 104 // a change and its commit record
	runningRecord = 56  // of running transactions, as a new slot writes
	settleWrite   = 216 // an update of the row, 120 bytes long
	settleReserve = 120 + 96 + 72
)

func (m *slotModel) commit(t *rapid.T) {
	m.wal += leastCommit + 8*saga.LSN(rapid.IntRange(0, 200).Draw(t, "size"))
	m.pending = true
}

func (m *slotModel) serverRecord() { m.wal += runningRecord }

func (m *slotModel) confirm() {
	if !m.held {
		return
	}
	m.had, m.pending = m.wal, false
	m.write()
}

func (m *slotModel) write() {
	m.slot = MarkOf(m.had)
	if m.had <= m.settled {
		m.slot = SlotMark(m.had)
	}
}

func (m *slotModel) settle(t *rapid.T) {
	if !m.held || m.had == 0 {
		return
	}
	m.known.bound = m.had + settleReserve
	m.wal += settleWrite
	if rapid.Bool().Draw(t, "told") { // else the holder dies before it hears of it
		m.settled = m.known.bound
		m.write()
	}
}

func (m *slotModel) die() { m.held = false }

func (m *slotModel) makeAnew() {
	if m.held {
		return
	}
	m.missed = m.missed || m.pending
	m.wal += runningRecord
	m.slot, m.pending = SlotMark(m.wal), false
}

// acquire does what AcquireStream does, and checks that it says what is so.
func (m *slotModel) acquire(t *rapid.T) {
	if m.held {
		return
	}
	reason := m.known.gapTo(foundSlot{system: m.system, mark: m.slot, insert: m.wal})
	if m.missed {
		require.NotEmpty(t, reason, "changes were missed: %+v", m)
	}
	if m.known.bound == 0 || reason != "" {
		m.known.bound = m.slot.LSN()
	}
	m.known.system = m.system
	m.held, m.missed, m.had, m.settled = true, false, m.slot.LSN(), m.known.bound
}

// Whatever holders, servers and hands do: when a change was missed, the next holder
// finds the gap; and while the slot is the same, there is none.
func TestGapsAreFound(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := &slotModel{wal: 0x1000, slot: 0x1000, system: 7}
		m.acquire(t)
		anew := false
		t.Repeat(map[string]func(*rapid.T){
			"commit":   m.commit,
			"record":   func(*rapid.T) { m.serverRecord() },
			"confirm":  func(*rapid.T) { m.confirm() },
			"settle":   m.settle,
			"die":      func(*rapid.T) { m.die() },
			"makeAnew": func(*rapid.T) { anew = anew || !m.held; m.makeAnew() },
			"acquire": func(t *rapid.T) {
				if !m.held && !anew {
					require.Empty(t, m.known.gapTo(foundSlot{system: m.system, mark: m.slot}), "it is the same slot: %+v", m)
				}
				m.acquire(t)
				anew = false
			},
		})
	})
}

func TestGapTo(t *testing.T) {
	t.Parallel()
	known := knownStream{system: 7, bound: 0x2000}
	for _, test := range []struct {
		name   string
		known  knownStream
		found  foundSlot
		reason string
	}{
		{"nothing is known", knownStream{}, foundSlot{system: 7, mark: 0x9000}, ""},
		{"a holder's position", known, foundSlot{system: 7, mark: 0x9001}, ""},
		{"a position that was written down", known, foundSlot{system: 7, mark: 0x2000}, ""},
		{"gone back, as a standby's copy is", known, foundSlot{system: 7, mark: 0x1000}, ""},
		{"made anew", known, foundSlot{system: 7, mark: 0x2008}, "no holder has confirmed 0/2008"},
		{"another cluster", known, foundSlot{system: 8, mark: 0x1001}, "another database cluster (system identifier 8, before 7)"},
		{"known to be lost", knownStream{system: 7, bound: 0x2000, lost: "it was invalidated"}, foundSlot{system: 7, mark: 0x1001}, "it was invalidated"},
	} {
		reason := test.known.gapTo(test.found)
		if test.reason == "" {
			require.Empty(t, reason, test.name)
		} else {
			require.Contains(t, reason, test.reason, test.name)
		}
	}
}

func TestSlotMark(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		lsn := saga.LSN(rapid.Uint64Range(0, 1<<50).Draw(t, "lsn") * 8)
		require.Equal(t, lsn, SlotMark(lsn).LSN())
		require.Equal(t, lsn, MarkOf(lsn).LSN())
		require.False(t, SlotMark(lsn).Holder())
		require.Equal(t, lsn != 0, MarkOf(lsn).Holder())
	})
}
