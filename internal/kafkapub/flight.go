package kafkapub

import (
	"sync"

	"github.com/capsaga/capsaga/internal/stream"
)

// flight keeps the receipts of the records that are on their way, in the order in
// which they were produced, which is that of their acknowledgements.
type flight struct {
	mu       sync.Mutex
	receipts []stream.Receipt
	first    int // of the receipts that are not acknowledged
}

func (f *flight) add(r stream.Receipt) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.first == len(f.receipts) {
		f.receipts, f.first = f.receipts[:0], 0
	} else if f.first > 4096 && f.first > len(f.receipts)/2 {
		f.receipts, f.first = append(f.receipts[:0], f.receipts[f.first:]...), 0
	}
	f.receipts = append(f.receipts, r)
}

func (f *flight) acknowledge(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	stream.Acknowledge(f.receipts[f.first : f.first+n]...)
	f.first += n
}

// fail fails the oldest: what is behind it stays outstanding.
func (f *flight) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.first < len(f.receipts) {
		f.receipts[f.first].Fail(err)
		f.first++
	}
}

func (f *flight) empty() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.first == len(f.receipts)
}
