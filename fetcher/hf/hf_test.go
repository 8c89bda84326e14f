package hf_test

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/hf"
)

const (
	repoID = "acme/tiny-llama"
	token  = "hf_secretSECRETsecret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newDriver makes a driver of the Hub stand-in that sends token, if any.
func newDriver(t *testing.T, endpoint, token string) *hf.Driver {
	t.Helper()
	d, err := hf.New(hf.Options{Endpoint: endpoint, Token: func() (string, error) { return token, nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.CloseIdleConnections)
	return d
}

func source(revision string) fetcher.Source {
	return fetcher.Source{Scheme: fetcher.SchemeHub, Path: repoID, Revision: revision}
}

func push(t *testing.T, hub *fetchertest.Hub, files map[string][]byte) string {
	t.Helper()
	tree := fetchertest.Tree{}
	for path, content := range files {
		tree[path] = fetchertest.Bytes(content)
	}
	commit, err := hub.Push(t.Context(), repoID, "main", tree)
	if err != nil {
		t.Fatal(err)
	}
	return commit
}

func TestDriver(t *testing.T) {
	for name, options := range map[string]fetchertest.HubOptions{
		"public":              {},
		"small pages":         {PageSize: 3},
		"relative redirects":  {RelativeRedirects: true},
		"private, with token": {Tokens: []string{token}},
		"as Nexus":            {Mirror: fetchertest.Mirror{NoTree: http.StatusBadRequest, Direct: true}},
		"as Artifactory":      {Mirror: fetchertest.Mirror{Direct: true, ETags: fetchertest.SHA1ETags}},
		"Xet's ETags":         {Mirror: fetchertest.Mirror{Direct: true, ETags: fetchertest.XetETags}},
		"no expand":           {Mirror: fetchertest.Mirror{NoExpand: http.StatusBadRequest}},
		"compressing":         {Mirror: fetchertest.Mirror{GzipBelow: 64 << 10}},
	} {
		t.Run(name, func(t *testing.T) {
			fetchertest.TestDriver(t, func(t *testing.T, files map[string][]byte) fetchertest.Fixture {
				t.Helper()
				hub := fetchertest.StartHub(t, options)
				if len(options.Tokens) > 0 {
					hub.AddRepo(repoID, fetchertest.RepoOptions{Private: true, Tokens: options.Tokens})
				}
				commit := push(t, hub, files)
				if err := hub.SetRef(repoID, "refs/pr/1", commit); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					if leaks := hub.Leaks(); len(leaks) > 0 {
						t.Errorf("the token went to the CDN: %+v", leaks)
					}
				})
				kind := fetchertest.KindCDN
				if options.Mirror.Direct {
					kind = fetchertest.KindResolve
				}
				return fixture(t, hub, kind, files, strings.Join(options.Tokens, ""))
			})
		})
	}
}

// fixture is a Hub whose large files come by requests of this kind.
func fixture(t *testing.T, hub *fetchertest.Hub, kind fetchertest.Kind, files map[string][]byte, token string) fetchertest.Fixture {
	t.Helper()
	f := fetchertest.Fixture{
		Driver: newDriver(t, hub.URL(), token),
		Source: source("refs/pr/1"),
		Missing: []fetcher.Source{
			{Scheme: fetcher.SchemeHub, Path: "acme/no-such-model"},
			source("no-such-branch"),
			source(strings.Repeat("0", 40)),
		},
		Digests:    true,
		Connects:   true,
		AtRevision: source,
		Change: func(t *testing.T, path string, content []byte) {
			t.Helper()
			changed := map[string][]byte{}
			for p, c := range files {
				changed[p] = c
			}
			changed[path] = content
			if err := hub.SetRef(repoID, "refs/pr/1", push(t, hub, changed)); err != nil {
				t.Fatal(err)
			}
		},
		KeepsOld: true,
		Secrets:  []string{"Signature=", "Key-Pair-Id"},
	}
	match := func(path string) fetchertest.Match { return fetchertest.Match{Kind: kind, File: path} }
	f.BreakBy(hub.Inject, match, map[error]fetchertest.Effect{
		fetcher.ErrTransient: fetchertest.Status(http.StatusServiceUnavailable),
		fetcher.ErrRefused:   fetchertest.Status(http.StatusNotFound),
		fetcher.ErrThrottled: fetchertest.Answer(http.StatusTooManyRequests, http.Header{"Retry-After": {"2"}}, ""),
	})
	if token != "" {
		f.Secrets = append(f.Secrets, token)
	}
	return f
}

const weights = "model.safetensors"

// tiny is the smallest repository with a file on the Hub and one on the CDN.
func tiny() map[string][]byte {
	return map[string][]byte{"config.json": []byte("{}\n"), weights: bytes.Repeat([]byte("0123456789abcdef"), 3<<16)}
}

// object lists the source and returns one of its files.
func object(t *testing.T, d *hf.Driver, path string) fetcher.Object {
	t.Helper()
	return fetchertest.ObjectOf(t, d, source(""), path)
}
