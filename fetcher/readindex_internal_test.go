package fetcher

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

func TestParseIndex(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want string // separated by spaces; empty: it is no index
	}{
		"distinct and sorted":    {`{"metadata": {"total_size": 5, "a": [1, {"b": null}]}, "weight_map": {"x": "b", "y": "a", "z": "b"}}`, "a b"},
		"more behind it":         {`{"weight_map": {"x": "a"}, "metadata": {}} ` + "\n", "a"},
		"names in escapes":       {`{"weight\u005fmap": {"x": "\u0061"}}`, "a"},
		"the last one counts":    {`{"weight_map": {"x": "a"}, "weight_map": {"x": "b"}}`, "b"},
		"not its own":            {`{"metadata": {"weight_map": {"x": "a"}}}`, ""},
		"none":                   {`{}`, ""},
		"empty":                  {``, ""},
		"of no files":            {`{"weight_map": {}}`, ""},
		"a list":                 {`[{"weight_map": {"x": "a"}}]`, ""},
		"a list of files":        {`{"weight_map": ["x", "a"]}`, ""},
		"a file that is no name": {`{"weight_map": {"x": 1}}`, ""},
		"a file that is a map":   {`{"weight_map": {"x": {"y": "a"}}}`, ""},
		"cut off":                {`{"weight_map": {"x": "a"}`, ""},
		"something behind it":    {`{"weight_map": {"x": "a"}} {}`, ""},
		"no JSON behind it":      {`{"weight_map": {"x": "a"}} x`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseIndex("i", iotest.OneByteReader(strings.NewReader(c.text)))
			if err != nil {
				t.Fatal(err)
			}
			if c.want == "" && got != nil || c.want != "" && (got == nil || !slices.Equal(got.files, strings.Fields(c.want))) {
				t.Errorf("read %+v, want %q", got, c.want)
			}
		})
	}
	lost := errors.New("the connection was lost")
	if _, err := parseIndex("i", io.MultiReader(strings.NewReader(`{"weight_map": {`), iotest.ErrReader(lost))); !errors.Is(err, lost) {
		t.Errorf("a source that fails is %v", err)
	}
}

// repeated writes unit with each number below n in it, without holding all of it.
func repeated(head, unit, tail string, n int) io.Reader {
	i := 0
	return io.MultiReader(strings.NewReader(head), readerFunc(func(p []byte) (int, error) {
		if i >= n {
			return 0, io.EOF
		}
		text := unit
		if strings.Contains(unit, "%") {
			text = fmt.Sprintf(unit, i)
		}
		i++
		return copy(p, text), nil
	}), strings.NewReader(tail))
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// Whatever an index is, it takes little memory: what is kept are the names of its files.
func TestParseIndexWithinMemory(t *testing.T) {
	const most = 16 << 20
	for name, c := range map[string]struct {
		text  io.Reader
		files int // 0: it is no index
	}{
		"many tensors, few files":   {repeated(`{"weight_map": {"x": "f"`, strings.Repeat(`, "model.layers": "g"`, 20), `}}`, 10_000), 2},
		"more tensors than any has": {repeated(`{"weight_map": {"x": "f"`, strings.Repeat(`, "x": "f"`, 50), `}}`, 22_000), 0},
		"as many files as may be":   {repeated(`{"weight_map": {"x": "f"`, `, "%[1]d": "%[1]d"`, `}}`, maxIndexFiles-1), maxIndexFiles},
		"one file more":             {repeated(`{"weight_map": {"x": "f"`, `, "%[1]d": "%[1]d"`, `}}`, maxIndexFiles), 0},
		"a long name":               {repeated(`{"weight_map": {"x": "`, strings.Repeat("x", 500), `"}}`, 60_000), 0},
		"spaces":                    {repeated(`{"weight_map": {`, strings.Repeat(" ", 500), `"x": "f"}}`, 60_000), 0},
		"depth":                     {repeated(`{"a": `, strings.Repeat("[", 500), ``, 60_000), 0},
	} {
		t.Run(name, func(t *testing.T) {
			var before, now runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			peak, read := uint64(0), 0
			index, err := parseIndex("i", readerFunc(func(p []byte) (int, error) {
				if read++; read%5000 == 0 {
					runtime.ReadMemStats(&now)
					peak = max(peak, now.HeapInuse)
				}
				return c.text.Read(p)
			}))
			if err != nil || c.files == 0 && index != nil || c.files > 0 && (index == nil || len(index.files) != c.files) {
				t.Errorf("read %d files, %v, want %d", len(index.filesOrNone()), err, c.files)
			}
			if peak > before.HeapInuse+most {
				t.Errorf("it took %d MiB of memory, want %d", (peak-before.HeapInuse)>>20, most>>20)
			}
		})
	}
}

func (x *weightIndex) filesOrNone() []string {
	if x == nil {
		return nil
	}
	return x.files
}
