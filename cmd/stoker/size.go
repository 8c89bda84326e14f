package main

import (
	"fmt"
	"math/big"
	"strings"
)

// parseRate reads bytes per second: 500MB, 500Mi, 1GiB, 1.5G, with or without
// /s; 0 or "" is unlimited. The result is a whole number of bytes.
func parseRate(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	bad := fmt.Errorf("%q is no whole number of bytes per second; write it like 500MB or 200MiB", s)
	text := strings.TrimSuffix(strings.TrimSpace(s), "/s")
	digits := strings.TrimRight(text, "kKMGTiB")
	factor, ok := rateFactor(strings.TrimSuffix(text[len(digits):], "B"))
	if !ok || digits == "" || len(digits) > 20 || strings.Trim(digits, "0123456789.") != "" {
		return 0, bad
	}
	n, ok := new(big.Rat).SetString(digits)
	if !ok {
		return 0, bad
	}
	n.Mul(n, big.NewRat(factor, 1))
	if !n.IsInt() || !n.Num().IsInt64() {
		return 0, bad
	}
	return n.Num().Int64(), nil
}

// rateFactor is what a unit without its B stands for.
func rateFactor(unit string) (int64, bool) {
	switch unit {
	case "":
		return 1, true
	case "k", "K":
		return 1e3, true
	case "M":
		return 1e6, true
	case "G":
		return 1e9, true
	case "T":
		return 1e12, true
	case "Ki":
		return 1 << 10, true
	case "Mi":
		return 1 << 20, true
	case "Gi":
		return 1 << 30, true
	case "Ti":
		return 1 << 40, true
	}
	return 0, false
}

// humanBytes prints bytes in binary units with three digits at the most
// before the point.
func humanBytes(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n)/1024, 0
	for value >= 1023.95 && unit < 5 {
		value /= 1024
		unit++
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTPE"[unit])
}
