package kafkapub

import (
	"github.com/capsaga/capsaga/internal/pgtext"
	"github.com/capsaga/capsaga/saga"
)

// encoding is how the values of a column are written.
type encoding struct {
	info     *pgtext.Type
	modifier int32     // the column's, else its domain's; -1 for none
	element  *encoding // of an array's elements, else nil
	modes    modes
}

func encodingOf(info *pgtext.Type, modifier int32, m modes) encoding {
	if modifier == -1 {
		modifier = info.Modifier
	}
	e := encoding{info: info, modifier: modifier, modes: m}
	if info.Element != nil {
		element := encodingOf(info.Element, modifier, m)
		e.element = &element
	}
	return e
}

// modes are what the catalog chooses of the encodings. The zero value has the
// defaults.
type modes struct {
	decimal decimalMode
	time    timeMode
}

type decimalMode byte

const (
	decimalString decimalMode = iota
	decimalPrecise
	decimalDouble
)

type timeMode byte

const (
	timeAdaptive timeMode = iota
	timeAdaptiveMicros
	timeConnect
	timeISO
	timeMicros
	timeNanos
	timeStructured
)

// modesOf returns the modes of a catalog, which has checked their names; nil and
// what it does not say mean the defaults.
func modesOf(c *saga.Catalog) (m modes) {
	if c == nil {
		return m
	}
	switch c.DecimalHandlingMode {
	case saga.DecimalPrecise:
		m.decimal = decimalPrecise
	case saga.DecimalDouble:
		m.decimal = decimalDouble
	case saga.DecimalString:
	}
	switch c.TimePrecisionMode {
	case saga.TimeAdaptiveMicroseconds:
		m.time = timeAdaptiveMicros
	case saga.TimeConnect:
		m.time = timeConnect
	case saga.TimeISOString:
		m.time = timeISO
	case saga.TimeMicroseconds:
		m.time = timeMicros
	case saga.TimeNanoseconds:
		m.time = timeNanos
	case saga.TimeStructured:
		m.time = timeStructured
	case saga.TimeAdaptive:
	}
	return m
}
