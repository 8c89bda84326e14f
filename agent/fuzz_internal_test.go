package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher"
)

// FuzzParseConfig: what passes for a model list has names and sources that can be, and
// nothing else does but with an error that says what is wrong. Bombs end.
func FuzzParseConfig(f *testing.F) {
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for _, step := range []string{"ab", "bc", "cd", "de", "ef", "fg", "gh", "hi", "ij"} {
		bomb += step[1:] + ": &" + step[1:] + " [" + strings.TrimSuffix(strings.Repeat("*"+step[:1]+",", 9), ",") + "]\n"
	}
	for _, text := range []string{
		"models:\n- source: hf://a/b\n", "models: []\n", "", "{", "null", "- a", "models: {}", "models:\n- name: X\n  source: s3://b/../c\n",
		"models:\n- source: hf://a/b\n  serving: {tensorParallel: -1, maxModelLen: 1e99}\n  refresh: 1y\n",
		"models:\n- source: hf://a/b\n- source: hf://a/b@x\n", "models:\n- source: hf://a/b\n  source: hf://c/d\n",
		"store: {quota: 99999999999999999999Gi}\nmodels: []\n", "models:\n- &x\n  source: hf://a/b\n- *x\n", "models: &m\n- *m\n", "<<: {models: []}\n",
		bomb, bomb + "models: *j\n", "models: " + strings.Repeat("[", 10_000), "models:\n- source: !!binary aGY6Ly9hL2I=\n", "models: []\n---\nmodels: []\n", "%YAML 9.9\n---\nmodels: []\n",
		"models:\n- {source: 'hf://a/b', include: ['" + strings.Repeat("*a", 500) + "']}\n", "? {a: b}\n: models\n", "models:\n- source: \"hf://a/b\\u202e\"\n",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		cfg, err := ParseConfig(text)
		if err != nil {
			if !errors.Is(err, ErrConfig) {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		names := map[string]bool{}
		for _, m := range cfg.Models {
			if fetcher.CheckName(m.Name) != nil || names[m.Name] {
				t.Errorf("%q has a model %q", text, m.Name)
			}
			names[m.Name] = true
			if _, err := fetcher.ParseSource(m.Source.String()); err != nil {
				t.Errorf("%q has the source %s: %v", text, m.Source, err)
			}
		}
		if i := cfg.Intervals; i.Verify <= 0 || cfg.Store.Quota < 0 || cfg.Pull.Jobs < 1 {
			t.Errorf("%q gives %+v", text, cfg)
		}
	})
}

// FuzzMemory: whatever stands where the agent keeps its memory, it is a memory or an
// error, and so are what was measured of the volume.
func FuzzMemory(f *testing.F) {
	for _, text := range []string{
		"", "{", "null", "[]", `{"models":{"m":{"lookedUp":"2026-01-01T00:00:00Z"}}}`, `{"models":null,"coldSince":"9999-12-31T23:59:59Z"}`, `{"models":{"../x":{}}}`,
		`{"version":1,"laps":[{"bytes":-1,"seconds":1e308}]}`, `{"version":1,"laps":[{"began":"9999-12-31T23:59:59Z","at":"0001-01-01T00:00:00Z"}]}`, strings.Repeat("[", 100_000),
	} {
		f.Add([]byte(text))
	}
	path := filepath.Join(f.TempDir(), "memory.json")
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
		_, _ = readMemory(path) // that it does not panic is what is tried
		laps, err := readLaps(path, now)
		if err != nil {
			return
		}
		if rate := speedOf(laps).Rate; rate < 0 {
			t.Errorf("%q: a volume that reads %d bytes a second", text, rate)
		}
		for _, l := range laps {
			if l.At.After(now) || l.Began.After(now) {
				t.Errorf("%q: measured in the future: %+v", text, l)
			}
		}
	})
}

// FuzzLedger: whatever another agent wrote into the ledger, one goes on with it, and what
// is written anew can be read.
func FuzzLedger(f *testing.F) {
	for _, text := range []string{
		"", "{", "null", `{"version":2}`, `{"version":1,"accounts":[null]}`,
		`{"version":1,"accounts":[{"model":"m","revision":"r","print":"p","began":"2030-01-01T00:00:00Z","done":"AQ==","claims":[{"node":"n","from":0,"to":3,"until":"2030-01-01T00:05:00Z"}]}]}`,
		`{"version":1,"accounts":[{"model":"m","revision":"r","print":"p","began":"9999-01-01T00:00:00Z","done":"/////w==","claims":[{"from":-9,"to":99999999}]}]}`,
		`{"version":1,"accounts":[{"model":"m","revision":"r","print":"p","contested":{"0":{"n":{"right":false,"at":"2029-12-31T00:00:00Z"}},"-1":{},"x":null}}]}`,
	} {
		f.Add(text)
	}
	now := time.Date(2030, 1, 1, 0, 1, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, text string) {
		l, _ := parseLedger(text) // an error comes with an empty ledger
		l.tidy(now, time.Hour)
		account := l.open(sealedKey{Model: "m", Revision: "r", Print: "p"}, 3, now, time.Hour)
		if account == nil || account.Began.After(now.Add(time.Hour)) {
			t.Errorf("%q: %+v", text, account)
		}
		l.readers("n", "", now)
		l.release("n")
		out, err := l.encode()
		if err != nil {
			return
		}
		if len(out) > maxLedger {
			t.Errorf("%.100q: a ledger of %d bytes", text, len(out))
		}
		if _, err := parseLedger(out); err != nil {
			t.Errorf("%q becomes %q: %v", text, out, err)
		}
	})
}
