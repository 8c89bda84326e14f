package attacks_test

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"
)

// tried is the program that is attacked; empty: it is built.
var tried = flag.String("binary", "", "attack this stoker, not the one of this tree")

// program is where it is.
var program string

// measure is set for a process that runs a program and writes what it took. A test
// cannot know it: by rusage a child took at least what its parent had when it was
// started, and this parent holds next to nothing.
const measure = "STOKER_TEST_MEASURE"

func TestMain(m *testing.M) {
	if file := os.Getenv(measure); file != "" {
		os.Exit(measured(file, os.Args[1:]))
	}
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "stoker-attacks-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = *tried
	if program == "" {
		program = filepath.Join(dir, "stoker")
		build := exec.CommandContext(context.Background(), "go", "build", "-buildvcs=false", "-tags", "disable_grpc_modules,grpcnotrace", "-o", program, "./cmd/stoker")
		build.Dir = filepath.Join("..", "..")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%v\n%s", err, out)
			return 1
		}
	}
	// Most of the time is spent in waiting, for a bound or a server.
	if err := flag.Set("test.parallel", "8"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if testing.Verbose() {
		fmt.Print(table())
	}
	return code
}

// measured runs a program, writes its peak of memory in bytes to a file, and returns
// its exit code.
func measured(file string, args []string) int {
	if err := os.Unsetenv(measure); err != nil {
		panic(err)
	}
	cmd := exec.CommandContext(context.Background(), args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		panic(err)
	}
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		panic("the memory was not measured")
	}
	if err := os.WriteFile(file, fmt.Append(nil, usage.Maxrss<<10), 0o600); err != nil {
		panic(err)
	}
	return cmd.ProcessState.ExitCode()
}

// row is what came of one command beside one attack.
type row struct {
	attack, command, wrote string
	code                   int
	memory                 int64 // bytes of RSS
	took                   time.Duration
}

var rows struct {
	sync.Mutex
	all []row
}

// table returns all rows, sorted by attack, in the order in which they came.
func table() string {
	rows.Lock()
	defer rows.Unlock()
	slices.SortStableFunc(rows.all, func(a, b row) int { return cmp.Compare(a.attack, b.attack) })
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ATTACK\tCOMMAND\tEXIT\tMIB\tSECONDS\tWROTE")
	for _, r := range rows.all {
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%.1f\t%s\n", r.attack, r.command, r.code, r.memory>>20, r.took.Seconds(), r.wrote)
	}
	if err := w.Flush(); err != nil {
		panic(err)
	}
	return b.String()
}
