package fetcher

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func filesOf(paths ...string) []File {
	files := make([]File, 0, len(paths))
	for _, p := range paths {
		files = append(files, File{Path: p, Size: 1})
	}
	return files
}

func pathsOf(files []File) []string {
	var paths []string
	for _, f := range files {
		paths = append(paths, f.Path)
	}
	return paths
}

// Choices by pattern; testdata/layouts has the default choice. A leading '-' marks what
// a pull leaves out.
func TestSelect(t *testing.T) {
	for name, c := range map[string]struct {
		choice Choice
		files  string
	}{
		"weights in folders": {files: `
			model_index.json unet/diffusion_pytorch_model.safetensors vae/diffusion_pytorch_model.bin -extra.gguf`},
		"only foreign weights":      {files: `config.json tf_model.h5 onnx/model.onnx -.DS_Store`},
		"only an earlier state":     {files: `config.json checkpoint-1/model.safetensors -checkpoint-1/optimizer.pt`},
		"states by other names":     {files: `config.json model.safetensors -Checkpoint-5/model.safetensors -checkpoints/x.safetensors checkpoints/x.py a/checkpoints/x.safetensors`},
		"only states":               {files: `config.json checkpoints/x.safetensors`},
		"archives and pickles":      {files: `model.safetensors -a.bz2 -a.xz -a.ZST -a.mar -a.pkl vocab.txt.gz voices.npy`},
		"code is never left out":    {files: `model.safetensors original/modeling.py checkpoint-1/x.py -original/x.json`},
		"GGUF named by include":     {choice: Choice{Include: []string{"*Q4_K_M.gguf"}}, files: `-README.md -llama.Q2_K.gguf llama.Q4_K_M.gguf`},
		"GGUF and what it needs":    {choice: Choice{Include: []string{"*Q4*"}}, files: `-README.md -x.Q2_K.gguf Q4/x.gguf config.json tokenizer.model chat_template.jinja -model.safetensors -model.safetensors.index.json -sub/a.json`},
		"GGUF and what is excluded": {choice: Choice{Include: []string{"*Q4*"}, Exclude: []string{"*.jinja"}}, files: `x.Q4.gguf config.json -chat_template.jinja`},
		"GGUF and other weights":    {choice: Choice{Include: []string{"*Q4*", "*.safetensors"}}, files: `x.Q4.gguf a.safetensors -config.json`},
		"GGUF beside safetensors":   {files: `config.json model.safetensors -model.gguf`},
		"also GGUF":                 {choice: Choice{Also: []string{"*Q4*"}}, files: `config.json model.safetensors x.Q4.gguf -x.Q2.gguf`},
		"include crosses folders":   {choice: Choice{Include: []string{"*.json"}}, files: `config.json a/b/c.json -model.safetensors`},
		"include a folder":          {choice: Choice{Include: []string{"original/"}}, files: `original/a.pth original/b/c.json -config.json`},
		"include alone":             {choice: Choice{Include: []string{"*"}}, files: `.DS_Store model.safetensors pytorch_model.bin x.gguf`},
		"exclude alone":             {choice: Choice{Exclude: []string{"*.md"}}, files: `-README.md -pytorch_model.bin model.safetensors -original/x.pth`},
		"exclude all safetensors":   {choice: Choice{Exclude: []string{"*.safetensors"}}, files: `config.json -pytorch_model.bin -model.safetensors`},
		"also":                      {choice: Choice{Also: []string{"original/"}}, files: `-pytorch_model.bin model.safetensors original/x.pth`},
		"also with include":         {choice: Choice{Include: []string{"*.json"}, Also: []string{"*.md"}}, files: `README.md config.json -model.safetensors`},
		"exclude wins over also":    {choice: Choice{Also: []string{"*.pth"}, Exclude: []string{"original/"}}, files: `model.safetensors a.pth -original/x.pth`},
		"exclude wins over include": {choice: Choice{Include: []string{"*.safetensors", "*.json"}, Exclude: []string{"model-00002*"}}, files: `model-00001.safetensors -model-00002.safetensors config.json -x.txt`},
		"case matters":              {choice: Choice{Include: []string{"*.JSON"}}, files: `a.JSON -b.json`},
		"two stars are one":         {choice: Choice{Include: []string{"original/**/*"}}, files: `-original/x.pth original/a/x.pth`},
		"Mistral's format named":    {choice: Choice{FileFormat: FormatMistral}, files: `consolidated.safetensors params.json -model.safetensors`},
		"the other format, of .bin": {choice: Choice{FileFormat: FormatHF}, files: `-consolidated.safetensors config.json pytorch_model.bin`},
		"a name with a dot":         {files: `config.json Qwen2.5.safetensors Qwen2.safetensors`},
		"a second precision alone":  {files: `config.json model.fp16.safetensors model.bf16.safetensors`},
		"variants by their index":   {files: `model.safetensors -model.safetensors.index.q8.json model.other.safetensors -model.q8.safetensors -model.q8-00001-of-00002.safetensors`},
	} {
		t.Run(name, func(t *testing.T) {
			var all, want []string
			for _, p := range strings.Fields(c.files) {
				bare, out := strings.CutPrefix(p, "-")
				all = append(all, bare)
				if !out {
					want = append(want, bare)
				}
			}
			got, err := Select(filesOf(all...), c.choice, nil)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(pathsOf(got), want) {
				t.Errorf("took %q\nwant %q", pathsOf(got), want)
			}
		})
	}
}

