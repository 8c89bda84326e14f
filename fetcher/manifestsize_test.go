package fetcher_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
)

// longNames lists files whose names take six times their length in JSON.
type longNames struct{ opened bool }

func (*longNames) List(context.Context, fetcher.Source) (fetcher.Listing, error) {
	folder := strings.Repeat(strings.Repeat("&", 250)+"/", 3)
	l := fetcher.Listing{Revision: strings.Repeat("c", 40), Files: []fetcher.File{{Path: "config.json", Size: 2}}}
	for i := range 16_000 {
		l.Files = append(l.Files, fetcher.File{Path: fmt.Sprintf("%s%d.json", folder, i), Size: 1})
	}
	return l, nil
}

func (d *longNames) Open(context.Context, fetcher.Object, int64, int64) (io.ReadCloser, error) {
	d.opened = true
	return nil, &fetcher.Error{Kind: fetcher.ErrCorrupt, Op: "open", Err: io.ErrUnexpectedEOF}
}

// A model that no manifest can list is refused while nothing of it was fetched.
func TestPullMoreThanAManifestLists(t *testing.T) {
	e := newEnv(t, fetchertest.HubOptions{})
	d := new(longNames)
	f := e.fetcher(func(o *fetcher.Options) {
		o.Drivers = fetcher.Drivers{fetcher.SchemeHub: func(fetcher.Access) (fetcher.Driver, error) { return d, nil }}
	})
	req := request("many", "")
	_, err := f.Pull(t.Context(), req)
	if !errors.Is(err, fetcher.ErrRefused) || !strings.Contains(err.Error(), "a manifest has 64 at most; choose fewer files with include or exclude") {
		t.Errorf("pull ends with %v", err)
	}
	if d.opened {
		t.Error("a file was asked for")
	}
	req.Include = []string{"config.json"}
	if _, err := f.Pull(t.Context(), req); errors.Is(err, fetcher.ErrRefused) || !d.opened {
		t.Errorf("of one file, pull ends with %v", err)
	}
}
