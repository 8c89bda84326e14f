package fetcher

import (
	"crypto/sha256"
	"encoding/hex"
	"testing"
)

// The ids are git's own, by git hash-object.
func TestGitBlob(t *testing.T) {
	for content, id := range map[string]string{
		"":        "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391",
		"hello\n": "ce013625030ba8dba906f756967f9e9ca394464a",
	} {
		d := NewDigest(GitBlob, id)
		sum, other := sha256.Sum256([]byte(content)), d.newHash(int64(len(content)))
		other.Write([]byte(content))
		if err := d.verify(hex.EncodeToString(sum[:]), other); err != nil {
			t.Errorf("%q: %v", content, err)
		}
		other.Write([]byte("x"))
		if d.verify(hex.EncodeToString(sum[:]), other) == nil {
			t.Errorf("%q and more is taken for %q", content, content)
		}
	}
}

func TestDigestSHA256(t *testing.T) {
	const empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	d := NewDigest(SHA256, empty)
	if d.newHash(0) != nil {
		t.Error("sha256 is computed twice")
	}
	if err := d.verify(empty, nil); err != nil {
		t.Error(err)
	}
	if d.verify("f"+empty[1:], nil) == nil {
		t.Error("another sha256 passes")
	}
	if err := Digest("").verify(empty, nil); err != nil {
		t.Error("nothing was vouched for:", err)
	}
}

func TestDigestCheck(t *testing.T) {
	hex40 := "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
	hex64 := hex40 + "0123456789abcdef01234567"
	for d, ok := range map[Digest]bool{
		"": true, Digest("sha256:" + hex64): true, Digest("git-blob:" + hex40): true,
		":": false, Digest(":" + hex64): false, "sha256": false, "sha256:": false, Digest("sha256:" + hex40): false, Digest("git-blob:" + hex64): false,
		Digest("sha256:" + "A" + hex64[1:]): false, Digest("SHA256:" + hex64): false, Digest("md5:d41d8cd98f00b204e9800998ecf8427e"): false,
		Digest("sha256:" + hex64 + "\n"): false, Digest("sha256:../" + hex64[3:]): false,
	} {
		if err := d.Check(); (err == nil) != ok {
			t.Errorf("Check of %q is %v, want good: %v", d, err, ok)
		}
	}
}
