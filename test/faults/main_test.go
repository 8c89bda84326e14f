package faults

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/stoker-project/stoker/test/daemon"
	"github.com/stoker-project/stoker/test/ordeal"
)

var (
	seedFlag  = flag.Uint64("seed", 31, "seed of the walks; 0 takes a new one and prints it")
	stepsFlag = flag.Int("steps", 0, "steps of each walk; 0 is what CI runs")
)

// stoker is the path of the program that TestMain built.
var stoker string

func TestMain(m *testing.M) {
	flag.Parse()
	if code, ran := ordeal.RunInside(); ran {
		os.Exit(code)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "stoker-faults")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if stoker, err = daemon.Build(context.Background(), dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}
