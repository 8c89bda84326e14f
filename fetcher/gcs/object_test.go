package gcs_test

import (
	"errors"
	"io"
	"testing"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/gcs"
)

// A source may be one object, which is read as a file of its folder.
func TestOneObject(t *testing.T) {
	s := startServer(t)
	for _, prefix := range []string{"", "team/llama"} {
		folder := s.fill(t, prefix, map[string][]byte{"model-q4.gguf": []byte("GGUF4"), "model-q4.gguf.sha256": []byte("0")})
		d := newDriver(t, fetcher.Access{}, gcs.Options{})
		src := folder
		src.Path += "/model-q4.gguf"
		l, err := d.List(t.Context(), src)
		if err != nil || len(l.Files) != 1 || l.Files[0].Path != "model-q4.gguf" || l.Source != folder {
			t.Fatalf("%+v, %v", l, err)
		}
		body, err := d.Open(t.Context(), fetcher.Object{Source: l.Of(src), Revision: l.Revision, File: l.Files[0]}, 0, 5)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(body); string(got) != "GGUF4" || err != nil || body.Close() != nil {
			t.Errorf("read %q, %v", got, err)
		}
		src.Path = folder.Path + "/model-q4.gg"
		if _, err := d.List(t.Context(), src); !errors.Is(err, fetcher.ErrRefused) {
			t.Errorf("what is not there ends with %v", err)
		}
	}
}
