package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/cobra"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/store"
	"github.com/stoker-project/stoker/printable"
)

// evil steers a terminal, turns a line round, hides, and begins a line that passes for
// ours.
const evil = "x\x1b]0;owned\a\x1b[2J\u009b31m\u202egnp\u200b\u2066\nFAKE: all is well\r\nFAKE"

// inert says that a text has nothing of evil's in it that would work.
func inert(t *testing.T, what, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if got := printable.Line(strings.ReplaceAll(line, "\t", " ")); got != strings.ReplaceAll(line, "\t", " ") || strings.HasPrefix(line, "FAKE") {
			t.Errorf("%s: %q", what, line)
		}
	}
}

// hostileStore is a store with a model whose source, files and status were named by
// somebody else.
func hostileStore(t *testing.T) string {
	t.Helper()
	source, dir := filepath.Join(t.TempDir(), "m\u202egnp\u200b"), filepath.Join(t.TempDir(), "store")
	file := "w\u202egnp\u200b.safetensors"
	if err := os.MkdirAll(source, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"config.json": "{}", file: string(make([]byte, 100))} {
		if err := os.WriteFile(filepath.Join(source, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	code, _, stderr := call(t, "pull", "file://"+source, "--name", "m", "--store", dir)
	if code != exitOK {
		t.Fatal(stderr)
	}
	inert(t, "pull", stderr)
	return dir
}

func statusOf(t *testing.T, dir, name, code string) {
	t.Helper()
	data, err := json.Marshal(store.Status{Name: name, State: evil, Reason: evil, Hint: evil, Code: code, Total: 10, Bytes: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "status", name+".json"), data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestTerminals: nothing that a source, an agent or a file of the store named reaches a
// terminal as it is.
func TestTerminals(t *testing.T) {
	dir := hostileStore(t)
	if err := os.MkdirAll(filepath.Join(dir, "status"), 0o755); err != nil {
		t.Fatal(err)
	}
	statusOf(t, dir, "refused", store.CodeRefused)
	statusOf(t, dir, "slow", "")
	manifests, err := filepath.Glob(filepath.Join(dir, "manifests/m/*.json"))
	if err != nil || len(manifests) != 1 {
		t.Fatal(manifests, err)
	}
	data, err := os.ReadFile(manifests[0])
	if err != nil {
		t.Fatal(err)
	}
	shown := `\u202e`
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"ls"}, exitOK, shown},
		{[]string{"verify"}, exitOK, ""},
		{[]string{"wait", "refused"}, exitRefused, shown},
		{[]string{"wait", "slow", "--timeout", "1ms"}, exitFailed, shown},
		{[]string{"wait", evil}, exitUsage, shown},
		{[]string{"pull", "file://" + evil}, exitUsage, shown},
		{[]string{"fit", evil}, exitUsage, shown},
		{[]string{evil}, exitUsage, shown},
		{[]string{"ls", "--" + evil}, exitUsage, `\x1b`},
		{[]string{"ls", "--output", evil}, exitUsage, shown},
	} {
		code, stdout, stderr := call(t, append(tt.args, "--store", dir)...)
		if code != tt.code || !strings.Contains(stdout+stderr, tt.want) {
			t.Errorf("%q: exit code %d\n%s%s", tt.args, code, stdout, stderr)
		}
		inert(t, tt.args[0], stdout+stderr)
	}
	code, stdout, _ := call(t, "ls", "-o", "json", "--store", dir)
	var got struct{ Models []modelOutput }
	if err := json.Unmarshal([]byte(stdout), &got); code != exitOK || err != nil || !strings.HasSuffix(got.Models[0].Source, "m\u202egnp\u200b") {
		t.Errorf("exit code %d, %v: %s", code, err, stdout)
	}
	inert(t, "ls -o json", stdout)

	// Bytes that do not verify, under a name that hides; then a source that is only a text.
	blobs, err := filepath.Glob(filepath.Join(dir, "blobs/sha256/*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, blob := range blobs {
		if err := os.Chmod(blob, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(blob, []byte("{}{}"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	code, stdout, stderr := call(t, "verify", "--store", dir)
	if code != exitCorrupt || !strings.Contains(stdout, `w\u202egnp\u200b.safetensors`) {
		t.Errorf("verify: exit code %d\n%s%s", code, stdout, stderr)
	}
	inert(t, "verify", stdout+stderr)
	text, err := json.Marshal(evil)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(data, []byte(`"file://`))
	end := at + 1 + bytes.IndexByte(data[at+1:], '"')
	data = append(append(bytes.Clone(data[:at]), text...), data[end+1:]...)
	if err := os.WriteFile(manifests[0], data, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"ls"}, {"verify"}, {"wait", "m", "--timeout", "1ms"}, {"fit", "m", "--gpus", "none"}, {"gpus", "--gpus", "simulated:dgxh100"}} {
		_, stdout, stderr := call(t, append(args, "--store", dir)...)
		inert(t, args[0], stdout+stderr)
	}
}

// TestLogIsInert: neither form of the log steers a terminal, and JSON stays exact.
func TestLogIsInert(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		var out bytes.Buffer
		c := &cli{stderr: printable.NewWriter(&out), logFormat: format}
		c.logger(slog.LevelInfo).Warn("trying again", "error", errors.New(evil), "file", evil)
		inert(t, format, out.String())
		var line struct{ File string }
		if format == "json" {
			if err := json.Unmarshal(out.Bytes(), &line); err != nil || line.File != evil {
				t.Errorf("%q, %v", line.File, err)
			}
		}
	}
}

// TestProgressIsInert: what a bar and plain lines say of a transfer.
func TestProgressIsInert(t *testing.T) {
	for _, mode := range []string{"bar", "plain", "json"} {
		var out bytes.Buffer
		errs := printable.NewWriter(&out)
		c := &cli{stderr: errs, steering: errs.Exact()}
		p, err := c.newProgress(mode)
		if err != nil {
			t.Fatal(err)
		}
		p.update(fetcher.Progress{Phase: evil})
		p.update(fetcher.Progress{Phase: evil + "2", Revision: evil, BytesDone: 5, BytesTotal: 10, FilesTotal: 1})
		p.finish(true)
		if text := out.String(); strings.ContainsAny(text, "\u202e\u200b\u009b\a") || strings.Contains(text, "\x1b]") || strings.Contains(text, "\nFAKE") && mode == "bar" {
			t.Errorf("%s: %q", mode, text)
		}
	}
}

// TestPathsAreExact: a program gets the path as it is.
func TestPathsAreExact(t *testing.T) {
	source, dir := t.TempDir(), filepath.Join(t.TempDir(), "👩\u200d🚀")
	for name, content := range map[string]string{"config.json": "{}", "model.safetensors": "12345678"} {
		if err := os.WriteFile(filepath.Join(source, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	code, stdout, stderr := call(t, "pull", "file://"+source, "--name", "m", "--store", dir)
	if path := strings.TrimSuffix(stdout, "\n"); code != exitOK || !strings.Contains(path, "👩\u200d🚀") {
		t.Errorf("exit code %d: %q %s", code, path, stderr)
	} else if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

// full is a device without room.
type full struct{}

// Write implements io.Writer.
func (full) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

// TestFullDevice: no command calls itself done whose answer got lost, also where a
// library writes it.
func TestFullDevice(t *testing.T) {
	dir := hostileStore(t)
	calls := [][]string{
		{},
		{"--version"},
		{"help"},
		{"help", "pull"},
		{"completion", "bash"},
		{"ls"},
		{"ls", "-o", "json"},
		{"verify"},
		{"wait", "m"},
		{"gc"},
		{"gpus", "--gpus", "simulated:dgxh100"},
		{"fit", "hf://a/b", "--help"},
		{"rm", "m"},
	}
	var walk func(cmd *cobra.Command, path []string)
	walk = func(cmd *cobra.Command, path []string) {
		calls = append(calls, append(path, "--help"))
		for _, sub := range cmd.Commands() {
			walk(sub, append(append([]string{}, path...), sub.Name()))
		}
	}
	walk((&cli{}).root(), nil)
	for _, args := range calls {
		if len(args) == 1 && args[0] != "--help" && args[0] != "--version" && args[0] != "help" || len(args) > 1 && (args[0] == "ls" || args[0] == "wait" || args[0] == "rm") {
			args = append(args, "--store", dir)
		}
		var stderr bytes.Buffer
		if code := run(t.Context(), args, full{}, &stderr); code != exitFailed || !strings.Contains(stderr.String(), "no space left on device") {
			t.Errorf("%q: exit code %d: %s", args, code, stderr.String())
		}
	}
}
