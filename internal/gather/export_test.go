package gather

// Overdue is when a request does not count among those under way any more.
const Overdue = overdue

// Idle reports whether nothing is kept of earlier calls.
func (s *Sink) Idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.lanes) == 0
}
