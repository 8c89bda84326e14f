//go:build e2e && linux

package nfs_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/test/machine"
)

const (
	accessKey = "nfs-access-key"
	secretKey = "nfs-secret-key"
	region    = "us-east-1"
)

// bucket is a bucket of a real S3 server that machines reach.
type bucket struct {
	client *awss3.Client
	name   string
	// env is what the program needs in its environment.
	env string
}

// newBucket starts versitygw and makes a bucket. It serves any address of the sandbox's.
func (w *world) newBucket() *bucket {
	w.Helper()
	root, serving := w.TempDir(), 0
	fetchertest.StartServer(w, "STOKER_TEST_VERSITYGW", func(port int) []string {
		serving = port
		return []string{"--port", fmt.Sprintf(":%d", port), "--access", accessKey, "--secret", secretKey, "--region", region, "--quiet", "posix", root}
	})
	transport := &http.Transport{}
	w.Cleanup(transport.CloseIdleConnections)
	b := &bucket{name: "models", env: fmt.Sprintf("AWS_ENDPOINT_URL=http://%s:%d AWS_ACCESS_KEY_ID=%s AWS_SECRET_ACCESS_KEY=%s AWS_REGION=%s ",
		machine.HostAddress, serving, accessKey, secretKey, region)}
	b.client = awss3.New(awss3.Options{
		BaseEndpoint: aws.String(fmt.Sprintf("http://127.0.0.1:%d", serving)), Region: region, UsePathStyle: true, HTTPClient: &http.Client{Transport: transport},
		Credentials:                credentials.NewStaticCredentialsProvider(accessKey, secretKey, ""),
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired,
	})
	if _, err := b.client.CreateBucket(w.Context(), &awss3.CreateBucketInput{Bucket: aws.String(b.name)}); err != nil {
		w.Fatal(err)
	}
	return b
}

// put uploads a model's files and returns the source. With checksums, S3 has a CRC64NVME of each; without, each is
// uploaded in parts, so that its ETag is no digest either.
func (b *bucket) put(t *testing.T, m model, checksums bool) string {
	t.Helper()
	prefix := fmt.Sprintf("checksums-%t", checksums)
	for path := range m.sums {
		content, err := os.ReadFile(filepath.Join(m.dir, filepath.FromSlash(path)))
		if err != nil {
			t.Fatal(err)
		}
		key := aws.String(prefix + "/" + path)
		if checksums {
			_, err = b.client.PutObject(t.Context(), &awss3.PutObjectInput{
				Bucket: aws.String(b.name), Key: key, Body: bytes.NewReader(content), ChecksumAlgorithm: types.ChecksumAlgorithmCrc64nvme,
			})
		} else {
			err = b.putInParts(t.Context(), key, content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return "s3://" + b.name + "/" + prefix
}

// partBytes is the least that S3 takes as a part that is not the last.
const partBytes = 5 << 20

func (b *bucket) putInParts(ctx context.Context, key *string, content []byte) error {
	upload, err := b.client.CreateMultipartUpload(ctx, &awss3.CreateMultipartUploadInput{Bucket: aws.String(b.name), Key: key})
	if err != nil {
		return err
	}
	var parts []types.CompletedPart
	for body := bytes.NewReader(content); body.Len() > 0 || len(parts) == 0; {
		part := make([]byte, min(body.Len(), partBytes))
		if _, err := io.ReadFull(body, part); err != nil {
			return err
		}
		number := aws.Int32(int32(len(parts) + 1))
		done, err := b.client.UploadPart(ctx, &awss3.UploadPartInput{
			Bucket: aws.String(b.name), Key: key, UploadId: upload.UploadId, PartNumber: number, Body: bytes.NewReader(part),
		})
		if err != nil {
			return err
		}
		parts = append(parts, types.CompletedPart{PartNumber: number, ETag: done.ETag})
	}
	_, err = b.client.CompleteMultipartUpload(ctx, &awss3.CompleteMultipartUploadInput{
		Bucket: aws.String(b.name), Key: key, UploadId: upload.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
	})
	return err
}
