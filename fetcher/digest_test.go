package fetcher

import (
	"crypto/sha256"
	"encoding"
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
		"md5:d41d8cd98f00b204e9800998ecf8427e": true, "crc32:cbf43926": true, "crc32c:e3069283": true, "crc64nvme:ae8b14860a799888": true,
		"md5:e3069283": false, "crc32c:ae8b14860a799888": false, "crc64nvme:e3069283": false, "crc32c:E3069283": false, "crc32c:": false,
		":": false, Digest(":" + hex64): false, "sha256": false, "sha256:": false, Digest("sha256:" + hex40): false, Digest("git-blob:" + hex64): false,
		Digest("sha256:" + "A" + hex64[1:]): false, Digest("SHA256:" + hex64): false, Digest("sha512:" + hex64 + hex64): false,
		Digest("sha256:" + hex64 + "\n"): false, Digest("sha256:../" + hex64[3:]): false,
	} {
		if err := d.Check(); (err == nil) != ok {
			t.Errorf("Check of %q is %v, want good: %v", d, err, ok)
		}
	}
}

// The check values are the algorithms' own: over "123456789" (RFC 1321 has none
// for it; that one is md5sum's).
func TestChecksums(t *testing.T) {
	const content = "123456789"
	for _, d := range []Digest{"crc32c:e3069283", "crc32:cbf43926", "crc64nvme:ae8b14860a799888", "md5:25f9e794323b453885f5181f1b624d0b"} {
		t.Run(d.Algorithm(), func(t *testing.T) {
			whole := d.newHash(int64(len(content)))
			whole.Write([]byte(content))
			if err := d.verify("", whole); err != nil {
				t.Error(err)
			}
			whole.Write([]byte("x"))
			if d.verify("", whole) == nil {
				t.Error("more than the content passes")
			}
			if d.identifies() {
				t.Error("a checksum is taken for an identity")
			}

			// As a journal does: the state of the front, restored elsewhere.
			front, back := d.newHash(9), d.newHash(9)
			front.Write([]byte(content[:4]))
			from, marshals := front.(encoding.BinaryMarshaler)
			to, unmarshals := back.(encoding.BinaryUnmarshaler)
			if !marshals || !unmarshals {
				t.Fatalf("%T keeps its state for itself", front)
			}
			state, err := from.MarshalBinary()
			if err == nil {
				err = to.UnmarshalBinary(state)
			}
			if err != nil {
				t.Fatal(err)
			}
			back.Write([]byte(content[4:]))
			if err := d.verify("", back); err != nil {
				t.Error("after restoring the state:", err)
			}
		})
	}
}
