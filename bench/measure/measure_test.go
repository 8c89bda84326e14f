//go:build linux

package measure_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stoker-project/stoker/bench/measure"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRun(t *testing.T) {
	u, err := measure.Run(t.Context(), measure.Command{
		Args:  []string{"/bin/sh", "-c", `test "$A" = b && read line && test "$line" = in && i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done`},
		Env:   []string{"A=b"},
		Stdin: "in\n",
	})
	if err != nil {
		t.Fatal(err)
	}
	if u.Wall <= 0 || u.CPU <= 0 || u.CPU > 2*u.Wall || u.PeakRSS <= 0 || u.PeakRSS > 32<<20 || u.PeakAnon > u.PeakRSS {
		t.Errorf("it cost %+v", u)
	}
}

func TestRunFails(t *testing.T) {
	_, err := measure.Run(t.Context(), measure.Command{Args: []string{"/bin/sh", "-c", "echo why >&2; exit 3"}})
	if err == nil || !strings.Contains(err.Error(), "exit status 3: why") {
		t.Errorf("got %v", err)
	}
	if _, err := measure.Run(t.Context(), measure.Command{Args: []string{"/no/such/program"}}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// What is interrupted ends with all that it started.
func TestRunInterrupted(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := measure.Run(ctx, measure.Command{Args: []string{"/bin/sh", "-c", "while :; do sleep 1000; done"}, Env: os.Environ()})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestCPU(t *testing.T) {
	before, err := measure.CPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		now, err := measure.CPU(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if now > before {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("busy for 10 s, and no CPU time was counted")
		}
	}
}

func TestSpread(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   measure.Spread
	}{
		{nil, measure.Spread{}},
		{[]float64{7}, measure.Spread{Low: 7, Median: 7, High: 7, N: 1}},
		{[]float64{4, 2}, measure.Spread{Low: 2.5, Median: 3, High: 3.5, N: 2}},
		{[]float64{5, 1, 4, 2, 3}, measure.Spread{Low: 2, Median: 3, High: 4, N: 5}},
	} {
		if got := measure.SpreadOf(c.values); got != c.want {
			t.Errorf("of %v: %v, want %v", c.values, got, c.want)
		}
	}
}
