package s3_test

import (
	"errors"
	"testing"

	"github.com/stoker-project/stoker/fetcher"
)

// A source may be one object: then the pull takes just that, whatever its format.
func TestPullOneObject(t *testing.T) {
	s := startServer(t)
	files := map[string][]byte{"model-q4.gguf": []byte("GGUF4"), "model-q4.gguf.sha256": []byte("0"), "config.json": []byte("{}")}
	for _, prefix := range []string{"", "team/llama"} {
		p := newPuller(t, s, nil)
		folder := s.fill(t, prefix, files)
		p.src = folder
		p.src.Path += "/model-q4.gguf"
		res, err := p.pull(t.Context(), t, nil)
		if err != nil {
			t.Fatal(err)
		}
		checkFiles(t, res.Path, map[string][]byte{"model-q4.gguf": files["model-q4.gguf"]})
		if m, err := p.manifest(t); err != nil || len(m.Files) != 1 || m.Source != p.src.String() || m.Files[0].Version == "" {
			t.Errorf("published %+v, %v", m, err)
		}
		if again, err := p.pull(t.Context(), t, nil); err != nil || again.Revision != res.Revision || again.DownloadedBytes != 0 {
			t.Errorf("the second pull: %+v, %v", again, err)
		}
		for _, none := range []string{"/model-q4.gg", "/model", "/no/such"} {
			p.src.Path = folder.Path + none
			if _, err := p.pull(t.Context(), t, nil); !errors.Is(err, fetcher.ErrRefused) {
				t.Errorf("%s ends with %v", p.src, err)
			}
		}
	}
}
