package fetcher_test

import (
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
)

// A model whose index names weights that the source does not have (yet) is not
// published; when they have come, only they are fetched.
func TestPullWithoutAllWeights(t *testing.T) {
	e := newEnv(t, fetchertest.HubOptions{})
	whole := generate(t, fetchertest.ModelSpec{Bare: true})
	const late = "model-00002-of-00002.safetensors"
	part := maps.Clone(whole)
	delete(part, late)
	e.push(repoID, part)

	_, err := e.fetcher(nil).Pull(t.Context(), request("tiny", ""))
	if !errors.Is(err, fetcher.ErrRefused) || !strings.Contains(err.Error(), `model.safetensors.index.json names "`+late+`", which is not there; pull again`) {
		t.Errorf("pull ends with %v", err)
	}
	if got := checkStore(t, e.dir); len(got) > 0 {
		t.Errorf("published %v", got)
	}

	req := request("chosen", "")
	req.Include = []string{"*"}
	checkModel(t, e.mustPull(req).Path, part) // as was asked for

	e.push(repoID, whole)
	res := e.mustPull(request("tiny", ""))
	checkModel(t, res.Path, whole)
	if res.DownloadedBytes != whole[late].Size() {
		t.Errorf("downloaded %d bytes, want %d", res.DownloadedBytes, whole[late].Size())
	}
}

// Which index counts is decided as vLLM does.
func TestPullReadsTheIndexThatVLLMReads(t *testing.T) {
	const (
		model, mistral = "model.safetensors.index.json", "consolidated.safetensors.index.json"
		gone           = `{"weight_map": {"x": "here.safetensors", "y": "gone.safetensors", "z": "gone-too.safetensors"}}`
	)
	for name, c := range map[string]struct {
		files  map[string]string
		refuse string
	}{
		"several":              {map[string]string{"here.safetensors": "w", model: gone}, `names "gone-too.safetensors" and 1 more, which are not there`},
		"Mistral's format":     {map[string]string{"consolidated-1.safetensors": "w", mistral: gone}, mistral + " names"},
		"another's index":      {map[string]string{"consolidated.safetensors": "w", model: gone}, ""},
		"no safetensors":       {map[string]string{"pytorch_model.bin": "w", model: gone}, ""},
		"safetensors below":    {map[string]string{"config.json": "{}", "unet/x.safetensors": "w", model: gone}, ""},
		"no index":             {map[string]string{"model.safetensors": "w"}, ""},
		"an index of nothing":  {map[string]string{"model.safetensors": "w", model: "{}"}, ""},
		"an index that is bad": {map[string]string{"model.safetensors": "w", model: `{"weight_map": `}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t, fetchertest.HubOptions{})
			tree := fetchertest.Tree{}
			for path, text := range c.files {
				tree[path] = fetchertest.Bytes([]byte(text))
			}
			e.push(repoID, tree)
			_, err := e.fetcher(nil).Pull(t.Context(), request("tiny", ""))
			if c.refuse == "" && err != nil || c.refuse != "" && (!errors.Is(err, fetcher.ErrRefused) || !strings.Contains(err.Error(), c.refuse)) {
				t.Errorf("pull ends with %v", err)
			}
		})
	}
}
