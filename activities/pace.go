package activities

import (
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// paceSpacing is the distance of two attempts in a crowd: 50 a second. Temporal's
	// development server manages about 300 of them a second, and callers of new
	// sagas want to share that.
	paceSpacing = 20 * time.Millisecond
	// paceHorizon bounds how far ahead attempts are booked, and with it how long
	// after a system's return a saga may still wait.
	paceHorizon = time.Minute
	// paceGrain is the width of the places that attempts are booked in.
	paceGrain  = 100 * time.Millisecond
	paceRoom   = int(paceGrain / paceSpacing)
	pacePlaces = int64(paceHorizon / paceGrain)
)

// pace spreads the next attempts of the many sagas that wait for one system. Each
// wants its own backoff and gets it while there is room at that moment, else the
// first later moment that has room. So a saga alone sees its plain backoff, and
// however many wait, this worker makes about 50 attempts a second, and no more
// while fewer than 3,000 wait; the others are spread over half a minute to a
// minute.
//
// Nobody sleeps: the moment is told to Temporal, whose timer it is, so that an
// operator can pause, reset or hurry a waiting activity. A booking that is not
// used costs nothing but the room.
type pace struct {
	mu     sync.Mutex
	booked map[string]map[int64]int // by system, then place in time
}

// book returns how long an attempt for a system is to wait, where own is its own
// jittered backoff.
func (p *pace) book(system string, now time.Time, own time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.booked == nil {
		p.booked = map[string]map[int64]int{}
	}
	places := p.booked[system]
	if places == nil {
		places = map[int64]int{}
		p.booked[system] = places
	}
	first, last := placeOf(now), placeOf(now)+pacePlaces
	if int64(len(places)) > 2*pacePlaces { // those that have passed
		for place := range places {
			if place < first {
				delete(places, place)
			}
		}
	}
	wanted := placeOf(now.Add(own))
	for place := wanted; place <= last; place++ {
		taken := places[place]
		if taken >= paceRoom {
			continue
		}
		places[place]++
		if place == wanted {
			return own
		}
		return time.Unix(0, place*int64(paceGrain)).Add(time.Duration(taken) * paceSpacing).Sub(now)
	}
	return paceHorizon/2 + rand.N(paceHorizon/2)
}

// clear forgets the bookings of a system that is back: who fails now fails by
// itself, and must not queue behind those who will succeed.
func (p *pace) clear(system string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.booked, system)
}

func placeOf(moment time.Time) int64 { return moment.UnixNano() / int64(paceGrain) }
