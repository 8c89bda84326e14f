package s3_test

import (
	"testing"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/s3"
)

// An endpoint that names the bucket is refused before anything is asked.
func TestEndpointWithTheBucket(t *testing.T) {
	ourEnvironment(t)
	fetchertest.NoLookups(t)
	for endpoint, write := range map[string]string{
		"https://models.s3.eu-west-1.amazonaws.com":        "https://s3.eu-west-1.amazonaws.com",
		"https://models.s3.example.test:9000":              "https://s3.example.test:9000",
		"https://models.oss-cn-hangzhou.aliyuncs.com":      "https://oss-cn-hangzhou.aliyuncs.com",
		"https://models.cos.ap-shanghai.myqcloud.com":      "https://cos.ap-shanghai.myqcloud.com",
		"https://models.tos-s3-cn-beijing.volces.com":      "https://tos-s3-cn-beijing.volces.com",
		"https://models.0123abcd.r2.cloudflarestorage.com": "https://0123abcd.r2.cloudflarestorage.com",
		"https://models.fra1.digitaloceanspaces.com":       "https://fra1.digitaloceanspaces.com",
		"https://models.storage.googleapis.com":            "https://storage.googleapis.com",
		"https://minio.example.test/models":                "https://minio.example.test",
		"https://gateway.example.test/s3/models/":          "https://gateway.example.test/s3",
		// A server may well be called like the bucket, or chosen to be.
		"https://models.example.test":        "",
		"https://models":                     "",
		"https://minio.example.test/models2": "",
	} {
		for _, by := range []fetcher.Addressing{"", fetcher.AddressingAuto, fetcher.AddressingPath} {
			t.Run(endpoint+" "+string(by), func(t *testing.T) {
				_, err := newDriver(t, fetcher.Access{Endpoint: endpoint, Addressing: by}, s3.Options{}).List(t.Context(), source("models", "llama"))
				if write == "" || by == fetcher.AddressingPath {
					wantKind(t, err, fetcher.ErrTransient, "reaches") // nobody is there
					return
				}
				wantKind(t, err, fetcher.ErrMisconfigured, "names the bucket models", "write the endpoint as "+write+";", "--addressing")
			})
		}
	}
}

// A server of one name cannot be asked by another.
func TestVirtualOfOneName(t *testing.T) {
	ourEnvironment(t)
	fetchertest.NoLookups(t)
	_, err := newDriver(t, fetcher.Access{Endpoint: "http://minio.example.test:9000", Addressing: fetcher.AddressingVirtual}, s3.Options{}).List(t.Context(), source("models", ""))
	wantKind(t, err, fetcher.ErrTransient, "models.minio.example.test:9000", "--addressing path", "asks minio.example.test:9000 alone")
}

// Refusals say which setting may help.
func TestRefusalsNameTheSetting(t *testing.T) {
	ourEnvironment(t)
	files := map[string][]byte{"config.json": []byte("{}")}
	for name, c := range map[string]struct {
		traits traits
		access fetcher.Access
		says   string
	}{
		"readers pay":            {traits{payers: true}, fetcher.Access{}, "access.requesterPays: true (--requester-pays)"},
		"not public":             {traits{}, fetcher.Access{Unsigned: true}, "leave out access.unsigned (--unsigned)"},
		"path where it is wrong": {traits{onlyVirtual: "InvalidPathAccess"}, fetcher.Access{Addressing: fetcher.AddressingPath}, "access.addressing: virtual (--addressing virtual)"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := startStandIn(t, c.traits, files).driver(t, c.access).List(t.Context(), source("bucket", ""))
			wantKind(t, err, fetcher.ErrRefused, c.says)
		})
	}
	s := startStandIn(t, traits{opaque: true}, files)
	p := &puller{dir: t.TempDir(), driver: s.driver(t, fetcher.Access{}), src: source("bucket", "")}
	_, err := p.pull(t.Context(), t, nil)
	wantKind(t, err, fetcher.ErrCorrupt, "config.json", "access.etagIsDigest: false (--etag-is-digest=false)")
}
