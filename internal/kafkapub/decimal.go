package kafkapub

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/big"
	"strconv"
)

// appendNumeric appends a numeric. Debezium has no form for what is no number in
// mode precise, and stops; there it is named as in mode string, which is neither
// base64 nor an object and so cannot be taken for a number.
func appendNumeric(dst []byte, e *encoding, text []byte) []byte {
	if e.modes.decimal == decimalDouble {
		return appendDouble(dst, text)
	}
	switch string(text) {
	case "NaN":
		return append(dst, `"NAN"`...)
	case "Infinity":
		return append(dst, `"POSITIVE_INFINITY"`...)
	case "-Infinity":
		return append(dst, `"NEGATIVE_INFINITY"`...)
	}
	if e.modes.decimal == decimalPrecise {
		if e.modifier == -1 {
			return appendVariableScale(dst, text)
		}
		return appendUnscaled(dst, text, numericScale(e.modifier))
	}
	return appendDigits(dst, text)
}

// moneyScale is how many digits money has behind the point with lc_monetary=C,
// and Debezium's default of money.fraction.digits.
const moneyScale = 2

// appendMoney appends an amount.
func appendMoney(dst []byte, mode decimalMode, text []byte) []byte {
	if mode == decimalString {
		return append(appendAmount(append(dst, '"'), text), '"')
	}
	var buffer [32]byte
	amount := appendAmount(buffer[:0], text)
	if mode == decimalDouble {
		return appendDouble(dst, amount)
	}
	return appendUnscaled(dst, amount, moneyScale)
}

// appendAmount leaves out the currency sign and the separators, which
// lc_monetary=C writes as "-$1,234.50".
func appendAmount(dst, text []byte) []byte {
	for _, c := range text {
		if c == '-' || c == '.' || c >= '0' && c <= '9' {
			dst = append(dst, c)
		}
	}
	return dst
}

func appendDigits(dst, text []byte) []byte {
	return append(append(append(dst, '"'), text...), '"')
}

// appendDouble appends the nearest double; beyond the greatest there is infinity,
// as from BigDecimal.doubleValue.
func appendDouble(dst, text []byte) []byte {
	value, _ := strconv.ParseFloat(string(text), 64)
	switch {
	case math.IsNaN(value):
		return append(dst, `"NaN"`...)
	case math.IsInf(value, 1):
		return append(dst, `"Infinity"`...)
	case math.IsInf(value, -1):
		return append(dst, `"-Infinity"`...)
	}
	var buffer [32]byte
	return appendFloat(dst, strconv.AppendFloat(buffer[:0], value, 'e', -1, 64), 64)
}

// numericScale is the scale in a numeric's type modifier, whose low eleven bits
// are a signed number.
func numericScale(modifier int32) int {
	return int((modifier-4)&0x7ff^0x400) - 0x400
}

// appendVariableScale appends a numeric without a declared scale as Debezium's
// VariableScaleDecimal, without zeros at the end of its fraction.
func appendVariableScale(dst, text []byte) []byte {
	scale := 0
	if point := bytes.IndexByte(text, '.'); point >= 0 {
		text = bytes.TrimRight(text, "0")
		scale = len(text) - point - 1
	}
	dst = append(dst, `{"scale":`...)
	dst = strconv.AppendInt(dst, int64(scale), 10)
	dst = append(dst, `,"value":`...)
	dst = appendUnscaled(dst, text, scale)
	return append(dst, '}')
}

// appendUnscaled appends the base64 of a number's unscaled value, which is
// number * 10^scale in two's complement, the highest byte first and as few bytes as
// hold it. The digits are appended as a string where they do not fit the scale,
// which PostgreSQL sees to.
func appendUnscaled(dst, text []byte, scale int) []byte {
	var buffer [64]byte
	digits, ok := unscaledDigits(buffer[:0], text, scale)
	if !ok {
		return appendDigits(dst, text)
	}
	if len(digits) > 18 { // with the sign: more may not fit 64 bits
		n, ok := new(big.Int).SetString(string(digits), 10)
		if !ok {
			return appendDigits(dst, text)
		}
		return appendBase64(dst, twosComplement(n))
	}
	n, err := strconv.ParseInt(string(digits), 10, 64)
	if err != nil {
		return appendDigits(dst, text)
	}
	var raw [8]byte
	binary.BigEndian.PutUint64(raw[:], uint64(n))
	first := 0
	for first < 7 && (raw[first] == 0 && raw[first+1] < 0x80 || raw[first] == 0xff && raw[first+1] >= 0x80) {
		first++ // a byte that only repeats the next one's sign
	}
	return appendBase64(dst, raw[first:])
}

// unscaledDigits appends the sign and the digits of number * 10^scale; false where
// that is no whole number.
func unscaledDigits(digits, text []byte, scale int) ([]byte, bool) {
	whole, fraction, _ := bytes.Cut(text, []byte{'.'})
	digits = append(append(digits, whole...), fraction...)
	for range scale - len(fraction) {
		digits = append(digits, '0')
	}
	for range len(fraction) - scale { // also whole digits, of a negative scale
		last := len(digits) - 1
		if digits[last] != '0' {
			return nil, false
		}
		if last == 0 {
			break // zero itself
		}
		digits = digits[:last]
	}
	return digits, true
}

// twosComplement returns the bytes of BigInteger.toByteArray.
func twosComplement(n *big.Int) []byte {
	if n.Sign() >= 0 {
		return n.FillBytes(make([]byte, n.BitLen()/8+1))
	}
	n = new(big.Int).Not(n) // -n-1, whose bits are the opposite ones
	raw := n.FillBytes(make([]byte, n.BitLen()/8+1))
	for i := range raw {
		raw[i] = ^raw[i]
	}
	return raw
}
