package hf

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/httpsource"
)

// treeEntry is one entry of the Hub's tree. xetHash is left out on purpose: it
// is no sha256.
type treeEntry struct {
	Type string    `json:"type"`
	Path string    `json:"path"`
	OID  string    `json:"oid"`
	Size int64     `json:"size"`
	LFS  *lfsEntry `json:"lfs"`
}

type lfsEntry struct {
	OID  string `json:"oid"`
	Size int64  `json:"size"`
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

// tree reads all pages of a commit's file list. Where the first one is none, the error
// is a noTree.
func (d *Driver) tree(ctx context.Context, op operation, repo, commit string) ([]fetcher.File, error) {
	page := d.url("/api/models/" + repo + "/tree/" + commit)
	page.RawQuery = "recursive=true&expand=false"
	var files httpsource.Files
	for first := true; page != nil; first = false {
		if err := files.Page(page.String()); err != nil {
			return nil, op.exceeded(err)
		}
		header, err := d.readJSON(ctx, op, page, func(body *jsonBody) error { return readPage(op, &files, body) })
		if err != nil {
			if first && lacksTree(err) {
				err = noTree{err}
			}
			return nil, err
		}
		if page, err = d.nextPage(page, header); err != nil {
			return nil, op.fail(fetcher.ErrRefused, err, "have the mirror rewrite the Link headers of its lists to its own address, without a user")
		}
	}
	return files.All(), nil
}

// readPage adds the files of one page, entry by entry: a page may have millions.
func readPage(op operation, files *httpsource.Files, body *jsonBody) error {
	if err := body.open('['); err != nil {
		return fmt.Errorf("%w: %w", errNoList, err)
	}
	for body.More() {
		var e treeEntry
		if err := body.decode(&e, maxEntry); err != nil {
			return err
		}
		if e.Type == "directory" {
			if err := files.Skip(); err != nil {
				return op.exceeded(err)
			}
			continue
		}
		if e.Type != "file" {
			// Its client takes everything that is no file for a folder; a submodule, which
			// the Hub calls unknown, may stand for what vLLM reads.
			refusal := op.fail(fetcher.ErrRefused, e.unknown(), "exclude it, take it out of the repository, or name another revision")
			if e.Path == "" {
				return refusal
			}
			if err := files.Add(fetcher.File{Path: e.Path, Unusable: refusal}); err != nil {
				return op.exceeded(err)
			}
			continue
		}
		f, err := e.file()
		if err != nil {
			return op.fail(fetcher.ErrCorrupt, err, "do not trust this source")
		}
		if err := files.Add(f); err != nil {
			return op.exceeded(err)
		}
	}
	_, err := body.Token()
	return err
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
