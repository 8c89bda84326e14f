package fetcher_test

import (
	"context"
	"errors"
	"net/http"
	"testing"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
)

// catalog knows one source.
type catalog struct {
	commit, digest string
	listing        *fetcher.Listing
	err            error
}

func (c catalog) Revision(context.Context, fetcher.Source, fetcher.Access) (string, string, bool) {
	return c.commit, c.digest, c.commit != ""
}

func (c catalog) Listing(context.Context, fetcher.Source, fetcher.Access, string) (fetcher.Listing, bool, error) {
	if c.listing == nil {
		return fetcher.Listing{}, false, c.err
	}
	return *c.listing, true, c.err
}

// calls counts what the Hub was asked.
func calls(hub *fetchertest.Hub) (info, tree int) {
	return len(hub.Requests(fetchertest.Match{Kind: fetchertest.KindInfo})), len(hub.Requests(fetchertest.Match{Kind: fetchertest.KindTree}))
}

func TestCatalog(t *testing.T) {
	e := newEnv(t, fetchertest.HubOptions{})
	old := e.push(repoID, bigTree(1, 1<<10))
	now := e.push(repoID, bigTree(2, 1<<10))
	listing := func(commit string) (fetcher.Listing, string) {
		l, err := e.hf.List(t.Context(), hubSource(repoID, commit))
		if err != nil {
			t.Fatal(err)
		}
		digest, err := l.CanonicalDigest()
		if err != nil {
			t.Fatal(err)
		}
		return l, digest
	}
	oldList, oldDigest := listing(old)
	nowList, nowDigest := listing(now)
	for _, tt := range []struct {
		name       string
		catalog    catalog
		revision   string // asked for
		want       string
		info, tree int
	}{
		{"knows both", catalog{old, oldDigest, &oldList, nil}, "", old, 0, 0},
		{"knows the commit only", catalog{old, "", nil, nil}, "", old, 0, 1},
		{"has no listing", catalog{old, oldDigest, nil, nil}, "", old, 0, 1},
		{"cannot be reached", catalog{old, oldDigest, nil, errors.New("no route")}, "", old, 0, 1},
		{"another commit's listing", catalog{old, oldDigest, &nowList, nil}, "", old, 0, 1},
		{"another listing by its digest", catalog{old, nowDigest, &nowList, nil}, "", old, 0, 1},
		{"a forged listing", catalog{now, oldDigest, &nowList, nil}, "", now, 0, 1},
		{"a commit that the source does not have", catalog{commitB, "", nil, nil}, "", now, 1, 2},
		{"no commit", catalog{"main", "", nil, nil}, "", now, 1, 1},
		{"knows nothing", catalog{}, "", now, 1, 1},
		{"a pinned source", catalog{old, oldDigest, &oldList, nil}, old, old, 0, 0},
		{"another commit of a pinned source", catalog{now, nowDigest, &nowList, nil}, old, old, 0, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e.dir = t.TempDir() + "/store"
			info, tree := calls(e.hub)
			f := e.fetcher(func(o *fetcher.Options) { o.Catalog = tt.catalog })
			res, err := f.Pull(t.Context(), request("m", tt.revision))
			if err != nil || res.Revision != tt.want {
				t.Fatalf("pulled %s, %v, want %s", res.Revision, err, tt.want)
			}
			infoNow, treeNow := calls(e.hub)
			if infoNow-info != tt.info || treeNow-tree != tt.tree {
				t.Errorf("%d look-ups and %d lists, want %d and %d", infoNow-info, treeNow-tree, tt.info, tt.tree)
			}
		})
	}
}

func TestCatalogAnswersLookUps(t *testing.T) {
	e := newEnv(t, fetchertest.HubOptions{})
	e.push(repoID, bigTree(1, 1<<10))
	f := e.fetcher(func(o *fetcher.Options) { o.Catalog = catalog{commit: commitA} })
	if got, err := f.Resolve(t.Context(), request("m", "")); err != nil || got != commitA {
		t.Errorf("looked up %s, %v", got, err)
	}
	if info, tree := calls(e.hub); info+tree > 0 {
		t.Errorf("the Hub was asked %d times", info+tree)
	}
}

// A refresh does not read the list; the pull that follows it looks nothing up again.
func TestLookUpListsNothing(t *testing.T) {
	e := newEnv(t, fetchertest.HubOptions{})
	want := e.push(repoID, bigTree(1, 1<<10))
	f := e.fetcher(nil)
	got, err := f.Resolve(t.Context(), request("m", ""))
	if err != nil || got != want {
		t.Fatalf("looked up %s, %v", got, err)
	}
	if info, tree := calls(e.hub); info != 1 || tree != 0 {
		t.Errorf("a look-up took %d look-ups and %d lists", info, tree)
	}
	if _, err := f.Pull(t.Context(), request("m", "")); err != nil {
		t.Fatal(err)
	}
	if info, tree := calls(e.hub); info != 1 || tree != 1 {
		t.Errorf("with the pull it took %d look-ups and %d lists", info, tree)
	}
	// What the pull used up is looked up anew.
	next := e.push(repoID, bigTree(2, 1<<10))
	if res, err := f.Pull(t.Context(), request("m", "")); err != nil || res.Revision != next {
		t.Errorf("pulled %s, %v, want %s", res.Revision, err, next)
	}
}

// A commit that was found stays found while its list is refused.
func TestFoundCommitSurvivesRefusedList(t *testing.T) {
	e := newEnv(t, fetchertest.HubOptions{})
	want := e.push(repoID, bigTree(1, 1<<10))
	e.hub.Inject(fetchertest.Fault{
		Match: fetchertest.Match{Kind: fetchertest.KindTree}, Times: 1,
		Effect: fetchertest.Status(http.StatusTooManyRequests),
	})
	f := e.fetcher(func(o *fetcher.Options) { o.Attempts = 1 })
	if _, err := f.Pull(t.Context(), request("m", "")); !errors.Is(err, fetcher.ErrThrottled) {
		t.Fatal(err)
	}
	e.push(repoID, bigTree(2, 1<<10))
	if res, err := f.Pull(t.Context(), request("m", "")); err != nil || res.Revision != want {
		t.Fatalf("pulled %s, %v, want %s", res.Revision, err, want)
	}
	if info, tree := calls(e.hub); info != 1 || tree != 2 {
		t.Errorf("%d look-ups and %d lists, want 1 and 2", info, tree)
	}
}
