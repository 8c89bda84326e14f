package serveline

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestOptions(t *testing.T) {
	all := table()
	seen := map[string]bool{}
	var firsts []string
	for _, o := range all {
		for _, name := range o.names {
			if seen[name] || !strings.HasPrefix(name, "-") {
				t.Errorf("%s is there twice, or no option", name)
			}
			seen[name] = true
		}
		if !slices.Contains([]effect{effectCounted, effectNone, effectMemory, effectOn, effectDefault}, o.effect) {
			t.Errorf("%s has the effect %q", o.names[0], o.effect)
		}
		if (o.effect == effectCounted) != (o.flag != nil || o.value != nil) {
			t.Errorf("%s: what is counted has to set something, and nothing else", o.names[0])
		}
		if len(o.defaults) > 0 && o.effect != effectMemory {
			t.Errorf("%s has defaults, and they say nothing", o.names[0])
		}
		firsts = append(firsts, o.names[0])
	}
	if !slices.IsSorted(firsts) || len(firsts) < 300 {
		t.Errorf("%d options, sorted %v", len(firsts), slices.IsSorted(firsts))
	}
	for name := range countedOptions() {
		if !slices.Contains(firsts, name) {
			t.Errorf("%s is counted, and is no option", name)
		}
	}
}

// source is the text of a file of vLLM's default release.
func source(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("STOKER_TEST_VLLM")
	if dir == "" {
		t.Skip("STOKER_TEST_VLLM is not set: the source of vLLM is not read; make clients fetches it")
	}
	data, err := os.ReadFile(filepath.Join(dir, "vllm", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestOptionsOfVLLM: options.txt has every option of `vllm serve`, with every name of it, and no other.
func TestOptionsOfVLLM(t *testing.T) {
	frontend := source(t, "entrypoints/common/cli_args.py")
	want := map[string]bool{}
	for _, text := range []string{source(t, "engine/arg_utils.py"), frontend} {
		for _, call := range regexp.MustCompile(`\.add_argument\(\s*((?:"-[^"]+",?\s*)+)`).FindAllStringSubmatch(text, -1) {
			var names []string
			for _, name := range regexp.MustCompile(`"(-[^"]+)"`).FindAllStringSubmatch(call[1], -1) {
				names = append(names, name[1])
			}
			want[strings.Join(names, ",")] = true
		}
	}
	// The API server's are the fields of two classes.
	frontend = regexp.MustCompile(`(?s)""".*?"""`).ReplaceAllString(frontend, "")
	for _, class := range regexp.MustCompile(`(?s)\nclass (?:Base)?FrontendArgs\b(.*?)\n    @classmethod`).FindAllStringSubmatch(frontend, -1) {
		for _, field := range regexp.MustCompile(`(?m)^    (\w+): `).FindAllStringSubmatch(class[1], -1) {
			want["--"+strings.ReplaceAll(field[1], "_", "-")] = true
		}
	}
	var have []string
	for _, o := range table() {
		have = append(have, strings.Join(o.names, ","))
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(want)), slices.Sorted(slices.Values(have))); diff != "" {
		t.Errorf("(-vLLM +options.txt)\n%s", diff)
	}
}

// TestFlagsOfVLLM: what is on or off by default here is a flag of vLLM with that default.
func TestFlagsOfVLLM(t *testing.T) {
	dir := os.Getenv("STOKER_TEST_VLLM")
	text := source(t, "engine/arg_utils.py") + source(t, "entrypoints/common/cli_args.py")
	files, err := filepath.Glob(filepath.Join(dir, "vllm", "config", "*.py"))
	if err != nil || len(files) < 20 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, name := range files {
		text += source(t, filepath.Join("config", filepath.Base(name)))
	}
	defaultOf := func(name, value string) bool {
		field := strings.ReplaceAll(strings.TrimPrefix(name, "--"), "-", "_")
		if regexp.MustCompile(`(?m)^    ` + field + `: bool(?: \| None)? = (?:Field\(default=)?` + value).MatchString(text) {
			return true
		}
		return value == "False" && regexp.MustCompile(`"`+name+`",\s+action=(?:"store_true"|argparse\.BooleanOptionalAction)`).MatchString(text)
	}
	for _, o := range table() {
		switch {
		case o.effect == effectOn && !defaultOf(o.names[0], "False"):
			t.Errorf("%s is no flag that is off by default", o.names[0])
		case o.effect == effectDefault && !defaultOf(o.names[0], "True"):
			t.Errorf("%s is no flag that is on by default", o.names[0])
		case o.effect == effectCounted && o.flag != nil && !regexp.MustCompile(`(?m)^    `+strings.ReplaceAll(strings.TrimPrefix(o.names[0], "--"), "-", "_")+`: bool`).MatchString(text):
			t.Errorf("%s is no flag", o.names[0])
		}
	}
	parser := source(t, "utils/argparse_utils.py")
	for what, pattern := range map[string]string{
		"underscores": `match\.group\(0\)\.replace\("_", "-"\)`, "thousands": `"k": 10\*\*3`, "1024": `"K": 2\*\*10`,
		"auto": `value == "-1" or value\.lower\(\) == "auto"`, "a file of options": `if "--config" in args`,
		"opposites": `"--enable-": "--disable-", "--disable-": "--enable-"`, "levels": `arg\.startswith\("-O"\)`,
	} {
		if !regexp.MustCompile(pattern).MatchString(parser) {
			t.Errorf("vLLM's parser does not know %s", what)
		}
	}
}
