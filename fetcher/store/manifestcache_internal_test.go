package store

import (
	"crypto/sha256"
	"testing"
)

// What is gone from the store is forgotten by whoever lists what is there.
func TestManifestCacheForgets(t *testing.T) {
	var c manifestCache
	none := [sha256.Size]byte{}
	keys := []manifestKey{{"a", "1"}, {"a", "2"}, {"b", "1"}, {"c", "1"}}
	for _, k := range keys {
		c.put(Manifest{Name: k.name, Revision: k.revision}, none)
	}
	c.retainRevisions("a", []string{"2"})
	c.retainNames([]string{"a", "b"})
	for i, want := range []bool{false, true, true, false} {
		if m, ok := c.get(keys[i].name, keys[i].revision, none); ok != want || ok && m.Name != keys[i].name {
			t.Errorf("%v is kept: %t, as %q", keys[i], ok, m.Name)
		}
	}
	if _, ok := c.get("b", "1", sha256.Sum256(nil)); ok {
		t.Error("other bytes are taken for the same")
	}
}

func TestManifestSharesDigests(t *testing.T) {
	m := Manifest{Files: []ManifestFile{{SHA256: "aa", VouchedBy: "sha256:aa"}, {SHA256: "bb", VouchedBy: "git-blob:cc"}, {SHA256: "dd"}}}
	m.share()
	for i, want := range []string{"aa", "bb", "dd"} {
		if m.Files[i].SHA256 != want {
			t.Errorf("file %d has the digest %q, want %q", i, m.Files[i].SHA256, want)
		}
	}
}
