package saga

import (
	"fmt"
	"strconv"
	"strings"
)

// LSN is a position in PostgreSQL's write-ahead log, in bytes.
type LSN uint64

// String returns PostgreSQL's text form, such as "0/16B3748".
func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l)) }

// ParseLSN reads PostgreSQL's text form of a position.
func ParseLSN(s string) (LSN, error) {
	high, low, ok := strings.Cut(s, "/")
	if ok {
		h, errH := strconv.ParseUint(high, 16, 32)
		l, errL := strconv.ParseUint(low, 16, 32)
		if errH == nil && errL == nil {
			return LSN(h<<32 | l), nil
		}
	}
	return 0, fmt.Errorf("parse LSN %q: want two hexadecimal numbers joined by a slash, such as 0/16B3748", s)
}

// MarshalText writes the text form, as the CLI and the stream's state show it.
func (l LSN) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads the text form.
func (l *LSN) UnmarshalText(b []byte) error {
	v, err := ParseLSN(string(b))
	if err == nil {
		*l = v
	}
	return err
}

// The widths of a version. 53 bits of LSN last a database that writes 1 TB of
// WAL a day for 24 years; the LSN never restarts within an epoch. 10 bits of
// epoch allow 1,023 promotions or restores in a cluster's life. Together they
// fill the 63 bits that an Elasticsearch external version (a signed long) has.
const (
	lsnBits   = 53
	epochBits = 10
	// MaxLSN is the greatest position that a version can carry.
	MaxLSN = LSN(1<<lsnBits - 1)
	// MaxEpoch is the greatest epoch that a version can carry.
	MaxEpoch = Epoch(1<<epochBits - 1)
)

// Epoch counts how often the WAL may have gone back: it rises when the database
// answers from another system identifier, another timeline, or from before a
// position that it had already reached. The first epoch is 1.
type Epoch uint16

// Version orders all changes of a row: the epoch in its 10 high bits and an LSN
// in its 53 low bits. A greater version is a later change. Zero is no version.
type Version int64

// NewVersion joins an epoch and a position.
func NewVersion(epoch Epoch, lsn LSN) (Version, error) {
	if epoch == 0 || epoch > MaxEpoch {
		return 0, fmt.Errorf("version: epoch %d is outside 1..%d", epoch, MaxEpoch)
	}
	if lsn > MaxLSN {
		return 0, fmt.Errorf("version: LSN %s is above %s", lsn, MaxLSN)
	}
	return Version(uint64(epoch)<<lsnBits | uint64(lsn)), nil
}

// Epoch returns the version's epoch.
func (v Version) Epoch() Epoch { return Epoch(uint64(v) >> lsnBits) }

// LSN returns the version's position.
func (v Version) LSN() LSN { return LSN(uint64(v) & uint64(MaxLSN)) }

// String returns the decimal form, which JSON and Kafka's headers carry.
func (v Version) String() string { return strconv.FormatInt(int64(v), 10) }

// Padded returns the decimal form with 19 digits, whose order as text is the
// order of the versions. Redis compares versions in this form, because Lua's
// numbers are doubles and would merge neighbours above 2^53.
func (v Version) Padded() string { return fmt.Sprintf("%019d", int64(v)) }

// ParseVersion reads the decimal form, padded or not.
func ParseVersion(s string) (Version, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("parse version %q: want a decimal number of at most 19 digits", s)
	}
	return Version(n), nil
}

// MarshalText writes the decimal form: in JSON a version is a string, since it
// is over 2^53 and many readers hold JSON numbers as doubles.
func (v Version) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads the decimal form.
func (v *Version) UnmarshalText(b []byte) error {
	n, err := ParseVersion(string(b))
	if err == nil {
		*v = n
	}
	return err
}
