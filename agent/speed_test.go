package agent

import (
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stoker-project/stoker/fetcher/store"
)

// readingAt is a reading of so many MiB at so many MiB per second.
func readingAt(size, speed float64) store.Reading {
	return store.Reading{Bytes: int64(size * mib), Took: time.Duration(size / speed * float64(time.Second))}
}

func TestSpeed(t *testing.T) {
	repeat := func(n int, r store.Reading) []store.Reading {
		out := make([]store.Reading, n)
		for i := range out {
			out[i] = r
		}
		return out
	}
	steady := repeat(600, readingAt(1, 400))
	for name, c := range map[string]struct {
		readings []store.Reading
		every    time.Duration
		mibs     float64 // per second; 0: not known
	}{
		"nothing":                          {},
		"too little":                       {repeat(7, readingAt(1, 400)), time.Second, 0},
		"small files only":                 {repeat(1000, readingAt(0.1, 1)), time.Second, 0},
		"small files among others":         {append(repeat(600, readingAt(0.1, 1)), steady...), time.Second, 400},
		"nothing that took time":           {repeat(100, store.Reading{Bytes: mib}), time.Second, 0},
		"always the same":                  {steady, time.Second, 400},
		"read by the scrub, slowly":        {steady, time.Minute, 400},
		"a stall":                          {append(repeat(1, store.Reading{Bytes: mib, Took: time.Minute}), steady...), time.Second, 400},
		"a third from some cache below it": {append(repeat(290, readingAt(1, 8000)), steady...), time.Second, 400},
		"another volume by now":            {append(repeat(5000, readingAt(1, 4000)), repeat(3000, readingAt(1, 100))...), time.Second, 100},
	} {
		now, laps := noon, []lap(nil)
		for _, r := range c.readings {
			now = now.Add(c.every)
			laps = addReading(laps, r, now)
		}
		got := speedOf(laps)
		if mibs := float64(got.Rate) / mib; math.Abs(mibs-c.mibs) > 0.01*c.mibs {
			t.Errorf("%s: %.1f MiB/s, not %.1f", name, mibs, c.mibs)
		}
		if len(laps) > mostLaps || got.Rate > 0 && !got.At.Equal(now) {
			t.Errorf("%s: %d laps, last measured %s ago", name, len(laps), now.Sub(got.At))
		}
	}
}

func TestLoadSeconds(t *testing.T) {
	s := measuredSpeed{Rate: 100}
	for _, c := range []struct{ bytes, resident, want int64 }{{1000, 0, 10}, {1001, 0, 11}, {1000, 950, 1}, {1000, 1000, 0}, {1000, 2000, 0}, {0, 0, 0}} {
		if got, ok := s.loadSeconds(c.bytes, c.resident); got != c.want || !ok {
			t.Errorf("%d bytes with %d in memory take %d s", c.bytes, c.resident, got)
		}
	}
	if _, ok := (measuredSpeed{}).loadSeconds(1, 0); ok {
		t.Error("an estimate of nothing")
	}
}

// What is said of the speed changes with it, or once an hour, not with its noise.
func TestRestate(t *testing.T) {
	said, writes := measuredSpeed{}, 0
	for i := range 24 * 60 {
		now := measuredSpeed{Rate: int64(1000 + 80*math.Sin(float64(i))), At: noon.Add(time.Duration(i) * time.Minute)}
		if next := restate(said, now); next != said {
			said, writes = next, writes+1
		}
	}
	if writes > 48 || writes < 24 {
		t.Errorf("a day of noise is said %d times", writes)
	}
	slow := measuredSpeed{Rate: 500, At: said.At.Add(time.Second)}
	if got := restate(said, slow); got != slow {
		t.Errorf("half the speed is said as %+v", got)
	}
	if got := restate(said, measuredSpeed{}); got != said {
		t.Errorf("what is not known any more is said as %+v", got)
	}
	back := measuredSpeed{Rate: said.Rate, At: said.At.Add(-time.Minute)}
	if got := restate(said, back); got != back {
		t.Errorf("after the clock was set back, %+v", got)
	}
}

func TestSpeedIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		file := filepath.Join(t.TempDir(), speedFile)
		meter := func() *speedometer {
			return &speedometer{file: file, write: func(data []byte) error { return os.WriteFile(file, data, 0o644) }, logger: slog.New(slog.NewTextHandler(&log, nil))}
		}
		s := meter()
		s.add(readingAt(32, 500))
		s.keep(true)
		if _, err := os.Stat(file); err == nil {
			t.Error("it was written before what an earlier run knew was read")
		}
		s.restore()
		s.keep(false)
		if _, err := os.Stat(file); err == nil {
			t.Error("it was written at once")
		}
		time.Sleep(2 * speedKeep)
		s.keep(false)
		time.Sleep(time.Hour)
		again := meter()
		again.restore()
		if got, want := again.now(), s.now(); got.Rate != want.Rate || !got.At.Equal(want.At) || got.Rate < 499*mib {
			t.Errorf("kept as %+v, not %+v", got, want)
		}
		// The clock was ahead when it was written.
		ahead, err := readLaps(file, s.now().At.Add(-time.Hour))
		if err != nil || len(ahead) != 1 || ahead[0].At.After(s.now().At.Add(-time.Hour)) {
			t.Errorf("from the future: %+v, %v", ahead, err)
		}
		for _, bad := range []string{"", "{", `{"version":2}`, `{"version":1,"laps":[{"bytes":-1,"seconds":0}]}`} {
			if err := os.WriteFile(file, []byte(bad), 0o644); err != nil {
				t.Fatal(err)
			}
			damaged := meter()
			damaged.restore()
			if got := damaged.now(); got.Rate != 0 {
				t.Errorf("%q is read as %+v", bad, got)
			}
		}
		if strings.Count(log.String(), "measure the volume's speed anew") != 3 {
			t.Errorf("it was told as\n%s", log.String())
		}
	})
}
