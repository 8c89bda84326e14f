package sizing

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// shapes are the models of testdata/models, each read once.
var shapes sync.Map

// shape is a model of testdata/models: its real config.json, and the headers of its weights.
func shape(tb testing.TB, name string) Model {
	tb.Helper()
	kept, _ := shapes.Load(name)
	if m, ok := kept.(Model); ok {
		return m
	}
	m := read(tb, shapeFiles(tb, name))
	shapes.Store(name, m)
	return m
}

func shapeFiles(tb testing.TB, name string) model {
	tb.Helper()
	var file struct {
		Config  json.RawMessage `json:"config"`
		Tensors []string        `json:"tensors"`
	}
	readTestdata(tb, filepath.Join("models", name+".json"), &file)
	var tensors []tensor
	for _, line := range file.Tensors {
		var pattern, dtype, dims string
		if _, err := fmt.Sscan(line, &pattern, &dtype, &dims); err != nil {
			tb.Fatalf("%s: %q: %v", name, line, err)
		}
		x := tensor{dtype: dtype, shape: []uint64{}}
		if dims != "-" {
			for dim := range strings.SplitSeq(dims, "x") {
				x.shape = append(x.shape, parseUint(tb, dim))
			}
		}
		for _, full := range expand(tb, pattern) {
			x.name = full
			tensors = append(tensors, x)
		}
	}
	m := newModel(string(file.Config))
	// Few tensors to a file, as the largest models have it.
	const inFile = 20_000
	for i := 0; len(tensors) > 0; i++ {
		n := min(inFile, len(tensors))
		m.with(tb, fmt.Sprintf("model-%05d.safetensors", i+1), tensors[:n]...)
		tensors = tensors[n:]
	}
	return m
}

// expand lists the names that a pattern like layers.[0-2,7].mlp stands for.
func expand(tb testing.TB, pattern string) []string {
	tb.Helper()
	before, rest, ok := strings.Cut(pattern, "[")
	if !ok {
		return []string{pattern}
	}
	ranges, after, _ := strings.Cut(rest, "]")
	var names []string
	for part := range strings.SplitSeq(ranges, ",") {
		first, last, ok := strings.Cut(part, "-")
		if !ok {
			last = first
		}
		for n := parseUint(tb, first); n <= parseUint(tb, last); n++ {
			for _, end := range expand(tb, after) {
				names = append(names, before+strconv.FormatUint(n, 10)+end)
			}
		}
	}
	return names
}

func parseUint(tb testing.TB, s string) uint64 {
	tb.Helper()
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

func readTestdata(tb testing.TB, name string, into any) {
	tb.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	if err != nil {
		tb.Fatalf("%s: %v", name, err)
	}
}

func TestExpand(t *testing.T) {
	got := expand(t, "a.[0-2,7].b.[3,5].c")
	want := []string{
		"a.0.b.3.c", "a.0.b.5.c", "a.1.b.3.c", "a.1.b.5.c", "a.2.b.3.c", "a.2.b.5.c", "a.7.b.3.c", "a.7.b.5.c",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