func TestSelectNothing(t *testing.T) {
	for name, c := range map[string]struct {
		files  []File
		choice Choice
		hint   string
	}{
		"only GGUF":            {files: filesOf("a.gguf", "b.gguf"), hint: "GGUF"},
		"GGUF and documents":   {files: filesOf(".gitattributes", "README.md", "config.json", "a.gguf"), hint: "GGUF"},
		"GGUF in folders":      {files: filesOf("README.md", "Q4/a-00001-of-00002.gguf"), hint: "GGUF"},
		"GGUF and its matrix":  {files: filesOf("README.md", "a.gguf", "imatrix.bin"), hint: "GGUF"},
		"GGUF and exclude":     {files: filesOf("README.md", "a.gguf"), choice: Choice{Exclude: []string{"*.md"}}, hint: "GGUF"},
		"also matches no GGUF": {files: filesOf("README.md", "a.gguf"), choice: Choice{Also: []string{"*Q9*"}}, hint: "GGUF"},
		"include matches not":  {files: filesOf("a.json"), choice: Choice{Include: []string{"*.txt"}}, hint: "patterns"},
		"all excluded":         {files: filesOf("a.json"), choice: Choice{Exclude: []string{"*"}}, hint: "patterns"},
		"no Mistral format":    {files: filesOf("model.safetensors", "a/consolidated.safetensors"), choice: Choice{FileFormat: FormatMistral}, hint: "consolidated*.safetensors"},
		"only Mistral format":  {files: filesOf("consolidated.safetensors"), choice: Choice{FileFormat: FormatHF}, hint: "Mistral's format"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Select(c.files, c.choice, nil)
			if !errors.Is(err, ErrNothingSelected) || len(got) > 0 {
				t.Fatalf("got %q, %v", pathsOf(got), err)
			}
			if !strings.Contains(err.Error(), c.hint) {
				t.Errorf("the error does not say %q: %v", c.hint, err)
			}
		})
	}
}

// A repository without files is as missing as a bucket's prefix without objects.
func TestSelectFromNothing(t *testing.T) {
	for _, include := range [][]string{nil, {"*.json"}} {
		got, err := Select(nil, Choice{Include: include}, nil)
		if !errors.Is(err, ErrRefused) || errors.Is(err, ErrNothingSelected) || len(got) > 0 || !strings.Contains(err.Error(), "has no files") {
			t.Errorf("include %q: got %q, %v", include, pathsOf(got), err)
		}
	}
}

