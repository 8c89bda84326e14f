package s3_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/httpsource"
	"github.com/stoker-project/stoker/fetcher/s3"
)

// A server that compresses unasked is read, or refused by the name of what it does.
func TestUnaskedEncodings(t *testing.T) {
	ourEnvironment(t)
	files := map[string][]byte{"config.json": bytes.Repeat([]byte("config "), 100)}
	server := startStandIn(t, traits{}, files)
	for name, c := range fetchertest.Codings() {
		t.Run(name, func(t *testing.T) {
			transport := httpsource.NewTransport()
			t.Cleanup(transport.CloseIdleConnections)
			c.How.Base = transport
			access := fetcher.Access{Endpoint: server.url}
			checkEncoding(t, newDriver(t, access, s3.Options{}), newDriver(t, access, s3.Options{Transport: c.How}), source("bucket", ""), files["config.json"], c)
		})
	}
}

func checkEncoding(t *testing.T, plain, d fetcher.Driver, src fetcher.Source, content []byte, c fetchertest.Coding) {
	t.Helper()
	decoded, parts := c.Decoded, c.How.Parts
	want, err := plain.List(t.Context(), src)
	if err != nil || len(want.Files) != 1 {
		t.Fatal(want, err)
	}
	got, err := d.List(t.Context(), src)
	if (decoded || parts) && (err != nil || len(got.Files) != 1) || !decoded && !parts && !errors.Is(err, fetcher.ErrRefused) {
		t.Errorf("list: %d files, %v", len(got.Files), err)
	}
	obj := fetcher.Object{Source: src, Revision: want.Revision, File: want.Files[0]}
	read, err := fetchertest.ReadFrom(t.Context(), d, obj, 0)
	decoded = decoded || parts && err == nil // asked for as a whole, without a range
	if decoded && (err != nil || !bytes.Equal(read, content)) {
		t.Errorf("read %d bytes, %v", len(read), err)
	}
	if !decoded && (!errors.Is(err, fetcher.ErrRefused) || !strings.Contains(err.Error(), "Content-Encoding") || !strings.Contains(err.Error(), "switch compression off")) {
		t.Errorf("error is %v, want a refusal that names the encoding", err)
	}
}
