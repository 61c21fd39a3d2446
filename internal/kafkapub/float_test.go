package kafkapub

import (
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// What PostgreSQL writes, and what Java's Double.toString and Float.toString do of
// the same number (JDK 19 and up).
func TestFloatsAreJavas(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text, want string
		bits       int
	}{
		{"0", "0.0", 64}, {"-0", "-0.0", 64}, {"1", "1.0", 64}, {"-1.5", "-1.5", 64}, {"100", "100.0", 64}, {"0.1", "0.1", 64},
		{"0.001", "0.001", 64}, {"0.00099", "9.9E-4", 64}, {"0.0001", "1.0E-4", 64}, {"1e-05", "1.0E-5", 64}, {"1.25e-07", "1.25E-7", 64},
		{"9999999", "9999999.0", 64}, {"9999999.5", "9999999.5", 64}, {"10000000", "1.0E7", 64}, {"12345678.9", "1.23456789E7", 64},
		{"1e+20", "1.0E20", 64}, {"1e+300", "1.0E300", 64}, {"1.7976931348623157e+308", "1.7976931348623157E308", 64},
		{"5e-324", "4.9E-324", 64}, {"1e-323", "9.9E-324", 64}, {"2.2250738585072014e-308", "2.2250738585072014E-308", 64},
		{"1.1", "1.1", 32}, {"3.4028235e+38", "3.4028235E38", 32}, {"1e-45", "1.4E-45", 32}, {"16777216", "1.6777216E7", 32},
		{"NaN", `"NaN"`, 64}, {"Infinity", `"Infinity"`, 64}, {"-Infinity", `"-Infinity"`, 32},
	} {
		require.Equal(t, c.want, string(appendFloat(nil, []byte(c.text), c.bits)), c.text)
	}
}

func TestFloatsKeepTheirValueProperty(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.Float64().Draw(t, "value")
		if text := strconv.FormatFloat(value, 'g', -1, 64); value == value && text != "+Inf" && text != "-Inf" {
			again, err := strconv.ParseFloat(string(appendFloat(nil, []byte(text), 64)), 64)
			require.NoError(t, err)
			require.Equal(t, value, again)
		}
	})
}

// What Jackson escapes, and how.
func TestStringsAreJacksons(t *testing.T) {
	t.Parallel()
	require.Equal(t, `"\"\\\b\f\n\r\t/\u0001\u001F`+"\x7f<é😀\u2028"+`\ufffd"`, string(appendString(nil, []byte("\"\\\b\f\n\r\t/\x01\x1f\x7f<é😀\u2028\xff"))))
}
