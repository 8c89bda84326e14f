package fetcher

import (
	"context"
	"fmt"
	"io"
)

// File is one file of a revision, as its source describes it.
type File struct {
	// Path is relative, with forward slashes. It comes from the source and is
	// hostile until [CheckPath] has passed it; drivers hand it on unchanged.
	Path string
	// Size in bytes.
	Size int64
	// Digest is what the source vouches for, or "" if it vouches for nothing.
	Digest Digest
	// Version pins the file's content where the revision alone does not (an
	// ETag, a generation, a modification time); opaque to all but the driver.
	Version string
	// Unusable is an [*Error], ErrRefused or ErrCorrupt: why what the source has by this name is no
	// file that can be pulled (a link that leads elsewhere, a submodule). Nil: it can.
	// It is refused only where it is chosen.
	Unusable error
}

// CheckRange makes sure that length bytes from offset are within the file.
func (f File) CheckRange(offset, length int64) error {
	// Not offset+length, which may be more than an int64 holds.
	if offset < 0 || length < 0 || offset > f.Size || length > f.Size-offset {
		return fmt.Errorf("%d bytes from %d are outside its %d bytes", length, offset, f.Size)
	}
	return nil
}

// Listing is what a source resolved to.
type Listing struct {
	// Revision names this exact content: a Hub commit, or a digest over the
	// sorted (path, size, version) list. It is a folder name: [A-Za-z0-9._-].
	Revision string
	// Files in any order, every file of the revision, unfiltered.
	Files []File
	// Source is what Open and Vouch are asked with, where that is not what was listed:
	// a source that is one object of a bucket is a file of its folder. The zero Source
	// else.
	Source Source

	// read is a file that was read to choose the others; nil: none was.
	read *readFile
}

// readFile is a file of a listing and its content.
type readFile struct {
	file    File
	content []byte
}

// Of is the source that the files of a listing of src are asked for with.
func (l Listing) Of(src Source) Source {
	if l.Source == (Source{}) {
		return src
	}
	return l.Source
}

// Object is one file of one revision of one source: what [Driver.Open] opens.
type Object struct {
	Source   Source
	Revision string
	File     File
}

// Driver reads one kind of source. It is safe for concurrent use, tries once,
// and never retries, sleeps, logs or checks digests: the engine does. Every
// error is an [*Error] of one kind, or wraps ctx's error if ctx has ended.
//
// The contract is tested by fetchertest.TestDriver.
type Driver interface {
	// List resolves src's revision and lists all of its files. Missing or
	// forbidden sources are ErrRefused. It follows pagination to its end: a
	// short list is an error, never a short Listing.
	List(ctx context.Context, src Source) (Listing, error)

	// Open streams length bytes of the file from offset: exactly these bytes of
	// exactly that revision, then io.EOF; or an error (while opening, or from
	// Read). Only io.EOF says that the bytes before it are right. A range that
	// [File.CheckRange] does not pass is ErrRefused; one of no bytes is an empty
	// body, for which the source need not be asked. A source whose content
	// changed under the transfer is ErrRefused and names the file. A body that
	// ends early returns io.ErrUnexpectedEOF or an ErrTransient from Read, never
	// io.EOF. The caller closes the reader; ending ctx ends it too. A connection
	// whose range was read to its last byte serves the next one. Where nothing
	// else pins the content, Close of a body that was not read to its end tells
	// whether it has changed. How long the source may take to answer is the driver's
	// to bound: the engine watches bodies only.
	Open(ctx context.Context, obj Object, offset, length int64) (io.ReadCloser, error)
}

// Resolver is a Driver of a kind of source that has a name for its content which costs
// less than the list: a branch's commit. List of the source at that revision lists it
// without looking it up again.
type Resolver interface {
	Driver

	// Resolve returns the revision that src means now, as List would. Errors are as
	// List's.
	Resolve(ctx context.Context, src Source) (string, error)
}

// Voucher is a Driver of a kind of source where what vouches for a file costs a
// request of its own. It is asked about the files of a listing that were chosen,
// so that to look up a revision stays cheap, and choosing few of many files too.
type Voucher interface {
	Driver

	// Vouch returns what the source states of the content of exactly this
	// version of the file, or "". Errors are as for Open: a file that changed
	// since it was listed is ErrRefused and named.
	Vouch(ctx context.Context, obj Object) (Digest, error)
}

// Drivers makes drivers, by scheme.
type Drivers map[string]func(Access) (Driver, error)
