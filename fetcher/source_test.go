package fetcher_test

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/stoker-project/stoker/fetcher"
)

const commit = "0123456789abcdef0123456789abcdef01234567"

func TestParseSource(t *testing.T) {
	for text, want := range map[string]fetcher.Source{
		"hf://Qwen/Qwen2.5-7B-Instruct":       {Scheme: "hf", Path: "Qwen/Qwen2.5-7B-Instruct"},
		"hf://Qwen/Qwen2.5-7B-Instruct@main":  {Scheme: "hf", Path: "Qwen/Qwen2.5-7B-Instruct", Revision: "main"},
		"hf://a/b@refs/pr/1":                  {Scheme: "hf", Path: "a/b", Revision: "refs/pr/1"},
		"hf://a/b@" + commit:                  {Scheme: "hf", Path: "a/b", Revision: commit},
		"hf://a/b@v1.0-rc@2":                  {Scheme: "hf", Path: "a/b", Revision: "v1.0-rc@2"},
		"hf://gpt2":                           {Scheme: "hf", Path: "gpt2"},
		"hf://gpt2@main":                      {Scheme: "hf", Path: "gpt2", Revision: "main"},
		"hf://gpt2@refs/pr/1":                 {Scheme: "hf", Path: "gpt2", Revision: "refs/pr/1"},
		"hf://_a/b_":                          {Scheme: "hf", Path: "_a/b_"},
		"s3://bucket":                         {Scheme: "s3", Path: "bucket"},
		"s3://bucket/":                        {Scheme: "s3", Path: "bucket"},
		"s3://bucket/models/llama/":           {Scheme: "s3", Path: "bucket/models/llama"},
		"gs://bucket/models/llama":            {Scheme: "gs", Path: "bucket/models/llama"},
		"s3://bucket/a@b":                     {Scheme: "s3", Path: "bucket/a@b"},
		"file:///srv/models/llama":            {Scheme: "file", Path: "/srv/models/llama"},
		"file:///srv//models/./llama/../qwen": {Scheme: "file", Path: "/srv/models/qwen"},
		"file:///a@b":                         {Scheme: "file", Path: "/a@b"},
	} {
		got, err := fetcher.ParseSource(text)
		if err != nil || got != want {
			t.Errorf("ParseSource(%q) is %+v, %v; want %+v", text, got, err, want)
			continue
		}
		if again, err := fetcher.ParseSource(got.String()); err != nil || again != got {
			t.Errorf("%q, written as %q, is read as %+v, %v", text, got, again, err)
		}
	}
}

func TestParseSourceRefuses(t *testing.T) {
	for _, text := range []string{
		"", "llama", "Qwen/Qwen2.5", "http://huggingface.co/a/b", "HF://a/b", "hf:/a/b", "://",
		"hf://", "hf://@main", "hf://a.git", "hf://a/b.git", "hf://-a", "hf://a--b", "hf://a/", "hf:///b", "hf://a/b/c", "hf://a/..", "hf://../b", "hf://a/b--c", "hf://a/.b", "hf://a/b.", "hf://-a/b",
		"hf://a/b c", "hf://a/é", "hf://a/" + strings.Repeat("x", 97), "hf://a/b@", "hf://a/b@/x", "hf://a/b@x/", "hf://a/b@x//y", "hf://a/b@.",
		"hf://a/b@..", "hf://a/b@x/../y", "hf://a/b@x y", "hf://a/b@x?y", "hf://a/b@-x", "hf://a/b@x/.y", "hf://a/b@x.lock", "hf://a/b@x:y", "hf://a/b@x\\y",
		"hf://a/b@x.", "hf://a/b@x@{1}", "hf://a/b\n", "hf://a/b@x\x00", "hf://a/b\xff",
		"s3://", "s3:///prefix", "s3://buck et", "s3://key:secret@bucket/x", "s3://bucket?x=1", "s3://bucket/a//b", "s3://bucket/../b", "s3://bucket/./b", "gs://",
		"file://srv/models", "file://", "file://./x", "file:///a\x07",
	} {
		got, err := fetcher.ParseSource(text)
		if err == nil {
			t.Errorf("ParseSource(%q) is %+v, want an error", text, got)
			continue
		}
		if !strings.HasPrefix(err.Error(), "source ") {
			t.Errorf("ParseSource(%q): the error does not say what it is about: %v", text, err)
		}
	}
}

func TestPinned(t *testing.T) {
	for revision, want := range map[string]bool{
		commit: true, "": false, "main": false, commit[:39]: false, commit + "0": false, strings.ToUpper(commit): false,
	} {
		if got := (fetcher.Source{Scheme: "hf", Path: "a/b", Revision: revision}).Pinned(); got != want {
			t.Errorf("revision %q pinned is %v", revision, got)
		}
	}
	if (fetcher.Source{Scheme: "s3", Path: "b", Revision: commit}).Pinned() {
		t.Error("only the Hub has commits")
	}
}

