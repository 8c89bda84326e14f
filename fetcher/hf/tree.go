package hf

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/httpsource"
)

// Bounds on what a Hub may answer: far above what any repository has, so that
// a broken server cannot fill the memory or hold a pull for ever.
const (
	maxPage    = 32 << 20 // bytes of one JSON answer
	maxPages   = 2000
	maxFiles   = 1_000_000
	apiTimeout = time.Minute // for one JSON answer, whole
)

// treeEntry is one entry of the Hub's tree. xetHash is left out on purpose: it
// is no sha256.
type treeEntry struct {
	Type string `json:"type"`
	Path string `json:"path"`
	OID  string `json:"oid"`
	Size int64  `json:"size"`
	LFS  *struct {
		OID  string `json:"oid"`
		Size int64  `json:"size"`
	} `json:"lfs"`
}

func (e treeEntry) file() (fetcher.File, error) {
	f := fetcher.File{Path: e.Path, Size: e.Size}
	switch {
	case e.LFS != nil:
		f.Size, f.Digest = e.LFS.Size, fetcher.NewDigest(fetcher.SHA256, e.LFS.OID)
	case e.OID != "":
		f.Digest = fetcher.NewDigest(fetcher.GitBlob, e.OID)
	}
	if err := f.Digest.Check(); err != nil {
		return fetcher.File{}, fmt.Errorf("file %q: %w", httpsource.Plain(e.Path), err)
	}
	if f.Size < 0 || f.Path == "" {
		return fetcher.File{}, fmt.Errorf("file %q has size %d", httpsource.Plain(e.Path), f.Size)
	}
	return f, nil
}

// tree reads all pages of a commit's file list.
func (d *Driver) tree(ctx context.Context, op operation, repo, commit string) ([]fetcher.File, error) {
	page := d.url("/api/models/" + repo + "/tree/" + commit)
	page.RawQuery = "recursive=true&expand=false"
	var files []fetcher.File
	seen := map[string]bool{}
	for page != nil {
		if seen[page.String()] || len(seen) >= maxPages {
			return nil, op.fail(fetcher.ErrTransient, fmt.Errorf("%s answers with pages that never end", d.endpoint.Host), "check that the endpoint is a Hub")
		}
		seen[page.String()] = true
		var entries []treeEntry
		header, err := d.readJSON(ctx, op, page, &entries)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if e.Type == "directory" {
				continue
			}
			if e.Type != "file" {
				return nil, op.fail(fetcher.ErrRefused, e.unknown(), "take it out of the repository, or name another revision")
			}
			f, err := e.file()
			if err != nil {
				return nil, op.fail(fetcher.ErrCorrupt, err, "do not trust this source")
			}
			files = append(files, f)
		}
		if len(files) > maxFiles {
			return nil, op.fail(fetcher.ErrRefused, fmt.Errorf("it has more than %d files", maxFiles), "this is no model repository")
		}
		if page, err = d.nextPage(page, header); err != nil {
			return nil, op.fail(fetcher.ErrTransient, err, "check that the mirror rewrites its Link headers")
		}
	}
	return files, nil
}

// nextPage reads the Link header. A page on another host is refused: it would
// be asked for with the token.
func (d *Driver) nextPage(page *url.URL, header http.Header) (*url.URL, error) {
	for _, link := range strings.Split(strings.Join(header.Values("Link"), ","), ",") {
		target, params, _ := strings.Cut(link, ";")
		target = strings.TrimSpace(target)
		if !strings.Contains(strings.ReplaceAll(params, " ", ""), `rel="next"`) || len(target) < 2 {
			continue
		}
		next, err := page.Parse(strings.TrimSuffix(strings.TrimPrefix(target, "<"), ">"))
		if err != nil {
			return nil, errors.New("the next page of the list has no valid address")
		}
		if !sameOrigin(next, d.endpoint) {
			return nil, fmt.Errorf("the next page of the list is on another host, %s", httpsource.Host(next))
		}
		if next.User != nil {
			return nil, errors.New("the next page of the list is to be asked for with credentials of the answer's own")
		}
		return next, nil
	}
	return nil, nil //nolint:nilnil // no further page
}

// readJSON gets a JSON answer of the endpoint and returns its header.
func (d *Driver) readJSON(ctx context.Context, op operation, target *url.URL, into any) (http.Header, error) {
	short, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	resp, _, err := d.get(short, op, target, request{limit: limitAPI, accept: "application/json"})
	if err != nil {
		return nil, op.ended(ctx, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxPage+1))
	if err != nil {
		return nil, op.ended(ctx, op.fail(fetcher.ErrTransient, fmt.Errorf("read the answer of %s: %w", target.Host, httpsource.Reword(err)), checkNetwork(target.Host)))
	}
	if len(text) > maxPage {
		return nil, op.fail(fetcher.ErrTransient, fmt.Errorf("%s answers with more than %d bytes", target.Host, maxPage), "check that the endpoint is a Hub")
	}
	if err := json.Unmarshal(text, into); err != nil {
		return nil, op.unreadable(target.Host, err)
	}
	return resp.Header, nil
}
