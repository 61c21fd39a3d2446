package kafkapub

import (
	"bytes"
	"strconv"
)

// appendFloat appends a floating point number as Java writes it, from the shortest
// text that PostgreSQL gives: the same digits, plain from 0.001 to 10,000,000 and
// with an exponent otherwise.
func appendFloat(dst, text []byte, bits int) []byte {
	switch string(text) {
	case "NaN", "Infinity", "-Infinity":
		return appendString(dst, text)
	}
	rest, negative := bytes.CutPrefix(text, []byte{'-'})
	if negative {
		dst = append(dst, '-')
	}
	var buffer [32]byte
	digits, exponent, ok := decimalDigits(buffer[:0], rest)
	if !ok {
		return append(dst, rest...)
	}
	if exponent < leastExponent(bits) && len(digits) == 1 {
		digits, exponent = twoDigits(buffer[:0], rest, bits)
	}
	switch {
	case exponent >= 7 || exponent < -3:
		dst = appendFraction(append(dst, digits[0], '.'), digits[1:])
		return strconv.AppendInt(append(dst, 'E'), int64(exponent), 10)
	case exponent < 0:
		dst = append(dst, "0."...)
		for range -exponent - 1 {
			dst = append(dst, '0')
		}
		return append(dst, digits...)
	}
	for i := range exponent + 1 {
		if i < len(digits) {
			dst = append(dst, digits[i])
		} else {
			dst = append(dst, '0')
		}
	}
	return appendFraction(append(dst, '.'), digits[min(exponent+1, len(digits)):])
}

func appendFraction(dst, digits []byte) []byte {
	if len(digits) == 0 {
		return append(dst, '0')
	}
	return append(dst, digits...)
}

// decimalDigits takes "12.5", "0.05" or "1e-07" apart: its significant digits, and
// the power of ten of the first.
func decimalDigits(digits, text []byte) (_ []byte, exponent int, ok bool) {
	mantissa, power, scientific := bytes.Cut(text, []byte{'e'})
	if scientific {
		n, err := strconv.Atoi(string(power))
		if err != nil {
			return nil, 0, false
		}
		exponent = n
	}
	point := bytes.IndexByte(mantissa, '.')
	if point < 0 {
		point = len(mantissa)
	}
	exponent += point - 1
	for i, c := range mantissa {
		switch {
		case i == point:
		case c < '0' || c > '9':
			return nil, 0, false
		case c == '0' && len(digits) == 0: // a leading zero
			exponent--
		default:
			digits = append(digits, c)
		}
	}
	if len(digits) == 0 { // zero itself
		return append(digits, '0'), 0, true
	}
	return bytes.TrimRight(digits, "0"), exponent, true
}

// leastExponent is the power of ten below which numbers lose digits.
func leastExponent(bits int) int {
	if bits == 32 {
		return -37
	}
	return -307
}

// twoDigits returns the number's nearest two digits where they read as the same
// number: Java prefers them to a single one, which PostgreSQL may have rounded.
func twoDigits(digits, text []byte, bits int) ([]byte, int) {
	value, _ := strconv.ParseFloat(string(text), bits)
	two := strconv.FormatFloat(value, 'e', 1, bits)
	if again, err := strconv.ParseFloat(two, bits); err == nil && again == value {
		text = []byte(two)
	}
	digits, exponent, _ := decimalDigits(digits, text)
	return digits, exponent
}
