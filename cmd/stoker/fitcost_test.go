package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestFitOfCostlyFiles: what no model has is refused soon and in little memory.
func TestFitOfCostlyFiles(t *testing.T) {
	repeat := func(n int, text func(i int) string) func(w *bufio.Writer) {
		return func(w *bufio.Writer) {
			for i := range n {
				_, _ = w.WriteString(text(i)) // an error stays until the flush
			}
		}
	}
	tensor := func(i int) string {
		return `"` + strconv.FormatInt(int64(i), 36) + `":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},`
	}
	const last = `"the_last":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}`
	config := `{"model_type":"llama"}`
	for _, tt := range []struct {
		name                string
		file, front, behind string
		middle              func(w *bufio.Writer)
		data                int64
		want                string // empty: it can be computed
	}{
		{"40 million dimensions", "", `{"a":{"dtype":"U8","shape":[`, `1],"data_offsets":[0,1]}}`, repeat(40_000_000, func(int) string { return "1," }), 0, "more than 16 dimensions"},
		{"1.7 million tensors", "", `{`, last, repeat(1_700_000, tensor), 0, "more than 1000000 tensors"},
		{"nearly a million tensors", "", `{`, last, repeat(999_990, tensor), 0, ""},
		{"nearly a million tensors in no order", "", `{`, last, repeat(999_990, func(i int) string { return strings.Replace(tensor(i), "0,0", []string{"0,0", "1,1"}[i%2], 1) }), 1, "belong to no tensor"},
		{"10 million unknown values", "", `{"a":{"x":[`, `1],"dtype":"U8","shape":[0],"data_offsets":[0,0]}}`, repeat(10_000_000, func(int) string { return "1," }), 0, ""},
		{"metadata of 90 MB", "", `{"__metadata__":{"a":"`, `"},` + last, repeat(90_000, func(int) string { return strings.Repeat("a", 1000) }), 0, ""},
		{"config.json of 8 million fields", "config.json", `{`, `"b":1}`, repeat(8_000_000, func(int) string { return `"a":1,` }), 0, "longer than 16777216 bytes"},
		{"config.json of a million fields", "config.json", `{`, `"b":1}`, repeat(1_000_000, func(int) string { return `"a":1,` }), 0, "more than 500000 values"},
		{"index of too many tensors", "model.safetensors.index.json", `{"weight_map":{`, `"b":"b"}}`, repeat(1_100_000, func(i int) string { return `"` + strconv.Itoa(i) + `":"a",` }), 0, "more than 1000000 tensors"},
		{"index of too many files", "model.safetensors.index.json", `{"weight_map":{`, `"b":"b"}}`, repeat(20_000, func(i int) string { return `"` + strconv.Itoa(i) + `":"` + strconv.Itoa(i) + `",` }), 0, "more than 10000 files"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o644); err != nil {
				t.Fatal(err)
			}
			if tt.file == "" {
				tt.file = "model.safetensors"
			}
			writeCostly(t, filepath.Join(dir, tt.file), tt.front, tt.behind, tt.middle, tt.data)
			cmd := exec.CommandContext(t.Context(), "stoker-measured", "fit", dir, "--gpus", "none")
			var errs bytes.Buffer
			cmd.Stderr = &errs
			began := time.Now()
			_ = cmd.Run() // its exit code is looked at below
			took := time.Since(began)
			text, memory := peakOf(t, errs.String())
			code := exitOK
			if tt.want != "" {
				code = exitFailed
			}
			if got := cmd.ProcessState.ExitCode(); got != code || !strings.Contains(text, tt.want) {
				t.Errorf("exit code %d: %s; want %d and %q", got, text, code, tt.want)
			}
			if memory > memoryBound() {
				t.Errorf("it took %d MiB of memory; want at most %d", memory>>20, memoryBound()>>20)
			}
			t.Logf("exit code %d, %d MiB, %s: %s", cmd.ProcessState.ExitCode(), memory>>20, took.Round(10*time.Millisecond), text)
		})
	}
}

// writeCostly writes a file without holding it in memory, a safetensors file with the
// length of its header and data bytes behind it.
func writeCostly(t *testing.T, path, front, behind string, middle func(*bufio.Writer), data int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	safetensors := filepath.Ext(path) == ".safetensors"
	if safetensors {
		_, _ = w.Write(make([]byte, 8)) // an error stays until the flush
	}
	_, _ = w.WriteString(front)
	middle(w)
	_, _ = w.WriteString(behind)
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if !safetensors {
		return
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(info.Size() + data); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(binary.LittleEndian.AppendUint64(nil, uint64(info.Size()-8)), 0); err != nil {
		t.Fatal(err)
	}
}
