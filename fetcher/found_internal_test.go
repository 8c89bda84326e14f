package fetcher

import (
	"testing"
	"testing/synctest"
	"time"
)

// What is remembered ends: with time, with its use, and at its bounds.
func TestFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const commit = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
		req := func(path string) Request { return Request{Source: Source{Scheme: SchemeHub, Path: path}} }
		var c found
		listing := Listing{Revision: commit, Files: []File{{Path: "a"}, {Path: "b"}}}
		c.put(req("a"), commit, nil)
		if _, ok := c.listing(req("a"), commit); ok {
			t.Error("a listing of what was looked up only")
		}
		c.put(req("a"), commit, &listing)
		listing.Files[0].Path = "changed"
		got, ok := c.listing(req("a"), commit)
		if !ok || len(got.Files) != 2 || got.Files[0].Path != "a" {
			t.Errorf("the listing is %+v, %t", got, ok)
		}
		got.Files[0].Path = "changed"
		if again, _ := c.listing(req("a"), commit); again.Files[0].Path != "a" {
			t.Error("who asks changes what is kept")
		}
		other := req("a")
		other.Access.CredentialsDir = "/other"
		if _, ok := c.commit(other); ok {
			t.Error("other credentials have the same commit")
		}
		time.Sleep(foundFor - time.Second)
		if _, ok := c.commit(req("a")); !ok {
			t.Error("forgotten too early")
		}
		time.Sleep(time.Second)
		_, isCommit := c.commit(req("a"))
		if _, isListing := c.listing(req("a"), commit); isCommit || isListing {
			t.Error("remembered for more than an hour")
		}

		c.put(req("large"), commit, &Listing{Revision: commit, Files: make([]File, maxFoundFiles)})
		if _, ok := c.listing(req("large"), commit); ok {
			t.Error("more files are kept than the bound")
		}
		c.forget(req("a"))
		c.put(req("large"), commit, &Listing{Revision: commit, Files: make([]File, maxFoundFiles)})
		if _, ok := c.listing(req("large"), commit); !ok || c.files != maxFoundFiles {
			t.Errorf("%d files are counted", c.files)
		}
		c.forget(req("large"))
		if c.files != 0 || len(c.commits) != 0 {
			t.Errorf("%d files of %d commits are left", c.files, len(c.commits))
		}
	})
}
