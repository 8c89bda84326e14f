package inject

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"sigs.k8s.io/yaml"
)

// ErrDocument is a document that cannot be read.
var ErrDocument = errors.New("the document cannot be read")

// ErrTaken is a pod that could not be served from the store, because one of its
// containers has something of its own where that belongs.
var ErrTaken = errors.New("nothing was added")

// Formats of [File]'s output.
const (
	YAML = "yaml"
	JSON = "json"
)

// File adds to every pod in the documents of a file what it needs, and writes
// them in their order. As YAML, a document in which nothing changes comes out
// byte for byte; of one that changes, comments and the order of keys are lost.
// As JSON, several documents become one List. The error is ErrDocument or ErrTaken, or
// one of writing; nothing was written with the former two.
func File(out io.Writer, in []byte, format string, o Options) (Result, error) {
	var r Result
	docs := split(in)
	var objects []any
	for i := range docs {
		object, err := parse(docs[i].text())
		if err != nil {
			return r, fmt.Errorf("document %d: %w: %w", i+1, ErrDocument, err)
		}
		found := Object(object, o)
		r.add(found)
		if object != nil {
			objects = append(objects, object)
		}
		if found.Injected == 0 || format == JSON {
			continue
		}
		body, err := yaml.Marshal(object)
		if err != nil {
			return r, fmt.Errorf("document %d: write it: %w", i+1, err)
		}
		docs[i].body = body
		docs[i].rewritten = true
	}
	if len(r.Taken) > 0 {
		return r, fmt.Errorf("%w: %s", ErrTaken, strings.Join(r.Taken, "; "))
	}
	if format == JSON {
		return r, writeJSON(out, objects)
	}
	for _, d := range docs {
		if _, err := out.Write(d.text()); err != nil {
			return r, err
		}
	}
	return r, nil
}

func writeJSON(out io.Writer, objects []any) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if len(objects) == 1 {
		return enc.Encode(objects[0])
	}
	if objects == nil {
		objects = []any{}
	}
	return enc.Encode(map[string]any{"apiVersion": "v1", "kind": "List", "items": objects})
}

// document is a part of a file: the line that begins it, and the rest.
type document struct {
	marker, body []byte
	rewritten    bool
}

func (d document) text() []byte {
	marker := d.marker
	if d.rewritten && len(marker) > 0 {
		// What stood behind the marker was part of the document.
		marker = []byte("---\n")
	}
	return append(bytes.Clone(marker), d.body...)
}

// split cuts a file where a line is a document's beginning.
func split(in []byte) []document {
	var docs []document
	var now document
	for line := range bytes.Lines(in) {
		if begins(line) {
			if len(now.marker) > 0 || len(now.body) > 0 {
				docs = append(docs, now)
			}
			now = document{marker: line}
			continue
		}
		now.body = append(now.body, line...)
	}
	return append(docs, now)
}

// begins says whether a line is the marker of a document. Nothing else may
// begin so, not even in a text over several lines.
func begins(line []byte) bool {
	rest, ok := bytes.CutPrefix(line, []byte("---"))
	return ok && (len(rest) == 0 || strings.ContainsRune(" \t\r\n", rune(rest[0])))
}

// parse reads one document; nil if there is nothing in it.
func parse(body []byte) (map[string]any, error) {
	if empty(body) {
		return nil, nil
	}
	asJSON, err := yaml.YAMLToJSONStrict(body)
	if err != nil {
		return nil, err
	}
	var v any
	dec := json.NewDecoder(bytes.NewReader(asJSON))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	switch v := numbers(v).(type) {
	case nil:
		return nil, nil
	case map[string]any:
		return v, nil
	}
	return nil, errors.New("it is no object")
}

// empty says that there are only comments, and directives for the next document.
func empty(body []byte) bool {
	for line := range bytes.Lines(body) {
		line = bytes.TrimSpace(line)
		if begins(line) {
			line = bytes.TrimSpace(line[3:])
		}
		if len(line) > 0 && line[0] != '#' && line[0] != '%' {
			return false
		}
	}
	return true
}

// numbers makes whole numbers integers, so that they come out as they went in.
func numbers(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = numbers(v[k])
		}
	case []any:
		for i := range v {
			v[i] = numbers(v[i])
		}
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		if f, err := v.Float64(); err == nil && !math.IsInf(f, 0) {
			return f
		}
		return v.String()
	}
	return v
}
