package s3_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"go.uber.org/goleak"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/httpsource"
	"github.com/stoker-project/stoker/fetcher/s3"
)

const (
	accessKey = "STOKERTESTACCESSKEY"
	secretKey = "SecretSECRETsecret/that+is+in+no+error"
	region    = "eu-test-1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is a real S3 server over a folder, and a proxy before it.
type server struct {
	proxy   *fetchertest.Proxy
	client  *awss3.Client
	root    string
	buckets atomic.Int32
}

// startServer runs versitygw, with more arguments for its store if need be. The
// environment that drivers read has its keys.
func startServer(t *testing.T, posix ...string) *server {
	t.Helper()
	root := t.TempDir()
	return newServer(t, root, region, fetchertest.StartServer(t, "STOKER_TEST_VERSITYGW", func(port int) []string {
		args := []string{"--port", fmt.Sprintf("127.0.0.1:%d", port), "--access", accessKey, "--secret", secretKey, "--region", region, "--virtual-domain", standInHost, "--quiet", "posix"}
		return append(append(args, posix...), root)
	}))
}

func newServer(t *testing.T, root, region, addr string) *server {
	t.Helper()
	s := &server{root: root}
	s.proxy = fetchertest.StartProxy(t, "http://"+addr)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	s.client = awss3.New(awss3.Options{
		BaseEndpoint: aws.String("http://" + addr), Region: region, UsePathStyle: true, HTTPClient: &http.Client{Transport: transport},
		Credentials: credentials.NewStaticCredentialsProvider(accessKey, secretKey, ""),
	})
	ourEnvironment(t)
	return s
}

// ourEnvironment has the keys of the servers that tests run, and nothing else.
func ourEnvironment(t *testing.T) {
	t.Helper()
	noEnvironment(t)
	t.Setenv("AWS_ACCESS_KEY_ID", accessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", secretKey)
	t.Setenv("AWS_REGION", region)
}

// noEnvironment hides this machine's own AWS configuration.
func noEnvironment(t *testing.T) {
	t.Helper()
	for _, name := range []string{
		"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION",
		"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
		"AWS_CA_BUNDLE", httpsource.CABundleVariable,
	} {
		t.Setenv(name, "")
		if err := os.Unsetenv(name); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(t.TempDir(), "none"))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(t.TempDir(), "none"))
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
}

func (s *server) newBucket(t *testing.T) string {
	t.Helper()
	name := fmt.Sprintf("models-%d", s.buckets.Add(1))
	if _, err := s.client.CreateBucket(t.Context(), &awss3.CreateBucketInput{Bucket: aws.String(name)}); err != nil {
		t.Fatal(err)
	}
	return name
}

// upload is how an object is put, less what is always the same.
type upload func(*awss3.PutObjectInput)

func withChecksum(algorithm types.ChecksumAlgorithm) upload {
	return func(in *awss3.PutObjectInput) { in.ChecksumAlgorithm = algorithm }
}

func (s *server) put(ctx context.Context, bucket, key string, content []byte, how ...upload) error {
	in := &awss3.PutObjectInput{Bucket: aws.String(bucket), Key: aws.String(key), Body: bytes.NewReader(content)}
	for _, h := range how {
		h(in)
	}
	_, err := s.client.PutObject(ctx, in)
	return err
}

func (s *server) mustPut(t *testing.T, bucket, key string, content []byte, how ...upload) {
	t.Helper()
	if err := s.put(t.Context(), bucket, key, content, how...); err != nil {
		t.Fatal(err)
	}
}

// fill makes a bucket with these files below a prefix, a marker for the folder
// itself, and a file whose key begins like theirs and is not one of them.
func (s *server) fill(t *testing.T, prefix string, files map[string][]byte, how ...upload) fetcher.Source {
	t.Helper()
	bucket := s.newBucket(t)
	if prefix != "" {
		s.mustPut(t, bucket, prefix+"/", nil)
		s.mustPut(t, bucket, prefix+"-2/config.json", []byte("another model's"))
	}
	for path, content := range files {
		s.mustPut(t, bucket, keyOf(prefix, path), content, how...)
	}
	return source(bucket, prefix)
}

func source(bucket, prefix string) fetcher.Source {
	return fetcher.Source{Scheme: fetcher.SchemeS3, Path: keyOf(bucket, prefix)}
}

// keyOf joins two parts of which either may be empty.
func keyOf(prefix, path string) string {
	if prefix == "" || path == "" {
		return prefix + path
	}
	return prefix + "/" + path
}

func newDriver(t *testing.T, access fetcher.Access, o s3.Options) *s3.Driver {
	t.Helper()
	d, err := s3.New(access, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.CloseIdleConnections)
	return d
}

func TestDriver(t *testing.T) {
	s := startServer(t)
	for name, c := range map[string]struct {
		prefix  string
		options s3.Options
		how     []upload
		by      fetcher.Addressing
	}{
		"a whole bucket":          {},
		"a prefix":                {prefix: "team/llama"},
		"small pages":             {prefix: "llama", options: s3.Options{PageSize: 3}},
		"before the name":         {prefix: "llama", by: fetcher.AddressingVirtual},
		"checksum is a sha256":    {how: []upload{withChecksum(types.ChecksumAlgorithmSha256)}},
		"checksum is a crc32c":    {how: []upload{withChecksum(types.ChecksumAlgorithmCrc32c)}},
		"checksum is a crc64nvme": {how: []upload{withChecksum(types.ChecksumAlgorithmCrc64nvme)}},
		"checksum is not of use":  {how: []upload{withChecksum(types.ChecksumAlgorithmSha1)}}, // so the ETag is
	} {
		t.Run(name, func(t *testing.T) {
			fetchertest.TestDriver(t, func(t *testing.T, files map[string][]byte) fetchertest.Fixture {
				t.Helper()
				src := s.fill(t, c.prefix, files, c.how...)
				return s.fixture(s.driver(t, c.by, c.options), src, c.prefix)
			})
		})
	}
}

// driver is one for the server behind the proxy, by either style of addressing.
func (s *server) driver(t *testing.T, by fetcher.Addressing, o s3.Options) *s3.Driver {
	t.Helper()
	access := fetcher.Access{Endpoint: s.proxy.URL(), Addressing: by}
	if by == fetcher.AddressingVirtual {
		access.Endpoint, o.Transport = "http://"+standInHost, everywhere(t, s.proxy.URL())
	}
	return newDriver(t, access, o)
}

func (s *server) fixture(d *s3.Driver, src fetcher.Source, prefix string) fetchertest.Fixture {
	bucket, _, _ := strings.Cut(src.Path, "/")
	f := fetchertest.Fixture{
		Driver:   d,
		Source:   src,
		Missing:  []fetcher.Source{source("no-such-bucket", ""), source("no-such-bucket", "llama"), source(bucket, "no-such-folder"), source(bucket, "config")},
		Digests:  true,
		Connects: true,
		Change: func(t *testing.T, path string, content []byte) {
			t.Helper()
			s.mustPut(t, bucket, keyOf(prefix, path), content)
		},
		Secrets: []string{secretKey, "Signature="},
	}
	match := func(path string) fetchertest.Match {
		return fetchertest.Match{Method: http.MethodGet, File: "*/" + path}
	}
	f.BreakBy(s.proxy.Inject, match, map[error]fetchertest.Effect{
		fetcher.ErrTransient: answer(http.StatusInternalServerError, "InternalError", ""),
		fetcher.ErrRefused:   answer(http.StatusForbidden, "AccessDenied", ""),
		fetcher.ErrThrottled: answer(http.StatusServiceUnavailable, "SlowDown", "2"),
	})
	return f
}

// answer is S3's own way of saying no.
func answer(status int, code, retryAfter string) fetchertest.Effect {
	header := http.Header{"Content-Type": {"application/xml"}}
	if retryAfter != "" {
		header.Set("Retry-After", retryAfter)
	}
	return fetchertest.Answer(status, header, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>`+code+`</Code><Message>As it is.</Message><RequestId>R1</RequestId></Error>`)
}
