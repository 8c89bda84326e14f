package hf

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/httpsource"
)

// noRoute is an answer that says only that the endpoint does not know the question, as
// caches answer for the parts of the Hub's API that they do not have. It has no code of
// the Hub's.
type noRoute struct{ error }

// Unwrap returns what was answered.
func (n noRoute) Unwrap() error { return n.error }

// isNoRoute says whether a status without a code of the Hub's may be one.
func isNoRoute(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusGone, http.StatusNotImplemented:
		return true
	}
	return false
}

// errNoList is what a page says that is no list at all, but a page in HTML, say.
var errNoList = errors.New("it is no list")

// noList is an errNoList in words.
type noList struct{ error }

// noTree is an endpoint's answer to the question for the first page of a list that
// leaves the other question, as mirrors answer for what they do not have or do not let
// through.
type noTree struct{ error }

// Unwrap returns what was answered.
func (n noTree) Unwrap() error { return n.error }

// lacksTree says whether an endpoint that failed so to list a commit may know it all the
// same: all but what the Hub itself says of a repository, and what passes.
func lacksTree(err error) bool {
	var said answer
	if errors.As(err, new(noList)) {
		return true
	}
	return errors.As(err, &said) && said.status != http.StatusTooManyRequests && !httpsource.Passing(said.status) &&
		said.code != "GatedRepo" && said.code != "RepoNotFound" && said.code != "RevisionNotFound"
}

// mostSiblings is how many files a look-up of a revision lists reliably: of larger
// repositories the Hub leaves some out (huggingface_hub reads the tree beyond it).
const mostSiblings = 50_000

// sibling is a file as the look-up of a revision lists it with blobs=true. Without
// that, and from mirrors that do not pass it on, there are only names.
type sibling struct {
	Name   string `json:"rfilename"`
	Size   *int64 `json:"size"`
	BlobID string `json:"blobId"`
	LFS    *struct {
		SHA256 string `json:"sha256"`
		Size   int64  `json:"size"`
	} `json:"lfs"`
}

// errNoSizes is a look-up that lists names only.
var errNoSizes = errors.New("it names files without their sizes")

func (s sibling) file() (fetcher.File, error) {
	e := treeEntry{Path: s.Name, OID: s.BlobID}
	switch {
	case s.LFS != nil:
		e.LFS = &lfsEntry{OID: s.LFS.SHA256, Size: s.LFS.Size}
	case s.Size == nil:
		return fetcher.File{}, errNoSizes
	default:
		e.Size = *s.Size
	}
	return e.file()
}

// siblings lists a commit's files where the endpoint has no tree, which failed with
// treeErr: by the look-up of the revision.
func (d *Driver) siblings(ctx context.Context, op operation, repo, commit string, treeErr error) ([]fetcher.File, error) {
	target := d.url("/api/models/" + repo + "/revision/" + commit)
	target.RawQuery = "blobs=true"
	var files httpsource.Files
	_, err := d.readJSON(ctx, op, target, func(body *jsonBody) error { return readInfo(op, &files, commit, body) })
	var said answer
	switch {
	case errors.As(err, &said) && said.code == "" && said.status != http.StatusUnauthorized && said.status != http.StatusForbidden && lacksTree(err):
		return nil, op.neither(treeErr, said.Error())
	case errors.Is(err, errNoSizes):
		return nil, op.neither(treeErr, "names files without their sizes in "+target.EscapedPath()+"?blobs=true")
	case err != nil:
		return nil, err
	case len(files.All()) >= mostSiblings:
		return nil, op.neither(treeErr, fmt.Sprintf("names %d files or more in %s, where the Hub leaves some out", mostSiblings, target.EscapedPath()))
	}
	return files.All(), nil
}

// neither is an endpoint that gives no list of a commit's files in either of two ways.
func (op operation) neither(treeErr error, second string) error {
	first := treeErr
	var e *fetcher.Error
	if errors.As(treeErr, &e) {
		first = e.Err
	}
	return op.fail(fetcher.ErrRefused, fmt.Errorf("%w, and %s", first, second),
		"check the spelling; if it is right, this mirror has too little of the Hub's API: it must pass on /api/models/ID/tree/COMMIT, or /api/models/ID/revision/COMMIT?blobs=true")
}

// readInfo adds the files that are told of a revision, one by one.
func readInfo(op operation, files *httpsource.Files, commit string, body *jsonBody) error {
	if err := body.open('{'); err != nil {
		return err
	}
	listed := false
	for body.More() {
		key, err := body.Token()
		if err != nil {
			return err
		}
		switch key {
		case "sha":
			var sha string
			if err := body.decode(&sha, maxEntry); err != nil {
				return err
			}
			if sha != commit {
				return op.fail(fetcher.ErrCorrupt, errors.New("the endpoint lists another commit"), "do not trust this endpoint")
			}
		case "siblings":
			listed = true
			if err := readSiblings(op, files, body); err != nil {
				return err
			}
		default:
			var other json.RawMessage
			if err := body.decode(&other, maxInfo); err != nil {
				return err
			}
		}
	}
	if !listed {
		return errNoSizes
	}
	_, err := body.Token()
	return err
}

func readSiblings(op operation, files *httpsource.Files, body *jsonBody) error {
	if err := body.open('['); err != nil {
		return err
	}
	for body.More() {
		var s sibling
		if err := body.decode(&s, maxEntry); err != nil {
			return err
		}
		f, err := s.file()
		if errors.Is(err, errNoSizes) {
			return err
		}
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
