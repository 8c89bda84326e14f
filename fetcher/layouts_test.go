package fetcher

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// layout is one of testdata/layouts: the files of a source, and which of them a pull
// takes and why. Its lines are
//
//	# what is particular about it
//	include PATTERN, also PATTERN, exclude PATTERN, fileformat FORMAT
//	index FILE NAMES...           what an index in it names
//	vllm WORDS                    how vLLM differs, see TestVLLMLoadsWhatIsChosen
//	take SIZE FILE
//	out SIZE FILE : REASON        a part of what the rules give as the reason
//
// where model-{1..3}.bin stands for three names.
type layout struct {
	name   string
	choice Choice
	files  []File
	taken  []string
	out    map[string]string // path to reason
	index  *weightIndex
	vllm   string
}

func readLayouts(t *testing.T) []layout {
	t.Helper()
	paths, err := filepath.Glob("testdata/layouts/*.txt")
	if err != nil || len(paths) < 25 {
		t.Fatalf("found %d layouts, %v", len(paths), err)
	}
	all := make([]layout, 0, len(paths))
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		l := layout{name: strings.TrimSuffix(filepath.Base(path), ".txt"), out: map[string]string{}}
		for number, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
			if err := l.add(line); err != nil {
				t.Fatalf("%s:%d: %v", path, number+1, err)
			}
		}
		all = append(all, l)
	}
	return all
}

func (l *layout) add(line string) error {
	word, rest, _ := strings.Cut(line, " ")
	rest, reason, _ := strings.Cut(rest, " :")
	fields := strings.Fields(rest)
	switch word {
	case "#":
	case "include":
		l.choice.Include = append(l.choice.Include, rest)
	case "also":
		l.choice.Also = append(l.choice.Also, rest)
	case "exclude":
		l.choice.Exclude = append(l.choice.Exclude, rest)
	case "fileformat":
		l.choice.FileFormat = rest
	case "vllm":
		l.vllm = strings.TrimPrefix(line, "vllm ")
	case "index":
		l.index = &weightIndex{name: fields[0]}
		for _, f := range fields[1:] {
			l.index.files = append(l.index.files, spread(f)...)
		}
	case "take", "out":
		if len(fields) != 2 {
			return fmt.Errorf("%q is no size and name", rest)
		}
		size, err := parseSize(fields[0])
		if err != nil {
			return err
		}
		for _, name := range spread(fields[1]) {
			l.files = append(l.files, File{Path: name, Size: size})
			if word == "take" {
				l.taken = append(l.taken, name)
			} else {
				l.out[name] = strings.TrimSpace(reason)
			}
		}
	default:
		return fmt.Errorf("%q is no word of a layout", word)
	}
	return nil
}

// spread writes out the names that model-{08..11}.bin stands for.
func spread(name string) []string {
	before, rest, ok := strings.Cut(name, "{")
	numbers, after, closed := strings.Cut(rest, "}")
	first, last, isRange := strings.Cut(numbers, "..")
	from, fromErr := strconv.Atoi(first)
	to, toErr := strconv.Atoi(last)
	if !ok || !closed || !isRange || fromErr != nil || toErr != nil {
		return []string{name}
	}
	var names []string
	for i := from; i <= to; i++ {
		names = append(names, fmt.Sprintf("%s%0*d%s", before, len(first), i, after))
	}
	return names
}

func parseSize(s string) (int64, error) {
	units := map[byte]float64{'K': 1e3, 'M': 1e6, 'G': 1e9}
	n, err := strconv.ParseFloat(s[:len(s)-1], 64)
	if err != nil || units[s[len(s)-1]] == 0 {
		return 0, fmt.Errorf("%q is no size", s)
	}
	return int64(n * units[s[len(s)-1]]), nil
}

// chosen is what a pull takes of the layout. The index is read where the rules ask for it.
func (l *layout) chosen(t *testing.T) []File {
	t.Helper()
	var index *weightIndex
	if f, needed := neededIndex(l.files, l.choice); needed {
		if l.index == nil || l.index.name != f.Path {
			t.Fatalf("the rules ask for %s, which the layout does not have", f.Path)
		}
		index = l.index
	}
	chosen, err := Select(l.files, l.choice, index)
	if err != nil {
		t.Fatal(err)
	}
	return chosen
}

// What a pull takes of layouts that are out there, and why the rest is left out.
func TestLayouts(t *testing.T) {
	for _, l := range readLayouts(t) {
		t.Run(l.name, func(t *testing.T) {
			if got := pathsOf(l.chosen(t)); !slices.Equal(got, l.taken) {
				t.Errorf("took %q\nwant %q", got, l.taken)
			}
			form, err := rootFormat(l.files, l.choice.FileFormat)
			if err != nil {
				t.Fatal(err)
			}
			r := newRules(l.files, form, nil)
			if f, needed := neededIndex(l.files, l.choice); needed && f.Path == l.index.name {
				r.index = l.index
			}
			for _, f := range l.files {
				if why := r.leftOut(f); l.out[f.Path] != "" && !strings.Contains(why, l.out[f.Path]) {
					t.Errorf("%s is left out as %q, want %q", f.Path, why, l.out[f.Path])
				}
			}
		})
	}
}

// Which sources cost a request more, for the index.
func TestNeededIndex(t *testing.T) {
	const index = "model.safetensors.index.json"
	for name, c := range map[string]struct {
		files  string
		choice Choice
		want   string
	}{
		"one whole set":             {files: "model-00001-of-00002.safetensors model-00002-of-00002.safetensors " + index},
		"a set that lacks a file":   {files: "model-00001-of-00002.safetensors " + index, want: index},
		"a set and another file":    {files: "model-00001-of-00001.safetensors extra.safetensors " + index, want: index},
		"two sets":                  {files: "a-1-of-2.safetensors b-2-of-2.safetensors " + index, want: index},
		"one file":                  {files: "model.safetensors " + index, want: index},
		"no index":                  {files: "model.safetensors extra.safetensors"},
		"files are named":           {files: "model.safetensors extra.safetensors " + index, choice: Choice{Include: []string{"*"}}},
		"Mistral's, whole":          {files: "consolidated-00001-of-00001.safetensors model.safetensors consolidated.safetensors.index.json " + index},
		"Mistral's":                 {files: "consolidated.safetensors consolidated.safetensors.index.json " + index, want: "consolidated.safetensors.index.json"},
		"Mistral's, without its":    {files: "consolidated.safetensors model.safetensors " + index},
		"Mistral's is not taken":    {files: "consolidated.safetensors model.safetensors " + index, choice: Choice{FileFormat: FormatHF}, want: index},
		"weights in a folder":       {files: "a/model.safetensors " + index},
		"an index of other weights": {files: "pytorch_model.bin " + index},
	} {
		t.Run(name, func(t *testing.T) {
			f, _ := neededIndex(filesOf(strings.Fields(c.files)...), c.choice)
			if f.Path != c.want {
				t.Errorf("asks for %q, want %q", f.Path, c.want)
			}
		})
	}
}