func TestCheckListing(t *testing.T) {
	digest := NewDigest(SHA256, strings.Repeat("a", 64))
	good := Listing{Revision: "main-1", Files: []File{
		{Path: "config.json", Size: 3},
		{Path: "a/b/c.json", Size: 0},
		{Path: "größe/重み.json", Size: 1},
		{Path: ".gitattributes"},
		{Path: "a..b"},
		{Path: "...x"},
		{Path: strings.Repeat("x", 255)},
		{Path: "x", Size: 5, Digest: digest},
		{Path: "y", Size: 5, Digest: digest},
	}}
	if err := checkListing(good); err != nil {
		t.Error(err)
	}
	for name, c := range map[string]struct {
		kind  error
		files []File
	}{
		"parent":                 {ErrCorrupt, filesOf("../x")},
		"parent inside":          {ErrCorrupt, filesOf("a/../../x")},
		"unclean":                {ErrCorrupt, filesOf("a/../x")},
		"only dots":              {ErrCorrupt, filesOf("..")},
		"absolute":               {ErrCorrupt, filesOf("/etc/passwd")},
		"NUL":                    {ErrCorrupt, filesOf("a\x00b")},
		"newline":                {ErrCorrupt, filesOf("a\nb")},
		"escape":                 {ErrCorrupt, filesOf("\x1b[2Jx")},
		"C1 control":             {ErrCorrupt, filesOf("a\u0085b")},
		"twice":                  {ErrCorrupt, filesOf("a", "b", "a")},
		"negative size":          {ErrCorrupt, []File{{Path: "a", Size: -1}}},
		"sizes overflow":         {ErrCorrupt, []File{{Path: "a", Size: 1 << 62}, {Path: "b", Size: 1 << 62}}},
		"digest of no algorithm": {ErrCorrupt, []File{{Path: "a", Digest: ":"}}},
		"damaged digest":         {ErrCorrupt, []File{{Path: "a", Digest: "sha256:xyz"}}},
		"one digest, two sizes":  {ErrCorrupt, []File{{Path: "a", Size: 1, Digest: digest}, {Path: "b", Size: 2, Digest: digest}}},
		"a trick behind an odd":  {ErrCorrupt, filesOf("a//b", "../x")},
		"dot":                    {ErrRefused, filesOf("./x")},
		"only dot":               {ErrRefused, filesOf(".")},
		"empty":                  {ErrRefused, filesOf("")},
		"double slash":           {ErrRefused, filesOf("a//b")},
		"slash at the end":       {ErrRefused, filesOf("a/")},
		"backslash":              {ErrRefused, filesOf(`..\x`)},
		"no UTF-8":               {ErrRefused, filesOf("a\xffb")},
		"4096 characters":        {ErrRefused, filesOf(strings.Repeat("abcdefg/", 511) + "abcdefgh")},
		"long part":              {ErrRefused, filesOf(strings.Repeat("x", 256))},
		"reserved":               {ErrRefused, filesOf("a/.stoker-tmp-1")},
		"file and folder":        {ErrRefused, filesOf("a/b", "a")},
		"file and folder deeper": {ErrRefused, filesOf("a/b/c/d", "a/b")},
		"unusable":               {ErrRefused, []File{{Path: "a", Unusable: &Error{Kind: ErrRefused, Op: "list", Err: errors.New("it is a pipe")}}}},
	} {
		err := checkListing(Listing{Revision: "r", Files: c.files})
		for _, kind := range []error{ErrCorrupt, ErrRefused} {
			if errors.Is(err, kind) != errors.Is(c.kind, kind) {
				t.Errorf("%s: %v, want %v", name, err, c.kind)
			}
		}
		if err != nil && (strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' }) || len(err.Error()) > 500) {
			t.Errorf("%s: the error is not fit to be shown: %q", name, err)
		}
	}
	for _, revision := range []string{"", ".", "..", ".x", "a/b", "current", "a\x00", "../x", "é", strings.Repeat("a", 129)} {
		if err := checkListing(Listing{Revision: revision, Files: filesOf("a")}); !errors.Is(err, ErrCorrupt) {
			t.Errorf("revision %q: %v, want ErrCorrupt", revision, err)
		}
	}
}

// A listing of any size is checked in a time that people do not notice.
func TestCheckListingIsLinear(t *testing.T) {
	var files []File
	for i := range 100_000 {
		files = append(files, File{Path: fmt.Sprintf("a/b/c/%d", i)})
	}
	if err := checkListing(Listing{Revision: "r", Files: files}); err != nil {
		t.Error(err)
	}
}

// An empty object by the name of a folder is that folder, whatever is in it was chosen.
func TestWithoutFolders(t *testing.T) {
	files := []File{{Path: "a"}, {Path: "a/b"}, {Path: "a/b/c", Size: 1}, {Path: "d", Size: 1}, {Path: "d/e", Size: 1}, {Path: "f"}, {Path: "ab"}, {Path: "ab-c"}}
	want := []string{"a/b/c", "d", "d/e", "f", "ab", "ab-c"}
	var got []string
	for _, f := range withoutFolders(files) {
		got = append(got, f.Path)
	}
	if !slices.Equal(got, want) {
		t.Errorf("kept %v, want %v", got, want)
	}
}

// So is the choice, whatever a source lists.
func TestSelectIsLinear(t *testing.T) {
	files, index := filesOf("model.safetensors.index.json"), &weightIndex{name: indexOfSafetensors}
	for i := range 30_000 {
		name := fmt.Sprintf("w%06d", i)
		files = append(files, filesOf(name+".safetensors", name+".bin.index."+name+".json", "a/"+name+"."+name+".bin")...)
		index.files = append(index.files, name+".safetensors")
	}
	got, err := Select(files, Choice{}, index)
	if err != nil || len(got) < 30_000 {
		t.Errorf("took %d files, %v", len(got), err)
	}
}
