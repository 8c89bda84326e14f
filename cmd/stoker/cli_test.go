package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/store"
)

func TestExitCodes(t *testing.T) {
	interrupted, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct {
		ctx  context.Context //nolint:containedctx // one case's
		err  error
		want int
	}{
		{t.Context(), nil, 0},
		{t.Context(), errors.New("any"), 1},
		{t.Context(), fetcher.ErrTransient, 1},
		{t.Context(), fetcher.ErrThrottled, 1},
		{t.Context(), store.ErrReadOnly, 1},
		{t.Context(), store.ErrBusy, 1},
		{t.Context(), context.Canceled, 1},
		{t.Context(), usage(fetcher.ErrRefused), 2},
		{t.Context(), fetcher.ErrNothingSelected, 2},
		{t.Context(), fetcher.ErrUnsupported, 2},
		{t.Context(), fetcher.ErrMisconfigured, 2},
		{t.Context(), store.ErrNotFound, 2},
		{t.Context(), fetcher.ErrRefused, 3},
		{t.Context(), fetcher.ErrCorrupt, 4},
		{t.Context(), fetcher.ErrNoSpace, 5},
		{t.Context(), errors.Join(fetcher.ErrCorrupt, fetcher.ErrNoSpace), 5},
		{interrupted, context.Canceled, 130},
		{interrupted, errors.Join(context.Canceled, fetcher.ErrRefused), 130},
		{interrupted, fetcher.ErrCorrupt, 4}, // it was wrong before the signal came
	} {
		err := tt.err
		if err != nil {
			err = fmt.Errorf("pull x: %w", err)
		}
		if got := exitCode(tt.ctx, err); got != tt.want {
			t.Errorf("%v: exit code %d, want %d", err, got, tt.want)
		}
	}
}

// Advice is given once, and where somebody below had none.
func TestAdvice(t *testing.T) {
	hinted := &fetcher.Error{Kind: fetcher.ErrNoSpace, Op: "reserve", Err: errors.New("full"), Hint: "free some"}
	for _, tt := range []struct {
		err  error
		want string
	}{
		{errors.New("any"), ""},
		{hinted, ""},
		{usage(fs.ErrPermission), ""},
		{advised{fs.ErrPermission}, ""},
		{fmt.Errorf("write: %w", fetcher.ErrNoSpace), "stoker gc"},
		{&fetcher.Error{Kind: fetcher.ErrNoSpace, Op: "reserve", Err: errors.New("full")}, "stoker gc"},
		{fmt.Errorf("lock: %w", store.ErrReadOnly), "--store"},
		{fmt.Errorf("lock: %w", fs.ErrPermission), "this user"},
	} {
		got := advice(tt.err)
		if !strings.Contains(got, tt.want) || (tt.want == "") != (got == "") {
			t.Errorf("%v: advice %q, want one with %q", tt.err, got, tt.want)
		}
	}
}

func TestParseRate(t *testing.T) {
	for text, want := range map[string]int64{
		"": 0, "0": 0, "1": 1, "500B": 500, "5k": 5e3, "5K": 5e3, "5kB": 5e3, "5KB": 5e3, "5KiB": 5 << 10, "5Ki": 5 << 10,
		"200MB": 200e6, "200MB/s": 200e6, "200M": 200e6, "200Mi": 200 << 20, " 1.5GiB ": 3 << 29, "2T": 2e12, "1TiB/s": 1 << 40,
		"0.5kB": 500, ".5k": 500,
	} {
		got, err := parseRate(text)
		if err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{
		" ", "x", "B", "/s", "k", ".", "-1", "+1", "1e3", "1/2", "0.1", "5m", "10Mb", "10mb", "5 MB", "1.2.3", "1iB", "1MiiB", "1MBB",
		"1_000", "0x10", "9223372036854775808", "99999999999999999999999", "10000000T", "NaN", "Inf",
	} {
		if got, err := parseRate(text); err == nil {
			t.Errorf("%q: %d, want an error", text, got)
		}
	}
}

func TestHumanBytes(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1<<20 - 1: "1.0 MiB", 1 << 30: "1.0 GiB", 1 << 62: "4.0 EiB",
	} {
		if got := humanBytes(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

func TestModelTable(t *testing.T) {
	var out strings.Builder
	c := &cli{stdout: &out, json: &out}
	at := time.Date(2026, 3, 1, 9, 30, 0, 0, time.Local)
	err := c.printModels([]modelOutput{
		{Name: "llama-3.1-8b-instruct", Source: "hf://meta-llama/Llama-3.1-8B-Instruct", Revision: "0e9e39f249a16976918f6564b8830bc894c89659", State: statePublished, Bytes: 16070000000, Files: 14, PublishedAt: at},
		{Name: "llama-3.1-8b-instruct", Source: "hf://meta-llama/Llama-3.1-8B-Instruct", Revision: "5206a32e0bd3067aef1ce90f5528ade7d866253f", State: stateSuperseded, Bytes: 16069000000, Files: 13, PublishedAt: at.Add(-time.Hour)},
		{Name: "own", Source: "file:///srv/own", Revision: "abc", State: stateWithdrawn, Bytes: 12, Files: 1, PublishedAt: at},
		{Name: "torn", State: stateDamaged},
	}, "table")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "golden/ls.txt", out.String())
}

func TestVerifyTable(t *testing.T) {
	var out strings.Builder
	c := &cli{stdout: &out, json: &out}
	err := c.printVerify([]verifyOutput{
		{Name: "good", Revision: "0e9e39f249a16976918f6564b8830bc894c89659", OK: true, VerifyResult: store.VerifyResult{Files: 14, Bytes: 16070000000}},
		{Name: "own", Revision: "abc", OK: true, VerifyResult: store.VerifyResult{Files: 2, Bytes: 12, Unvouched: 2}},
		{Name: "rotten", Revision: "def", VerifyResult: store.VerifyResult{Files: 2, Bytes: 12, Problems: []store.Problem{
			{Path: "a.safetensors", Reason: "blob aa is missing"}, {Path: "b.safetensors", Reason: "blob bb holds content with sha256 cc"},
		}}},
		{Name: "torn", VerifyResult: store.VerifyResult{Problems: []store.Problem{{Reason: "its manifest cannot be read; pull it again"}}}},
	}, "table")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "golden/verify.txt", out.String())
}

// A reader that went away or is full is an error, not silence.
func TestStandardOutputThatFails(t *testing.T) {
	dir := publish(t, "m")
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("this system has no /dev/full")
	}
	defer full.Close()
	for _, args := range [][]string{{"ls"}, {"ls", "-o", "json"}, {"verify"}, {"wait", "m"}, {"gc"}, {"gpus", "--gpus", "none"}} {
		if args[0] != "gpus" {
			args = append(args, "--store", dir)
		}
		var stderr strings.Builder
		if code := run(t.Context(), args, full, &stderr); code != exitFailed {
			t.Errorf("%v: exit code %d, %s", args, code, stderr.String())
		}
	}
}
