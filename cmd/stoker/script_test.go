package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestScripts runs testdata/script: the specification of the command line,
// each script with a Hub stand-in of its own and the real binary.
//
// Commands beside testscript's own:
//
//	exits CODE stoker ARG...    run it, and hold its exit code against CODE
//	hub ...                     see hubCommand
//	interrupt SIGNAL REGEXP stoker ARG...
//	                            start it, signal it once standard error matches,
//	                            and hold its exit code against 130
//	powerless CODE stoker ARG...
//	                            exits, without root's right to pass over permissions
//	shape                       list the fields of the JSON on standard output
//	                            and their types in the file "shape"
//	value PATH WANT             hold a value in that JSON against WANT
//	jsonlines                   every line on standard error is a JSON object
//	hold LOCK                   hold a lock of the store at models to the script's end
//	flip FILE                   invert the first byte of a file, keeping its times
//	beyond FILE                 make a sparse file larger than the disk has room for
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("TZ", "UTC")
			// Otherwise each process sleeps for a second before it exits.
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			return startHub(env)
		},
		Condition: func(cond string) (bool, error) {
			if cond == "mount" {
				return mayMount(), nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":     exitsCommand,
			"hub":       hubCommand,
			"interrupt": interruptCommand,
			"powerless": powerlessCommand,
			"tmpfs":     tmpfsCommand,
			"readonly":  readonlyCommand,
			"shape":     shapeCommand,
			"value":     valueCommand,
			"jsonlines": jsonlinesCommand,
			"flip":      flipCommand,
			"beyond":    beyondCommand,
			"hold":      holdCommand,
		},
	})
}

// checkArgs ends the script unless a command was called as its usage says.
func checkArgs(ts *testscript.TestScript, neg bool, args []string, least int, usage string) {
	if neg || len(args) < least {
		ts.Fatalf("usage: %s", usage)
	}
}

func exitsCommand(ts *testscript.TestScript, neg bool, args []string) {
	checkArgs(ts, neg, args, 2, "exits CODE COMMAND ARG...")
	checkCode(ts, args[0], ts.Exec(args[1], args[2:]...))
}

func checkCode(ts *testscript.TestScript, want string, err error) {
	var exit *exec.ExitError
	got := 0
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(got) != want {
		ts.Fatalf("exit code is %d, want %s", got, want)
	}
}

// command makes a command that sees the script's environment.
func command(ts *testscript.TestScript, name string, args ...string) *exec.Cmd {
	var env []string
	for _, key := range []string{"PATH", "HOME", "TMPDIR", "TZ", "GOCOVERDIR", "GORACE", "HF_ENDPOINT", "HF_TOKEN", "HF_TOKEN_PATH", "STOKER_STORE"} {
		if value := ts.Getenv(key); value != "" {
			env = append(env, key+"="+value)
		}
	}
	path, err := exec.LookPath(name)
	ts.Check(err)
	cmd := exec.Command(path, args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = ts.MkAbs("."), env, ts.Stdout(), ts.Stderr()
	return cmd
}

func shapeCommand(ts *testscript.TestScript, neg bool, args []string) {
	checkArgs(ts, neg, args, 0, "shape")
	fields := map[string]bool{}
	collectShape("", decodeStdout(ts), fields)
	var lines []string
	for f := range fields {
		lines = append(lines, f)
	}
	slices.Sort(lines)
	ts.Check(os.WriteFile(ts.MkAbs("shape"), []byte(strings.Join(lines, "\n")+"\n"), 0o644))
}

func decodeStdout(ts *testscript.TestScript) any {
	dec := json.NewDecoder(strings.NewReader(ts.ReadFile("stdout")))
	dec.UseNumber()
	var v any
	ts.Check(dec.Decode(&v))
	if dec.More() {
		ts.Fatalf("standard output goes on behind its JSON document")
	}
	return v
}

func collectShape(at string, v any, fields map[string]bool) {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			collectShape(strings.TrimPrefix(at+"."+key, "."), value, fields)
		}
	case []any:
		if len(v) == 0 {
			fields[at+" empty list"] = true
		}
		for _, value := range v {
			collectShape(at+"[]", value, fields)
		}
	case json.Number:
		kind := " number"
		if _, err := v.Int64(); err == nil {
			kind = " integer"
		}
		fields[at+kind] = true
	default:
		fields[fmt.Sprintf("%s %T", at, v)] = true
	}
}

func valueCommand(ts *testscript.TestScript, neg bool, args []string) {
	checkArgs(ts, neg, args, 2, "value PATH WANT")
	v := decodeStdout(ts)
	for key := range strings.SplitSeq(args[0], ".") {
		switch at := v.(type) {
		case map[string]any:
			var ok bool
			if v, ok = at[key]; !ok {
				ts.Fatalf("there is no %q in %s", key, args[0])
			}
		case []any:
			i, err := strconv.Atoi(key)
			if err != nil || i >= len(at) {
				ts.Fatalf("there is no element %q in %s", key, args[0])
			}
			v = at[i]
		default:
			ts.Fatalf("%s goes deeper than the document", args[0])
		}
	}
	if got := fmt.Sprint(v); got != args[1] {
		ts.Fatalf("%s is %s, want %s", args[0], got, args[1])
	}
}

func jsonlinesCommand(ts *testscript.TestScript, neg bool, args []string) {
	checkArgs(ts, neg, args, 0, "jsonlines")
	lines, n := bufio.NewScanner(strings.NewReader(ts.ReadFile("stderr"))), 0
	for lines.Scan() {
		n++
		var object map[string]any
		if err := json.Unmarshal(lines.Bytes(), &object); err != nil {
			ts.Fatalf("line %d on standard error is no JSON object: %v: %s", n, err, lines.Text())
		}
	}
	ts.Check(lines.Err())
	if n == 0 {
		ts.Fatalf("standard error is empty")
	}
}
