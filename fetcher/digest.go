package fetcher

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"strconv"
	"strings"

	"github.com/minio/crc64nvme"
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
	// CRC64NVME is S3's own default checksum of a whole object (polynomial
	// 0xad93d23594c93659, reflected), big-endian as S3 states it.
	CRC64NVME = "crc64nvme"
	// CRC32C is Google Cloud Storage's checksum (Castagnoli), and S3's where it
	// was asked for; big-endian as both state it.
	CRC32C = "crc32c"
	// CRC32 (IEEE) is what some of AWS's own tools ask S3 to store.
	CRC32 = "crc32"
	// MD5 is what an S3 object has that was uploaded in one piece.
	MD5 = "md5"
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
	n := d.size()
	if n == 0 {
		return errors.New("it has a digest of an unknown algorithm")
	}
	if len(d.Hex()) != 2*n || !isLowerHex(d.Hex()) {
		return fmt.Errorf("it has a digest that is not %d lower-case hex digits", 2*n)
	}
	return nil
}

// size is how many bytes a digest of this algorithm has, 0 if it is unknown.
func (d Digest) size() int {
	switch d.Algorithm() {
	case SHA256:
		return sha256.Size
	case GitBlob:
		return sha1.Size
	case CRC64NVME:
		return crc64nvme.Size
	case CRC32C, CRC32:
		return crc32.Size
	case MD5:
		return md5.Size
	}
	return 0
}

// identifies says that files with this digest have the same content. A checksum
// that tells damage from what was meant does not: among the files of a fleet two
// share a CRC32C by chance, and anybody can make two that share an MD5.
func (d Digest) identifies() bool {
	return d.Algorithm() == SHA256 || d.Algorithm() == GitBlob
}

// newHash returns a hash that computes this digest's algorithm over a file of
// size bytes, or nil if the algorithm is sha256 (always computed) or none. Its
// state can be marshalled, for the journal.
func (d Digest) newHash(size int64) hash.Hash {
	switch d.Algorithm() {
	case GitBlob:
		h := sha1.New()
		h.Write([]byte("blob " + strconv.FormatInt(size, 10) + "\x00"))
		return h
	case CRC64NVME:
		return crc64nvme.New()
	case CRC32C:
		return crc32.New(crc32.MakeTable(crc32.Castagnoli))
	case CRC32:
		return crc32.NewIEEE()
	case MD5:
		return md5.New()
	}
	return nil
}

// verify compares what was computed with what the source said.
func (d Digest) verify(sha256Hex string, other hash.Hash) error {
	got := sha256Hex
	switch {
	case d == "":
		return nil
	case other != nil:
		got = hex.EncodeToString(other.Sum(nil))
	}
	if got != d.Hex() {
		return fmt.Errorf("%s is %s, the source says %s", d.Algorithm(), got, d.Hex())
	}
	return nil
}
