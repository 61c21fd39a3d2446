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

// The catalog's names of the modes; an empty one has the default too.
var (
	decimalsByName = map[saga.DecimalMode]decimalMode{
		saga.DecimalString: decimalString, saga.DecimalPrecise: decimalPrecise, saga.DecimalDouble: decimalDouble,
	}
	timesByName = map[saga.TimeMode]timeMode{
		saga.TimeAdaptive: timeAdaptive, saga.TimeAdaptiveMicroseconds: timeAdaptiveMicros, saga.TimeConnect: timeConnect,
		saga.TimeISOString: timeISO, saga.TimeMicroseconds: timeMicros, saga.TimeNanoseconds: timeNanos, saga.TimeStructured: timeStructured,
	}
)

// modesOf returns the modes of a catalog, which has checked their names; nil has the
// defaults.
func modesOf(c *saga.Catalog) modes {
	if c == nil {
		return modes{}
	}
	return modes{decimal: decimalsByName[c.DecimalHandlingMode], time: timesByName[c.TimePrecisionMode]}
}
