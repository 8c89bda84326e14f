//go:build linux

package main

import (
	"fmt"
	"strconv"
	"strings"
)

// size is a number of bytes, as a flag: 64MiB, 2GiB, or plain bytes.
type size int64

// Set implements flag.Value.
func (s *size) Set(text string) error {
	unit := int64(1)
	for suffix, u := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if rest, ok := strings.CutSuffix(text, suffix); ok {
			text, unit = rest, u
			break
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 1 || n > 1<<40/unit {
		return fmt.Errorf("size %q: want something like 64MiB or 2GiB", text)
	}
	*s = size(n * unit)
	return nil
}

// String implements flag.Value.
func (s *size) String() string {
	switch n := int64(*s); {
	case n >= 1<<30 && n%(1<<30) == 0:
		return strconv.FormatInt(n>>30, 10) + " GiB"
	default:
		return strconv.FormatInt(n>>20, 10) + " MiB"
	}
}