func TestDeriveName(t *testing.T) {
	long := strings.Repeat("x", 63)
	hashed := func(s string) string {
		sum := sha256.Sum256([]byte(s))
		return hex.EncodeToString(sum[:4])
	}
	for text, want := range map[string]string{
		"hf://Qwen/Qwen2.5-7B-Instruct":                "qwen2.5-7b-instruct",
		"hf://Qwen/Qwen2.5-7B-Instruct@main":           "qwen2.5-7b-instruct",
		"hf://a/Some_Model":                            "some-model",
		"hf://GPT2@main":                               "gpt2",
		"hf://a/_Model_":                               "model", // a name begins and ends with a letter or digit
		"s3://bucket":                                  "bucket",
		"s3://bucket/models/LLama 3":                   "llama-3",
		"gs://bucket/models/größe":                     "gr--e",
		"s3://bucket/team/Llama/model.safetensors":     "llama",
		"gs://bucket/team/Llama/llama-q4.gguf":         "llama",
		"s3://bucket/pytorch_model.bin":                "bucket",
		"gs://bucket/a/b.pt":                           "a",
		"gs://bucket/a/b.pth/":                         "a", // a folder's, too: nobody asks the bucket
		"s3://bucket/a.bin/b.bin":                      "a.bin",
		"s3://bucket.bin":                              "bucket.bin",
		"s3://bucket/a/config.json":                    "config.json",
		"s3://bucket/a/model.safetensors.v2":           "model.safetensors.v2",
		"s3://bucket/a/gguf":                           "gguf",
		"s3://bucket/" + long + "x/model.bin":          long[:54] + "-" + hashed("s3://bucket/"+long+"x/model.bin"),
		"hf://a/b.bin":                                 "b.bin",
		"file:///srv/a/b.bin":                          "b.bin",
		"file:///srv/models/重み.v1":                     "v1",
		"file:///srv/a@b":                              "a-b",
		"hf://a/" + long:                               long,
		"hf://a/" + long + "x":                         long[:54] + "-" + hashed("hf://a/"+long+"x"),
		"hf://b/" + long + "x":                         long[:54] + "-" + hashed("hf://b/"+long+"x"),
		"hf://a/" + long + "x@" + commit:               long[:54] + "-" + hashed("hf://a/"+long+"x"), // without the revision
		"hf://a/" + strings.Repeat("Ab.", 32):          "",                                           // no valid id
		"file:///" + strings.Repeat("Ab.", 32) + "end": strings.Repeat("ab.", 18) + "-" + hashed("file:///"+strings.Repeat("Ab.", 32)+"end"),
	} {
		src, err := fetcher.ParseSource(text)
		if want == "" {
			if err == nil {
				t.Errorf("%q should be no source", text)
			}
			continue
		}
		if err != nil {
			t.Errorf("ParseSource(%q): %v", text, err)
			continue
		}
		got, err := src.DeriveName()
		if err != nil || got != want {
			t.Errorf("the name of %q is %q, %v; want %q", text, got, err, want)
		}
		if err := fetcher.CheckName(got); err != nil {
			t.Errorf("the name of %q is no name: %v", text, err)
		}
	}
	for _, text := range []string{"file:///", "file:///重み", "s3://bucket/___", "s3://bucket/___/model.gguf"} {
		src, err := fetcher.ParseSource(text)
		if err != nil {
			t.Errorf("ParseSource(%q): %v", text, err)
			continue
		}
		if got, err := src.DeriveName(); err == nil {
			t.Errorf("the name of %q is %q, want an error", text, got)
		}
	}
}

func TestCheckName(t *testing.T) {
	for name, ok := range map[string]bool{
		"a": true, "0": true, "qwen2.5-7b": true, "a-.-b": true, "agent": true, "current": true, strings.Repeat("a", 63): true,
		"": false, strings.Repeat("a", 64): false, "A": false, "a_b": false, "-a": false, "a-": false, ".a": false, "a.": false, "a/b": false,
		"..": false, ".": false, "a b": false, "é": false, "a\n": false, "a\x00": false, "\xff": false,
	} {
		if err := fetcher.CheckName(name); (err == nil) != ok {
			t.Errorf("CheckName(%q) is %v, want good: %v", name, err, ok)
		}
	}
}

func FuzzParseSource(f *testing.F) {
	for _, s := range []string{"hf://a/b@main", "s3://bucket/prefix", "file:///srv/x", "gs://b", "hf://a/b@refs/pr/1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		src, err := fetcher.ParseSource(text)
		if err != nil {
			return
		}
		again, err := fetcher.ParseSource(src.String())
		if err != nil || again != src {
			t.Errorf("%q is %+v, and read again %+v, %v", text, src, again, err)
		}
		if name, err := src.DeriveName(); err == nil && fetcher.CheckName(name) != nil {
			t.Errorf("%q gives the name %q, which is none", text, name)
		}
	})
}
