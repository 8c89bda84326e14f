package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/stoker-project/stoker/fetcher/store"
	"github.com/stoker-project/stoker/gpu/sizing"
)

const (
	// sizeTime bounds how long the files of one model are read to size it. Those of the
	// largest models take some seconds on a slow volume.
	sizeTime = time.Minute
	// sizeAgain is when a model that could not be sized is tried again: its files do not
	// change, but what failed may have been the volume.
	sizeAgain = time.Hour
)

// sizeOf reads what a published model needs on a GPU. A model that cannot be sized is
// held and labelled all the same, less how many replicas fit.
func (o *storeObserver) sizeOf(m store.Manifest) sized {
	size, err := o.read(o.store.Files(m.Name, m.Revision))
	if err != nil {
		return sized{revision: m.Revision, published: m.PublishedAt, err: err, again: time.Now().Add(sizeAgain)}
	}
	return sized{revision: m.Revision, published: m.PublishedAt, size: &size}
}

// readSize reads the front of a model's files, for sizeTime at most; how much it reads
// of them is bounded by package sizing.
func readSize(files fs.FS) (sizing.Model, error) {
	return sizing.ReadModel(timedFS{files, time.Now().Add(sizeTime)})
}

// timedFS fails when its time is over.
type timedFS struct {
	fs    fs.FS
	until time.Time
}

func (t timedFS) check() error {
	if time.Now().After(t.until) {
		return errSizeTime
	}
	return nil
}

var errSizeTime = errors.New("its files could not be read in time")

// Open implements fs.FS.
func (t timedFS) Open(name string) (fs.File, error) {
	if err := t.check(); err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	f, err := t.fs.Open(name)
	if err != nil {
		return nil, err
	}
	return timedFile{f, t}, nil
}

// ReadDir implements fs.ReadDirFS: an open folder is no timedFile.
func (t timedFS) ReadDir(name string) ([]fs.DirEntry, error) { return fs.ReadDir(t.fs, name) }

type timedFile struct {
	fs.File
	fs timedFS
}

// Read implements fs.File.
func (f timedFile) Read(p []byte) (int, error) {
	if err := f.fs.check(); err != nil {
		return 0, err
	}
	return f.File.Read(p)
}
