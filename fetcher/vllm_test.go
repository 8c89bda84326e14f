package fetcher

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// vllmChoice is what testdata/vllm.py reports of one directory.
type vllmChoice struct {
	Weights   []string `json:"weights"`
	Config    string   `json:"config"`
	Tokenizer string   `json:"tokenizer"`
	Error     string   `json:"error"`
}

type vllmAnswer struct {
	Choices []vllmChoice `json:"choices"`
	Named   []string     `json:"named"`
}

type vllmQuestion struct {
	Dir    string `json:"dir"`
	Format string `json:"format"`
}

// askVLLM runs the pinned release's own code on directories.
func askVLLM(t *testing.T, questions []vllmQuestion) vllmAnswer {
	t.Helper()
	source, python := os.Getenv("STOKER_TEST_VLLM"), os.Getenv("STOKER_TEST_PYTHON")
	if source == "" || python == "" {
		t.Skip("STOKER_TEST_VLLM or STOKER_TEST_PYTHON is not set: the choice of files is not held against vLLM's code; `make test` fetches it")
	}
	input, err := json.Marshal(questions)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), python, "testdata/vllm.py", source)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONDONTWRITEBYTECODE=1", "PYTHONIOENCODING=utf-8"}
	cmd.Stdin = bytes.NewReader(input)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, stderr.Bytes())
	}
	var answer vllmAnswer
	if err := json.Unmarshal(stdout.Bytes(), &answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

// lay makes a directory with these files, all but the index empty.
func (l *layout) lay(t *testing.T, files []File) string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range files {
		path := filepath.Join(dir, filepath.FromSlash(f.Path))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var text []byte
		if l.index != nil && f.Path == l.index.name {
			weights := map[string]string{}
			for _, name := range l.index.files {
				weights["tensor of "+name] = name
			}
			var err error
			if text, err = json.Marshal(map[string]any{"weight_map": weights}); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// From what a pull takes, vLLM loads what it would load from all of the source: the
// same files in the same formats, every one of them there, and no safetensors of the
// root are taken that it does not open.
func TestVLLMLoadsWhatIsChosen(t *testing.T) {
	layouts := slices.DeleteFunc(readLayouts(t), func(l layout) bool { return strings.HasPrefix(l.vllm, "loads") })
	var questions []vllmQuestion
	for _, l := range layouts {
		format := "auto"
		if l.choice.FileFormat != "" {
			format = l.choice.FileFormat
		}
		questions = append(questions, vllmQuestion{l.lay(t, l.files), format}, vllmQuestion{l.lay(t, l.chosen(t)), format})
	}
	answer := askVLLM(t, questions)
	for i, l := range layouts {
		t.Run(l.name, func(t *testing.T) {
			whole, chosen := answer.Choices[2*i], answer.Choices[2*i+1]
			if chosen.Error != "" || len(chosen.Weights) == 0 || chosen.Config == "" {
				t.Fatalf("from the chosen files, vLLM loads %q by the configuration %q: %s", chosen.Weights, chosen.Config, chosen.Error)
			}
			for _, f := range l.chosen(t) {
				if f.hasSuffix(".safetensors") && !strings.Contains(f.Path, "/") && !slices.Contains(chosen.Weights, f.Path) {
					t.Errorf("%s is taken, and vLLM does not open it", f.Path)
				}
			}
			if l.vllm == "fails on the whole repository" {
				if whole.Error == "" {
					t.Error("vLLM does not fail on the whole repository")
				}
				return
			}
			want := whole.Weights
			if names, ok := strings.CutPrefix(l.vllm, "reads "); ok {
				names, _, _ = strings.Cut(names, ",")
				want = slices.DeleteFunc(slices.Clone(want), func(name string) bool { return slices.Contains(spread(names), name) })
				if len(want) == len(whole.Weights) {
					t.Errorf("vLLM does not read %s", names)
				}
			}
			if !slices.Equal(chosen.Weights, want) {
				t.Errorf("from the chosen files, vLLM loads %q\nfrom all %q", chosen.Weights, want)
			}
			// Without the consolidated files that a file format left out, vLLM takes the
			// tokenizer of transformers: --tokenizer-mode names the other.
			if chosen.Config != whole.Config || chosen.Tokenizer != whole.Tokenizer && l.choice.FileFormat == "" {
				t.Errorf("configuration and tokenizer are %q and %q, of all files %q and %q", chosen.Config, chosen.Tokenizer, whole.Config, whole.Tokenizer)
			}
		})
	}
}

// What vLLM's models open by name is taken beside weights of any format, whatever the
// index says.
func TestVLLMsNamedFilesAreTaken(t *testing.T) {
	named := askVLLM(t, []vllmQuestion{}).Named
	if len(named) < 5 {
		t.Errorf("vLLM names only %q", named)
	}
	for _, name := range named {
		for _, weights := range []string{"model-00001-of-00001.safetensors", "pytorch_model.bin", "consolidated.safetensors"} {
			files := filesOf("config.json", weights, "model.safetensors.index.json", name)
			got, err := Select(files, Choice{}, &weightIndex{name: "model.safetensors.index.json", files: []string{weights}})
			if err != nil || !slices.Contains(pathsOf(got), name) {
				t.Errorf("%s beside %s: took %q, %v", name, weights, pathsOf(got), err)
			}
		}
	}
}
