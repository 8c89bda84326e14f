package s3_test

import (
	"context"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/s3"
)

func bare(value string) string { return value }
func weak(value string) string { return `W/"` + value + `"` }

// others are servers that do something otherwise than Amazon's, each with the access
// by which it can be read.
var others = map[string]struct {
	traits traits
	access fetcher.Access
	// more is how many requests a pull makes beyond those of a textbook server.
	more int
	// unvouched: nothing states what the content is.
	unvouched bool
}{
	"the textbook's":                    {},
	"headers rewritten before it":       {traits: traits{rewrites: true}},
	"ETags without quotes":              {traits: traits{etag: bare, bareIfMatch: true}, more: 1},
	"weak ETags":                        {traits: traits{etag: weak}, more: 1},
	"If-Match without quotes":           {traits: traits{bareIfMatch: true}, more: 1},
	"501 to checksums":                  {traits: traits{unknown: []string{"x-amz-checksum-mode"}}, more: 1},
	"400 to checksums":                  {traits: traits{unknown: []string{"x-amz-checksum-mode"}, status: http.StatusBadRequest}, more: 3},
	"501 to ListObjectsV2":              {traits: traits{unknown: []string{"list-type"}, page: 2}, more: 1},
	"400 to ListObjectsV2":              {traits: traits{unknown: []string{"list-type"}, page: 2, status: http.StatusBadRequest}, more: 1},
	"405 to ListObjectsV2":              {traits: traits{unknown: []string{"list-type"}, page: 2, status: http.StatusMethodNotAllowed}, more: 1},
	"501 to If-Match":                   {traits: traits{unknown: []string{"If-Match"}}, more: 2},
	"400 to If-Match":                   {traits: traits{unknown: []string{"If-Match"}, status: http.StatusBadRequest}, more: 2},
	"501 to If-Match and to checksums":  {traits: traits{unknown: []string{"If-Match", "x-amz-checksum-mode"}}, more: 3},
	"405 to a HEAD":                     {traits: traits{noHead: http.StatusMethodNotAllowed}, more: -2},   // it is asked for once
	"501 to a HEAD":                     {traits: traits{noHead: http.StatusNotImplemented}, more: -2 + 3}, // and otherwise
	"no ETag in the answer to a HEAD":   {traits: traits{headWithoutETag: true}},
	"ListObjects in place of V2":        {traits: traits{ignoresListType: true, page: 2}, more: 1},
	"501 to encoded keys":               {traits: traits{unknown: []string{"encoding-type"}}, more: 2},
	"501 to all that is not needed":     {traits: traits{unknown: []string{"list-type", "encoding-type", "x-amz-checksum-mode"}}, more: 3},
	"no ETags":                          {traits: traits{noETags: true}, unvouched: true, more: 3}, // a look after each object
	"ETags that are no MD5":             {traits: traits{opaque: true}, access: fetcher.Access{OpaqueETags: true}, unvouched: true},
	"the bucket in the path":            {access: fetcher.Access{Addressing: fetcher.AddressingPath}},
	"the bucket before the name":        {access: fetcher.Access{Addressing: fetcher.AddressingVirtual}},
	"only before the name, as OSS's":    {traits: traits{onlyVirtual: "SecondLevelDomainForbidden"}, more: 1},
	"only before the name, as COS's":    {traits: traits{onlyVirtual: "PathStyleDomainForbidden"}, more: 1},
	"only before the name, as TOS's":    {traits: traits{onlyVirtual: "InvalidPathAccess"}, more: 1},
	"only before the name, as OBS's":    {traits: traits{onlyVirtual: "VirtualHostDomainRequired"}, more: 1},
	"only before the name, and said so": {traits: traits{onlyVirtual: "InvalidPathAccess"}, access: fetcher.Access{Addressing: fetcher.AddressingVirtual}},
	"public":                            {traits: traits{public: true}, access: fetcher.Access{Unsigned: true}},
	"readers pay":                       {traits: traits{payers: true}, access: fetcher.Access{RequesterPays: true}},
}

// everywhere is a transport that takes every name for one server.
func everywhere(t *testing.T, url string) *http.Transport {
	t.Helper()
	return &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, strings.TrimPrefix(url, "http://"))
	}}
}

func (s *standIn) driver(t *testing.T, access fetcher.Access) *s3.Driver {
	t.Helper()
	access.Endpoint = "http://" + standInHost
	return newDriver(t, access, s3.Options{Transport: everywhere(t, s.url)})
}

// Every server is read, whatever it does otherwise; the textbook's gets not one
// request more than before.
func TestServersThatDoOtherwise(t *testing.T) {
	ourEnvironment(t)
	files := map[string][]byte{"config.json": []byte(`{"model_type": "llama"}`), "sub/tokenizer config.json": []byte("{}"), weights: model()[weights][:3<<20]}
	for name, c := range others {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startStandIn(t, c.traits, files)
			p := &puller{dir: t.TempDir(), driver: s.driver(t, c.access), src: source("bucket", ""), jobs: 1}
			res, err := p.pull(t.Context(), t, nil)
			if err != nil {
				t.Fatal(err)
			}
			checkFiles(t, res.Path, files)
			m, err := p.manifest(t)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range m.Files {
				if vouched := strings.HasPrefix(f.VouchedBy, "md5:"); vouched == c.unvouched {
					t.Errorf("%s is vouched for by %q", f.Path, f.VouchedBy)
				}
			}
			lists := 1
			if c.traits.page > 0 {
				lists = 2
			}
			got := s.requests()
			if want := lists + 2*len(files) + c.more; len(got) != want {
				t.Errorf("%d requests, want %d: %q", len(got), want, got)
			}

			// The second time the server is known: one list, by the way that it takes.
			if c.unvouched { // and who might vouch is asked again
				lists += len(files)
			}
			res, err = p.pull(t.Context(), t, nil)
			if got := s.requests(); err != nil || res.DownloadedBytes != 0 || len(got) != lists {
				t.Errorf("again: %d bytes, %v, %q", res.DownloadedBytes, err, got)
			}
			// A change of the same size is seen.
			changed := map[string][]byte{"config.json": []byte(`{"model_type": "qwen2"}`)}
			s.replace(changed)
			if res, err = p.pull(t.Context(), t, nil); err != nil {
				t.Fatal(err)
			}
			checkFiles(t, res.Path, changed)
		})
	}
}
