package s3_test

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/s3"
)

// The digests are the well-known ones of "123456789".
func TestVouch(t *testing.T) {
	s := startServer(t)
	bucket := s.newBucket(t)
	d := newDriver(t, fetcher.Access{Endpoint: s.proxy.URL()}, s3.Options{})
	for algorithm, want := range map[types.ChecksumAlgorithm]fetcher.Digest{
		types.ChecksumAlgorithmSha256:    "sha256:15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
		types.ChecksumAlgorithmCrc64nvme: "crc64nvme:ae8b14860a799888",
		types.ChecksumAlgorithmCrc32c:    "crc32c:e3069283",
		types.ChecksumAlgorithmCrc32:     "crc32:cbf43926",
		types.ChecksumAlgorithmSha1:      "md5:25f9e794323b453885f5181f1b624d0b", // the ETag
	} {
		t.Run(string(algorithm), func(t *testing.T) {
			s.mustPut(t, bucket, "config.json", []byte("123456789"), withChecksum(algorithm))
			got, err := d.Vouch(t.Context(), fetchertest.ObjectOf(t, d, source(bucket, ""), "config.json"))
			if err != nil || got != want {
				t.Errorf("vouched by %q, %v; want %q", got, err, want)
			}
		})
	}
}

// What is over parts, or may be no MD5, must not be taken for a digest of the
// bytes: they would never verify.
func TestVouchTakesNoOther(t *testing.T) {
	s := startServer(t)
	bucket := s.newBucket(t)
	d := newDriver(t, fetcher.Access{Endpoint: s.proxy.URL()}, s3.Options{})
	s.multipart(t, bucket, "parts.bin", bytes.Repeat([]byte("x"), 5<<20), []byte("the last part"))
	got, err := d.Vouch(t.Context(), fetchertest.ObjectOf(t, d, source(bucket, ""), "parts.bin"))
	if err != nil || got != "" {
		t.Errorf("an object in parts is vouched for by %q, %v", got, err)
	}

	s.mustPut(t, bucket, "plain.bin", []byte("123456789"), withChecksum(types.ChecksumAlgorithmSha1))
	obj := fetchertest.ObjectOf(t, d, source(bucket, ""), "plain.bin")
	for name, header := range map[string]http.Header{
		"composite":            {"X-Amz-Checksum-Sha256": {"FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU="}, "X-Amz-Checksum-Type": {"COMPOSITE"}},
		"composite, old":       {"X-Amz-Checksum-Sha256": {"FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU=-2"}},
		"KMS":                  {"X-Amz-Server-Side-Encryption": {"aws:kms"}},
		"KMS twice":            {"X-Amz-Server-Side-Encryption": {"aws:kms:dsse"}},
		"the customer's key":   {"X-Amz-Server-Side-Encryption-Customer-Algorithm": {"AES256"}},
		"a checksum too short": {"X-Amz-Checksum-Crc32c": {"AAA="}},
	} {
		t.Run(name, func(t *testing.T) {
			obj := obj
			if strings.HasPrefix(name, "composite") || strings.HasPrefix(name, "a checksum") {
				obj.File.Version = `"25f9e794323b453885f5181f1b624d0b-2"`
			}
			header.Set("ETag", obj.File.Version)
			defer s.proxy.Inject(fetchertest.Fault{Match: fetchertest.Match{Method: http.MethodHead}, Effect: fetchertest.Answer(http.StatusOK, header, "")})()
			if got, err := d.Vouch(t.Context(), obj); err != nil || got != "" {
				t.Errorf("vouched for by %q, %v", got, err)
			}
		})
	}
}

// multipart uploads an object in parts, with a composite checksum.
func (s *server) multipart(t *testing.T, bucket, key string, parts ...[]byte) {
	t.Helper()
	up, err := s.client.CreateMultipartUpload(t.Context(), &awss3.CreateMultipartUploadInput{
		Bucket: aws.String(bucket), Key: aws.String(key), ChecksumAlgorithm: types.ChecksumAlgorithmSha256,
	})
	if err != nil {
		t.Fatal(err)
	}
	var done []types.CompletedPart
	for i, content := range parts {
		n := aws.Int32(int32(i + 1)) //nolint:gosec // two parts
		out, err := s.client.UploadPart(t.Context(), &awss3.UploadPartInput{
			Bucket: aws.String(bucket), Key: aws.String(key), UploadId: up.UploadId, PartNumber: n,
			Body: bytes.NewReader(content), ChecksumAlgorithm: types.ChecksumAlgorithmSha256,
		})
		if err != nil {
			t.Fatal(err)
		}
		done = append(done, types.CompletedPart{ETag: out.ETag, PartNumber: n, ChecksumSHA256: out.ChecksumSHA256})
	}
	_, err = s.client.CompleteMultipartUpload(t.Context(), &awss3.CompleteMultipartUploadInput{
		Bucket: aws.String(bucket), Key: aws.String(key), UploadId: up.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: done},
	})
	if err != nil {
		t.Fatal(err)
	}
}
