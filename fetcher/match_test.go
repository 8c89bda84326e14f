package fetcher_test

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher"
)

// The Hub's own client filters with Python's fnmatch: a pattern must mean the
// same here.
func TestMatchAsPythonDoes(t *testing.T) {
	text, err := os.ReadFile("testdata/fnmatch.json")
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Names   []string            `json:"names"`
		Matches map[string][]string `json:"matches"`
	}
	if err := json.Unmarshal(text, &golden); err != nil {
		t.Fatal(err)
	}
	if len(golden.Names) < 50 || len(golden.Matches) < 50 {
		t.Fatalf("only %d names and %d patterns", len(golden.Names), len(golden.Matches))
	}
	for pattern, names := range golden.Matches {
		for _, name := range golden.Names {
			if got, want := fetcher.Match(pattern, name), slices.Contains(names, name); got != want {
				t.Errorf("Match(%q, %q) is %v, Python says %v", pattern, name, got, want)
			}
		}
	}
}

// Patterns come from people: none may take for ever.
func TestMatchEnds(t *testing.T) {
	pattern, name := strings.Repeat("*a", 500)+"b", strings.Repeat("a", 20_000)
	start := time.Now()
	if fetcher.Match(pattern, name) {
		t.Error("there is no b to match")
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("took %s", took)
	}
}

func FuzzMatch(f *testing.F) {
	for _, p := range []string{"*", "[!]", "[z-a]", "[a-", "a*?[b", "[]-]", "\\[", "**/*"} {
		f.Add(p, "a/b-c")
	}
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if len(pattern) > 1000 || len(name) > 1000 {
			return
		}
		got := fetcher.Match(pattern, name)
		// A star on both sides never matches less.
		if got && !fetcher.Match("*"+pattern+"*", name) {
			t.Errorf("%q matches %q, but not between stars", pattern, name)
		}
		if !fetcher.Match("*", name) {
			t.Errorf("* does not match %q", name)
		}
		if !strings.ContainsAny(pattern, "*?[") && got != (string([]rune(pattern)) == string([]rune(name))) {
			t.Errorf("plain pattern %q against %q is %v", pattern, name, got)
		}
	})
}
