package fetcher

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"slices"

	"github.com/stoker-project/stoker/fetcher/smallfile"
)

// The most that is read of an index. A file that goes beyond is taken for none, like one
// that is no JSON: it is pulled like any other file, and nothing is chosen by it. Public
// indexes have some megabytes, a few hundred thousand tensors and a few hundred files.
const (
	// maxIndex is in bytes.
	maxIndex = 32 << 20
	// maxIndexTokens bounds names, values and brackets: two for each of a million tensors,
	// as sizing reads of a model at most, and some for what else is in it.
	maxIndexTokens = 2_100_000
	// maxIndexFiles bounds the distinct files, as sizing does.
	maxIndexFiles = 10_000
	// maxIndexDepth bounds how deep values are nested.
	maxIndexDepth = 64
	// maxIndexToken bounds one name or value with the spaces around it, in bytes.
	maxIndexToken = 64 << 10
	// maxKeptIndex is how large an index may be, in bytes, of which the content is kept for
	// the pull that follows, so that it is asked for once.
	maxKeptIndex = 8 << 20
)

// errNoIndex is a file that is no index of weights, or larger than any.
var errNoIndex = errors.New("it is no index of weights")

// weightIndex is what an index of weights says.
type weightIndex struct {
	name string
	// files are the distinct files that it names, sorted.
	files []string
}

func (x *weightIndex) names(file string) bool {
	_, found := slices.BinarySearch(x.files, file)
	return found
}

// parseIndex reads an index; nil if it is none, which is for vLLM to say. It keeps each
// name of a file once, and nothing else. Errors are the reader's.
func parseIndex(name string, r io.Reader) (*weightIndex, error) {
	p := indexParser{in: &indexReader{r: r}}
	p.json = json.NewDecoder(p.in)
	p.in.parsed = p.json.InputOffset
	files, err := p.index()
	switch {
	case p.in.err != nil:
		return nil, p.in.err
	case err != nil || len(files) == 0:
		return nil, nil //nolint:nilerr // it is no index
	}
	return &weightIndex{name: name, files: slices.Sorted(maps.Keys(files))}, nil
}

// indexReader gives a decoder little at a time, so that it buffers at most maxIndexToken
// of what it has not returned, and remembers why reading ended.
type indexReader struct {
	r      io.Reader
	parsed func() int64
	read   int64
	err    error // of reading, io.EOF excepted
}

// Read implements io.Reader.
func (x *indexReader) Read(b []byte) (int, error) {
	if x.read-x.parsed() > maxIndexToken {
		return 0, errNoIndex
	}
	n, err := x.r.Read(b[:min(len(b), 4<<10)])
	x.read += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		x.err = err
	}
	return n, err
}

// indexParser reads an index token by token.
type indexParser struct {
	json   *json.Decoder
	in     *indexReader
	tokens int
	depth  int
}

// next returns the next token, within the bounds.
func (p *indexParser) next() (json.Token, error) {
	token, err := p.json.Token()
	if err != nil {
		return nil, err
	}
	if p.tokens++; p.tokens > maxIndexTokens {
		return nil, errNoIndex
	}
	switch token {
	case json.Delim('{'), json.Delim('['):
		if p.depth++; p.depth > maxIndexDepth {
			return nil, errNoIndex
		}
	case json.Delim('}'), json.Delim(']'):
		p.depth--
	}
	return token, nil
}

// index reads the whole document, and returns the files of the last weight_map, as
// Python takes it.
func (p *indexParser) index() (files map[string]bool, err error) {
	if err := p.begin(); err != nil {
		return nil, err
	}
	for p.json.More() {
		key, err := p.next()
		switch {
		case err != nil:
			return nil, err
		case key == "weight_map":
			files, err = p.files()
		default:
			err = p.skip()
		}
		if err != nil {
			return nil, err
		}
	}
	if _, err := p.next(); err != nil { // the bracket that closes it
		return nil, err
	}
	if _, err := p.next(); !errors.Is(err, io.EOF) {
		return nil, errNoIndex
	}
	return files, nil
}

// begin reads the bracket of an object.
func (p *indexParser) begin() error {
	token, err := p.next()
	if err == nil && token != json.Delim('{') {
		err = errNoIndex
	}
	return err
}

// files reads a weight_map: a file for each tensor.
func (p *indexParser) files() (map[string]bool, error) {
	if err := p.begin(); err != nil {
		return nil, err
	}
	files := map[string]bool{}
	for p.json.More() {
		if _, err := p.next(); err != nil { // the tensor
			return nil, err
		}
		token, err := p.next()
		if err != nil {
			return nil, err
		}
		file, ok := token.(string)
		if !ok {
			return nil, errNoIndex
		}
		files[file] = true
		if len(files) > maxIndexFiles {
			return nil, errNoIndex
		}
	}
	_, err := p.next() // the bracket that closes it
	return files, err
}

// skip reads one value of any kind.
func (p *indexParser) skip() error {
	for outside := p.depth; ; {
		if _, err := p.next(); err != nil {
			return err
		}
		if p.depth == outside {
			return nil
		}
	}
}

// readIndex reads an index from its source; nil if it is none, or not what the source
// vouches for: the pull, which verifies it like any other file, says so. read is its
// content; nil if it is too large to be kept.
func readIndex(ctx context.Context, d Driver, obj Object) (index *weightIndex, read *readFile, err error) {
	body, err := d.Open(ctx, obj, 0, obj.File.Size)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	sum, stated := sha256.New(), obj.File.Digest.newHash(obj.File.Size)
	sinks := []io.Writer{sum}
	if stated != nil {
		sinks = append(sinks, stated)
	}
	var text bytes.Buffer
	kept := obj.File.Size <= maxKeptIndex
	if kept {
		sinks = append(sinks, &text)
	}
	content := &counted{r: io.TeeReader(io.LimitReader(body, obj.File.Size+1), io.MultiWriter(sinks...))}
	if index, err = parseIndex(obj.File.Path, content); err != nil {
		return nil, nil, err
	}
	if _, err := io.Copy(io.Discard, content); err != nil { // what is no index is not read to its end
		return nil, nil, err
	}
	if content.n != obj.File.Size {
		return nil, nil, &Error{Kind: ErrTransient, Op: "read", Origin: obj.File.Path, Err: io.ErrUnexpectedEOF}
	}
	if obj.File.Digest.verify(hex.EncodeToString(sum.Sum(nil)), stated) != nil {
		return nil, nil, nil
	}
	if kept {
		read = &readFile{obj.File, text.Bytes()}
	}
	return index, read, nil
}

// storedIndex reads an index in the store; nil if it is none.
func storedIndex(name, path string) (index *weightIndex, err error) {
	f, err := smallfile.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return parseIndex(name, io.LimitReader(f, maxIndex))
}

// counted counts what is read.
type counted struct {
	r io.Reader
	n int64
}

// Read implements io.Reader.
func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
