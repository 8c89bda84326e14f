package fetcher

import (
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"strconv"
	"strings"
)

// Digest is what a source says of a file's content: "ALGORITHM:HEX", or "" if
// the source vouches for nothing.
type Digest string

// Algorithms of digests.
const (
	// SHA256 is the content's sha256 (the Hub's LFS and Xet files).
	SHA256 = "sha256"
	// GitBlob is git's object id: sha1 over "blob " + length + NUL + content
	// (the Hub's small files).
	GitBlob = "git-blob"
)

// NewDigest makes a digest from an algorithm and lower-case hex.
func NewDigest(algorithm, hexDigits string) Digest {
	return Digest(algorithm + ":" + hexDigits)
}

// Algorithm returns the part before the colon, or "" for the empty digest.
func (d Digest) Algorithm() string {
	a, _, _ := strings.Cut(string(d), ":")
	return a
}

// Hex returns the part after the colon.
func (d Digest) Hex() string {
	_, h, _ := strings.Cut(string(d), ":")
	return h
}

// Check reports a digest that this build cannot compute or that is malformed.
func (d Digest) Check() error {
	if d == "" {
		return nil
	}
	want := map[string]int{SHA256: 2 * sha256.Size, GitBlob: 2 * sha1.Size}
	n, known := want[d.Algorithm()]
	if !known {
		return fmt.Errorf("digest %q: unknown algorithm", string(d))
	}
	if len(d.Hex()) != n || !isLowerHex(d.Hex()) {
		return fmt.Errorf("digest %q: want %d lower-case hex digits", string(d), n)
	}
	return nil
}

// newHash returns a hash that computes this digest's algorithm over a file of
// size bytes, or nil if the algorithm is sha256 (always computed) or none.
func (d Digest) newHash(size int64) hash.Hash {
	if d.Algorithm() != GitBlob {
		return nil
	}
	h := sha1.New()
	h.Write([]byte("blob " + strconv.FormatInt(size, 10) + "\x00"))
	return h
}

// verify compares what was computed with what the source said.
func (d Digest) verify(sha256Hex string, other hash.Hash) error {
	got := sha256Hex
	switch d.Algorithm() {
	case "":
		return nil
	case GitBlob:
		got = hex.EncodeToString(other.Sum(nil))
	}
	if got != d.Hex() {
		return fmt.Errorf("%s is %s, the source says %s", d.Algorithm(), got, d.Hex())
	}
	return nil
}
