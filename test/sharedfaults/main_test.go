package sharedfaults

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/stoker-project/stoker/test/daemon"
	"github.com/stoker-project/stoker/test/ordeal"
	"github.com/stoker-project/stoker/test/weakfs"
)

var (
	seedFlag   = flag.Uint64("seed", 0, "seed of the walk; 0 takes the fixed one, then a new one, and prints it")
	stepsFlag  = flag.Int("steps", 0, "steps of each walk; 0 is what CI runs")
	agentsFlag = flag.Int("agents", 4, "agents that share the volume")
)

// stoker is the path of the program that TestMain built.
var stoker string

func TestMain(m *testing.M) {
	if code, ran := weakfs.Main(); ran {
		os.Exit(code)
	}
	flag.Parse()
	if code, ran := ordeal.RunInside(); ran {
		os.Exit(code)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "stoker-sharedfaults")
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
