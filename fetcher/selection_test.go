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

// Shapes of real repositories. A leading '-' marks what a pull leaves out.
func TestSelect(t *testing.T) {
	for name, c := range map[string]struct {
		include, exclude []string
		files            string
	}{
		"sharded safetensors, with the original format": {files: `
			.gitattributes LICENSE README.md USE_POLICY.md config.json generation_config.json
			model-00001-of-00002.safetensors model-00002-of-00002.safetensors model.safetensors.index.json
			-original/consolidated.00.pth -original/params.json -original/tokenizer.model
			special_tokens_map.json tokenizer.json tokenizer_config.json`},
		"sharded safetensors and Mistral's own": {files: `
			config.json -consolidated.safetensors -consolidated.safetensors.index.json model-00001-of-00001.safetensors
			model.safetensors.index.json params.json tekken.json tokenizer.model.v3 chat_template.jinja`},
		"Mistral's own only": {files: `
			consolidated-00001-of-00002.safetensors consolidated-00002-of-00002.safetensors consolidated.safetensors.index.json params.json tekken.json`},
		"a single file, and every other framework's": {files: `
			config.json model.safetensors -pytorch_model.bin -tf_model.h5 -flax_model.msgpack -rust_model.ot
			-onnx/model.onnx -onnx/model.onnx_data -model.pt -metal/model.bin -gguf/model.gguf -training.pth vocab.txt`},
		"only .bin": {files: `
			config.json pytorch_model-00001-of-00002.bin pytorch_model-00002-of-00002.bin pytorch_model.bin.index.json
			-tf_model.h5 -flax_model.msgpack tokenizer.json`},
		"only .pt": {files: `config.json model.pt -tf_model.h5 -original/x.pth`},
		"sentence-transformers": {files: `
			1_Pooling/config.json README.md config.json config_sentence_transformers.json model.safetensors modules.json
			-pytorch_model.bin -onnx/model.onnx sentence_bert_config.json tokenizer.json vocab.txt`},
		"custom code": {files: `
			config.json configuration_x.py modeling_x.py tokenization_x.py sub/more.py model.safetensors additional_chat_templates/tool.jinja`},
		"weights in folders": {files: `
			model_index.json unet/diffusion_pytorch_model.safetensors vae/diffusion_pytorch_model.bin -extra.gguf`},
		"GGUF named by include":     {include: []string{"*Q4_K_M.gguf"}, files: `-README.md -llama.Q2_K.gguf llama.Q4_K_M.gguf`},
		"GGUF beside safetensors":   {files: `config.json model.safetensors -model.gguf`},
		"include crosses folders":   {include: []string{"*.json"}, files: `config.json a/b/c.json -model.safetensors`},
		"include a folder":          {include: []string{"original/"}, files: `original/a.pth original/b/c.json -config.json`},
		"exclude alone":             {exclude: []string{"*.md"}, files: `-README.md pytorch_model.bin model.safetensors original/x.pth`},
		"exclude wins over include": {include: []string{"*.safetensors", "*.json"}, exclude: []string{"model-00002*"}, files: `model-00001.safetensors -model-00002.safetensors config.json -x.txt`},
		"case matters":              {include: []string{"*.JSON"}, files: `a.JSON -b.json`},
		"two stars are one":         {include: []string{"original/**/*"}, files: `-original/x.pth original/a/x.pth`},
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
			got, err := Select(filesOf(all...), c.include, c.exclude)
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
		files            []File
		include, exclude []string
		hint             string
	}{
		"only GGUF":           {files: filesOf("a.gguf", "b.gguf"), hint: "GGUF"},
		"GGUF and documents":  {files: filesOf(".gitattributes", "README.md", "config.json", "a.gguf"), hint: "GGUF"},
		"GGUF in folders":     {files: filesOf("README.md", "Q4/a-00001-of-00002.gguf"), hint: "GGUF"},
		"include matches not": {files: filesOf("a.json"), include: []string{"*.txt"}, hint: "patterns"},
		"all excluded":        {files: filesOf("a.json"), exclude: []string{"*"}, hint: "patterns"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Select(c.files, c.include, c.exclude)
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
		got, err := Select(nil, include, nil)
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
	for name, files := range map[string][]File{
		"parent":                 filesOf("../x"),
		"parent inside":          filesOf("a/../../x"),
		"unclean":                filesOf("a/../x"),
		"dot":                    filesOf("./x"),
		"only dot":               filesOf("."),
		"only dots":              filesOf(".."),
		"absolute":               filesOf("/etc/passwd"),
		"empty":                  filesOf(""),
		"double slash":           filesOf("a//b"),
		"slash at the end":       filesOf("a/"),
		"backslash":              filesOf(`..\x`),
		"NUL":                    filesOf("a\x00b"),
		"newline":                filesOf("a\nb"),
		"escape":                 filesOf("\x1b[2Jx"),
		"C1 control":             filesOf("a\u0085b"),
		"no UTF-8":               filesOf("a\xffb"),
		"4096 characters":        filesOf(strings.Repeat("abcdefg/", 511) + "abcdefgh"),
		"long part":              filesOf(strings.Repeat("x", 256)),
		"reserved":               filesOf("a/.stoker-tmp-1"),
		"twice":                  filesOf("a", "b", "a"),
		"file and folder":        filesOf("a/b", "a"),
		"file and folder deeper": filesOf("a/b/c/d", "a/b"),
		"negative size":          {{Path: "a", Size: -1}},
		"sizes overflow":         {{Path: "a", Size: 1 << 62}, {Path: "b", Size: 1 << 62}},
		"digest of no algorithm": {{Path: "a", Digest: ":"}},
		"damaged digest":         {{Path: "a", Digest: "sha256:xyz"}},
		"one digest, two sizes":  {{Path: "a", Size: 1, Digest: digest}, {Path: "b", Size: 2, Digest: digest}},
	} {
		if err := checkListing(Listing{Revision: "r", Files: files}); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v, want ErrCorrupt", name, err)
		} else if strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' }) || len(err.Error()) > 500 {
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
