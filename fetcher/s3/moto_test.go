package s3_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/s3"
)

// startMoto runs moto, a server of another make, in Python.
func startMoto(t *testing.T) *server {
	t.Helper()
	return newServer(t, "", "us-east-1", fetchertest.StartServer(t, "STOKER_TEST_PYTHON", func(port int) []string {
		return []string{"-m", "moto.server", "-H", "127.0.0.1", "-p", fmt.Sprint(port)}
	}))
}

func TestMoto(t *testing.T) {
	s := startMoto(t)
	t.Run("before the name", func(t *testing.T) {
		fetchertest.TestDriver(t, func(t *testing.T, files map[string][]byte) fetchertest.Fixture {
			t.Helper()
			return s.fixture(s.driver(t, fetcher.AddressingVirtual, s3.Options{}), s.fill(t, "llama", files), "llama")
		})
	})
	t.Run("in the path, unsigned", s.testUnsigned)
}

// moto lets everybody read what is public, and nobody the rest.
func (s *server) testUnsigned(t *testing.T) {
	bucket := s.newBucket(t)
	s.mustPut(t, bucket, "public.json", []byte("{}"), func(in *awss3.PutObjectInput) { in.ACL = types.ObjectCannedACLPublicRead })
	s.mustPut(t, bucket, "private.json", []byte("{}"))
	s.proxy.ResetLog()
	noEnvironment(t) // and no credentials are looked for
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config"), []byte("[default]\nregion = us-east-1\nendpoint_url = "+s.proxy.URL()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := newDriver(t, fetcher.Access{CredentialsDir: dir, Unsigned: true}, s3.Options{})
	src := source(bucket, "")
	got, err := fetchertest.ReadFrom(t.Context(), d, fetchertest.ObjectOf(t, d, src, "public.json"), 0)
	if err != nil || string(got) != "{}" {
		t.Errorf("public: %q, %v", got, err)
	}
	private := fetchertest.ObjectOf(t, d, src, "private.json")
	_, err = d.Open(t.Context(), private, 0, 2)
	wantKind(t, err, fetcher.ErrRefused, "not public")
	for _, r := range s.proxy.Requests(fetchertest.Match{}) {
		if r.Authorized {
			t.Errorf("%s %s was signed", r.Method, r.Path)
		}
	}
}
