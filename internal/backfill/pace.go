package backfill

const (
	// maxRows bounds a chunk, so that nobody waits long for its rows.
	maxRows = 4000
	// wantBytes is what a chunk's message is to have, and maxBytes what it may have
	// unless it is a single row.
	wantBytes = 1 << 20
	maxBytes  = 4 << 20
)

// pace is how much the next chunk takes.
type pace struct {
	rows int
	// ratio is how many bytes of text the rows have for a byte as they are stored,
	// where large values are compressed.
	ratio float64
}

func newPace() pace { return pace{rows: maxRows, ratio: 2} }

// stored is how many bytes of stored rows are to go in a chunk.
func (p *pace) stored() int64 { return max(1, int64(wantBytes/p.ratio)) }

// learn takes over what rows of so many stored bytes came to, and gives a pace
// that was slowed down its speed back.
func (p *pace) learn(stored, text int64) {
	if stored > 0 {
		p.ratio = min(max(float64(text)/float64(stored), 0.25), 1000)
	}
	p.rows = min(2*p.rows, maxRows)
}

// slow is for a chunk that took too long or was too large. It returns false when
// it was a single row already.
func (p *pace) slow() bool {
	if p.rows == 1 {
		return false
	}
	p.rows = max(1, p.rows/8)
	return true
}
