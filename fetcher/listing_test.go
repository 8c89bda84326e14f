package fetcher_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stoker-project/stoker/fetcher"
)

var (
	commitA = strings.Repeat("a", 40)
	commitB = strings.Repeat("b", 40)
)

func sampleListing() fetcher.Listing {
	return fetcher.Listing{Revision: commitA, Files: []fetcher.File{
		{Path: "model.safetensors", Size: 1 << 40, Digest: fetcher.NewDigest(fetcher.SHA256, strings.Repeat("0", 64))},
		{Path: "a:b\n/\xff", Size: 0, Version: "\"etag\""},
		{Path: "config.json", Size: 2, Digest: fetcher.NewDigest(fetcher.GitBlob, strings.Repeat("1", 40))},
		{Path: "sub", Unusable: &fetcher.Error{Kind: fetcher.ErrRefused, Op: "list", Err: errors.New("it is a submodule")}},
	}}
}

// The bytes are a contract between versions of Stoker.
const sampleForm = "stoker-listing 1\n" +
	"40:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n" +
	"6:a:b\n/\xff1:00:6:\"etag\"0:\n" +
	"11:config.json1:249:git-blob:11111111111111111111111111111111111111110:0:\n" +
	"17:model.safetensors13:109951162777671:sha256:00000000000000000000000000000000000000000000000000000000000000000:0:\n" +
	"3:sub1:00:0:17:it is a submodule\n"

func TestCanonicalListing(t *testing.T) {
	l := sampleListing()
	form, err := l.Canonical()
	if err != nil || string(form) != sampleForm {
		t.Fatalf("the form is\n%q, %v, want\n%q", form, err, sampleForm)
	}
	if l.Files[0].Path != "model.safetensors" {
		t.Error("the listing itself was sorted")
	}
	digest, err := l.CanonicalDigest()
	if sum := sha256.Sum256([]byte(sampleForm)); err != nil || digest != hex.EncodeToString(sum[:]) {
		t.Errorf("the digest is %s, %v", digest, err)
	}
	read, err := fetcher.ParseListing(form)
	if err != nil {
		t.Fatal(err)
	}
	again, err := read.Canonical()
	if err != nil || !bytes.Equal(again, form) {
		t.Errorf("read and written again it is %q, %v", again, err)
	}
	if len(read.Files) != 4 || read.Files[1] != l.Files[2] || !errors.Is(read.Files[3].Unusable, fetcher.ErrRefused) {
		t.Errorf("read %+v", read)
	}
}

func TestListingWithoutForm(t *testing.T) {
	for name, change := range map[string]func(*fetcher.Listing){
		"a path twice":      func(l *fetcher.Listing) { l.Files[0].Path = l.Files[1].Path },
		"no path":           func(l *fetcher.Listing) { l.Files[0].Path = "" },
		"a negative size":   func(l *fetcher.Listing) { l.Files[0].Size = -1 },
		"an unknown digest": func(l *fetcher.Listing) { l.Files[0].Digest = "sha0:00" },
		"no revision":       func(l *fetcher.Listing) { l.Revision = "" },
		"a long path":       func(l *fetcher.Listing) { l.Files[0].Path = strings.Repeat("x", 1<<17) },
		"too many files":    func(l *fetcher.Listing) { l.Files = make([]fetcher.File, fetcher.MaxListingFiles+1) },
	} {
		l := sampleListing()
		change(&l)
		if form, err := l.Canonical(); !errors.Is(err, fetcher.ErrCorrupt) {
			t.Errorf("%s: form of %d bytes, %v", name, len(form), err)
		}
	}
}

func TestParseListingRefuses(t *testing.T) {
	head := "stoker-listing 1\n40:" + commitA + "\n"
	for name, form := range map[string]string{
		"nothing":          "",
		"another version":  strings.Replace(sampleForm, " 1", " 2", 1),
		"cut":              sampleForm[:len(sampleForm)-1],
		"more behind":      sampleForm + "x",
		"no revision":      "stoker-listing 1\n0:\n",
		"hostile revision": "stoker-listing 1\n2:..\n",
		"leading zero":     head + "01:a1:00:0:0:\n",
		"size of zeros":    head + "1:a2:000:0:0:\n",
		"negative size":    head + "1:a2:-10:0:0:\n",
		"huge size":        head + "1:a20:999999999999999999990:0:0:\n",
		"long text":        head + "99999999:a1:00:0:0:\n",
		"unsorted":         head + "1:b1:00:0:0:\n1:a1:00:0:0:\n",
		"twice":            head + "1:a1:00:0:0:\n1:a1:00:0:0:\n",
		"unknown digest":   head + "1:a1:05:sha0:0:0:\n",
		"endless reason":   head + fmt.Sprintf("1:a1:00:0:5000:%s\n", strings.Repeat("x", 5000)),
	} {
		if l, err := fetcher.ParseListing([]byte(form)); !errors.Is(err, fetcher.ErrCorrupt) {
			t.Errorf("%s: %+v, %v", name, l, err)
		}
	}
}

// What is accepted is what would be written: no second form has the same content.
func FuzzParseListing(f *testing.F) {
	f.Add([]byte(sampleForm))
	f.Add([]byte("stoker-listing 1\n40:" + commitA + "\n"))
	f.Fuzz(func(t *testing.T, form []byte) {
		l, err := fetcher.ParseListing(form)
		if err != nil {
			if !errors.Is(err, fetcher.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		again, err := l.Canonical()
		if err != nil || !bytes.Equal(again, form) {
			t.Fatalf("%q is written again as %q, %v", form, again, err)
		}
	})
}
