package store

import (
	"math"
	"testing"
)

func TestParseDirty(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{
		"MemTotal:  25 kB\nDirty:             2052 kB\nWriteback:           4 kB\nWritebackTmp:        7 kB\n": 2056 << 10,
		"Dirty: 1 kB\n":                  math.MaxInt64,
		"Dirty: x kB\nWriteback: 0 kB\n": math.MaxInt64,
		"":                               math.MaxInt64,
	} {
		if got := parseDirty(text); got != want {
			t.Errorf("%q is %d, want %d", text, got, want)
		}
	}
	if n := dirtyBytes(); n < 0 || n == math.MaxInt64 {
		t.Errorf("this machine's own is %d", n)
	}
}
