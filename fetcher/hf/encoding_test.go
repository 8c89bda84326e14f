package hf_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/hf"
	"github.com/stoker-project/stoker/fetcher/httpsource"
)

// A server that compresses unasked is read, or refused by the name of what it does.
func TestUnaskedEncodings(t *testing.T) {
	for name, c := range fetchertest.Codings() {
		t.Run(name, func(t *testing.T) {
			hub := mirrorOf(t, fetchertest.Mirror{Direct: true}, tiny())
			transport := httpsource.NewTransport()
			t.Cleanup(transport.CloseIdleConnections)
			c.How.Base = transport
			d, err := hf.New(hf.Options{Endpoint: hub.URL(), Transport: c.How})
			if err != nil {
				t.Fatal(err)
			}
			plain := newDriver(t, hub.URL(), "")
			obj := object(t, plain, "config.json")
			l, err := d.List(t.Context(), source(""))
			if (c.Decoded || c.How.Parts) && (err != nil || len(l.Files) != len(tiny())) || !c.Decoded && !c.How.Parts && !errors.Is(err, fetcher.ErrRefused) {
				t.Errorf("%d files, %v", len(l.Files), err)
			}
			got, err := fetchertest.ReadFrom(t.Context(), d, obj, 0)
			if c.Decoded && (err != nil || !bytes.Equal(got, tiny()["config.json"])) {
				t.Errorf("read %q, %v", got, err)
			}
			if !c.Decoded {
				checkRefusal(t, err, "Content-Encoding")
				checkRefusal(t, err, "switch compression off at 127.0.0.1")
			}
			if _, err := fetchertest.ReadRange(t.Context(), d, obj, 0, 1); c.How.Parts && (!errors.Is(err, fetcher.ErrTransient) || !errors.Is(err, fetcher.ErrNoRanges)) {
				t.Errorf("a part: error is %v, want one that asks for the whole", err)
			}
		})
	}
}
