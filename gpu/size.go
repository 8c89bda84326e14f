package gpu

import (
	"fmt"
	"math/big"
	"strconv"
	"strings"
)

// ParseSize reads a number of bytes: digits, at most one decimal point, and one
// of the units B, KiB, MiB, GiB, TiB, KB, MB, GB, TB (powers of 1024 with an i,
// of 1000 without) or none for bytes. "1.5GiB" is 1610612736. The result must be
// a whole number of bytes that fits in 64 bits.
func ParseSize(s string) (uint64, error) {
	bad := func(why string) error {
		return fmt.Errorf("size %q %s; want a number and a unit, like 2GiB or 500MiB", s, why)
	}
	digits := strings.TrimRight(s, "BKMGTi")
	number, ok := new(big.Rat).SetString(digits)
	// SetString also reads signs, exponents and fractions, which no size has.
	if !ok || len(digits) > 40 || strings.Trim(digits, "0123456789.") != "" {
		return 0, bad("is not a size")
	}
	factor, ok := unitFactor(s[len(digits):])
	if !ok {
		return 0, bad("has an unknown unit")
	}
	number.Mul(number, new(big.Rat).SetUint64(factor))
	if !number.IsInt() {
		return 0, bad("is not a whole number of bytes")
	}
	if !number.Num().IsUint64() {
		return 0, bad("is too large")
	}
	return number.Num().Uint64(), nil
}

func unitFactor(unit string) (uint64, bool) {
	switch unit {
	case "", "B":
		return 1, true
	case "KiB":
		return 1 << 10, true
	case "MiB":
		return 1 << 20, true
	case "GiB":
		return 1 << 30, true
	case "TiB":
		return 1 << 40, true
	case "KB":
		return 1e3, true
	case "MB":
		return 1e6, true
	case "GB":
		return 1e9, true
	case "TB":
		return 1e12, true
	}
	return 0, false
}

// FormatSize writes a number of bytes for people, in the largest binary unit of
// which there is at least one, rounded to one decimal: "139.8 GiB".
func FormatSize(bytes uint64) string {
	units := []struct {
		name string
		size float64
	}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}
	for _, u := range units {
		if v := float64(bytes) / u.size; v >= 1 {
			return strconv.FormatFloat(v, 'f', 1, 64) + " " + u.name
		}
	}
	return strconv.FormatUint(bytes, 10) + " B"
}
