package kafkapub

import (
	"sync"

	"github.com/capsaga/capsaga/internal/kafka"
)

// memory is what a process's sessions learn from each other about topics. It is
// lost with the process, and then learned again.
type memory struct {
	mu     sync.Mutex
	topics map[string]*lesson
}

// lesson is what was learned about one topic.
type lesson struct {
	refusal error // for good, and not yet acted on
	limit   int   // that records were written by last
	tooLong bool  // a record within the limit was refused for its size
	// ceiling is a limit found by trying, while the brokers tell told: they enforce
	// another one than they tell.
	ceiling, told int
}

func (m *memory) lesson(topic string) *lesson {
	if m.topics == nil {
		m.topics = map[string]*lesson{}
	}
	if m.topics[topic] == nil {
		m.topics[topic] = &lesson{}
	}
	return m.topics[topic]
}

// limit returns the limit to write a topic's records by, of which the brokers tell
// one. After a refusal for the size that is the one told, if it is lower than
// before, else half of what was refused: so it comes, after at most as many
// refusals as the limit has binary digits, to what the brokers take, or to nothing.
func (m *memory) limit(topic string, told int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.lesson(topic)
	switch {
	case l.tooLong && told >= l.limit:
		l.ceiling, l.told = l.limit/2, told
	case told != l.told:
		l.ceiling = told
	}
	l.told, l.tooLong = told, false
	l.limit = min(told, l.ceiling)
	return l.limit
}

// refused takes note of a refusal.
func (m *memory) refused(topic string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if kafka.TooLarge(err) {
		m.lesson(topic).tooLong = true
		return
	}
	m.lesson(topic).refusal = err
}

func (m *memory) refusal(topic string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lesson(topic).refusal
}

func (m *memory) forget(topic string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.topics, topic)
}
