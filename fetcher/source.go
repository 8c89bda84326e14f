package fetcher

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Schemes of sources. Which of them a binary can read depends on the drivers
// it was given.
const (
	SchemeHub  = "hf"
	SchemeS3   = "s3"
	SchemeGCS  = "gs"
	SchemeFile = "file"
)

// maxName is the longest model name: it becomes the name part of a label key
// and a label value, both limited to 63 characters by Kubernetes.
const maxName = 63

// Source names where a model comes from, as an operator writes it:
//
//	hf://[ORG/]NAME[@REVISION]   s3://BUCKET[/PREFIX]   gs://BUCKET[/PREFIX]   file:///DIR
//
// The zero Source is not valid; make one with [ParseSource].
type Source struct {
	// Scheme is one of the Scheme constants.
	Scheme string
	// Path is ORG/NAME or NAME for the Hub, BUCKET or BUCKET/PREFIX for buckets (no
	// slash at the end; PREFIX may be one object), and an absolute, clean path for file.
	Path string
	// Revision is a branch, tag, ref or commit; Hub only, and empty if the
	// operator gave none (the Hub's default branch, main, is meant then).
	Revision string
}

// ParseSource reads a source as an operator writes it. The error says which
// part is wrong and shows the accepted forms.
func ParseSource(s string) (Source, error) {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		return Source{}, fmt.Errorf("source %q has no scheme; write hf://[ORG/]NAME[@REVISION], s3://BUCKET[/PREFIX], gs://BUCKET[/PREFIX] or file:///DIR", s)
	}
	if !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		return Source{}, fmt.Errorf("source %q contains control characters; write it in plain text", s)
	}
	switch scheme {
	case SchemeHub:
		return parseHub(s, rest)
	case SchemeS3, SchemeGCS:
		return parseBucket(s, scheme, rest)
	case SchemeFile:
		if !strings.HasPrefix(rest, "/") {
			return Source{}, fmt.Errorf("source %q is not absolute; write file:// and an absolute directory, as in file:///srv/models/llama", s)
		}
		return Source{Scheme: scheme, Path: path.Clean(rest)}, nil
	default:
		return Source{}, fmt.Errorf("source %q has unknown scheme %q; the schemes are hf, s3, gs and file", s, scheme)
	}
}

func parseHub(s, rest string) (Source, error) {
	repo, revision, pinned := strings.Cut(rest, "@")
	if pinned && revision == "" {
		return Source{}, fmt.Errorf("source %q has an empty revision after @; name a branch, tag or commit, or leave the @ out", s)
	}
	if pinned && !isGitRevision(revision) {
		return Source{}, fmt.Errorf("source %q: %q is no git revision; name a branch, tag or commit", s, revision)
	}
	org, name, ok := strings.Cut(repo, "/")
	if !ok { // as gpt2: from before there were organisations
		org, name = "a", repo
	}
	if !isHubPart(org) || !isHubPart(name) || strings.HasSuffix(name, ".git") {
		return Source{}, fmt.Errorf("source %q is not hf://[ORG/]NAME[@REVISION]; %q should be a repository, or an organisation, a slash and a repository, of letters, digits, '-', '_' and '.'", s, repo)
	}
	return Source{Scheme: SchemeHub, Path: repo, Revision: revision}, nil
}

// isGitRevision is git's rule for the names of refs (git check-ref-format), which
// a commit meets as well: it becomes a file name in the view for the Hub's
// readers.
func isGitRevision(s string) bool {
	for _, part := range strings.Split(s, "/") {
		if part == "" || part[0] == '.' || strings.HasSuffix(part, ".lock") {
			return false
		}
	}
	return !strings.HasPrefix(s, "-") && !strings.HasSuffix(s, ".") && !strings.Contains(s, "..") && !strings.Contains(s, "@{") &&
		!strings.ContainsAny(s, " ?*[\\^~:")
}

// isHubPart is the Hub's own rule for one part of a repository id
// (huggingface_hub's validate_repo_id, which also refuses names that end in .git): 1 to 96 of [A-Za-z0-9._-], no "--" or
// "..", and neither '-' nor '.' at an end.
func isHubPart(s string) bool {
	if s == "" || len(s) > 96 || strings.Contains(s, "--") || strings.Contains(s, "..") {
		return false
	}
	for _, r := range s {
		if !isASCIIAlnum(r) && r != '.' && r != '_' && r != '-' {
			return false
		}
	}
	return !strings.ContainsAny(s[:1]+s[len(s)-1:], "-.")
}

func parseBucket(s, scheme, rest string) (Source, error) {
	bucket, prefix, _ := strings.Cut(strings.TrimRight(rest, "/"), "/")
	if bucket == "" || strings.ContainsAny(bucket, " @?#\\:") {
		return Source{}, fmt.Errorf("source %q has no valid bucket; write %s://BUCKET[/PREFIX]", s, scheme)
	}
	for _, part := range strings.Split(prefix, "/") {
		if part == "." || part == ".." || (part == "" && prefix != "") {
			return Source{}, fmt.Errorf("source %q: the prefix %q has an empty, '.' or '..' part; write it without", s, prefix)
		}
	}
	p := bucket
	if prefix != "" {
		p += "/" + prefix
	}
	return Source{Scheme: scheme, Path: p}, nil
}

// String returns the source in its canonical form, revision included.
func (s Source) String() string {
	if s.Revision == "" {
		return s.WithoutRevision()
	}
	return s.WithoutRevision() + "@" + s.Revision
}

// WithoutRevision returns the canonical form less the revision: what a name is
// derived from.
func (s Source) WithoutRevision() string {
	return s.Scheme + "://" + s.Path
}

// Pinned says that the revision can never mean other content: it is a full
// Hub commit.
func (s Source) Pinned() bool {
	return s.Scheme == SchemeHub && IsCommit(s.Revision)
}

// IsCommit reports whether revision is a full git commit id (40 lower-case
// hex digits), which the Hub never resolves to anything else.
func IsCommit(revision string) bool {
	return len(revision) == 40 && isLowerHex(revision)
}

// DeriveName returns the model name for a source that was listed without one:
// the last path segment, lower-cased, with other characters turned to '-', and
// shortened with a hash when it would be too long for a label. In a bucket, a
// last segment that ends as weights do (.safetensors, .gguf, .bin, .pt, .pth)
// is one object, and the segment before it is the name's: the object's own name,
// often model.safetensors, names no model. DeriveName fails if nothing usable
// remains.
func (s Source) DeriveName() (string, error) {
	var b strings.Builder
	for _, r := range s.namingSegment() {
		switch {
		case r >= 'A' && r <= 'Z':
			b.WriteRune(r - 'A' + 'a')
		case isASCIIAlnum(r), r == '.', r == '-':
			b.WriteRune(r)
		default:
			b.WriteByte('-')
		}
	}
	name := strings.Trim(b.String(), "-.")
	if name == "" {
		return "", fmt.Errorf("no name can be derived from source %q; give one", s)
	}
	if len(name) > maxName {
		sum := sha256.Sum256([]byte(s.WithoutRevision()))
		name = name[:54] + "-" + hex.EncodeToString(sum[:4])
	}
	return name, nil
}

// namingSegment returns the segment of the path that a name is made of, by the text
// alone: a folder of a bucket that is called as a weights file counts as one.
func (s Source) namingSegment() string {
	folder, isBelow := path.Dir(s.Path), strings.Contains(s.Path, "/")
	if isBelow && (s.Scheme == SchemeS3 || s.Scheme == SchemeGCS) && hasWeightsSuffix(s.Path) {
		return path.Base(folder)
	}
	return path.Base(s.Path)
}

// CheckName reports why name cannot be a model name, or nil: 1 to 63 of
// [a-z0-9.-], alphanumeric at both ends, because it becomes a label key's name
// part, a label value and a folder.
func CheckName(name string) error {
	if name == "" {
		return errors.New("the name is empty; use 1 to 63 of a-z, 0-9, '.' and '-'")
	}
	if len(name) > maxName {
		return fmt.Errorf("name %q has %d characters; at most %d are allowed", name, len(name), maxName)
	}
	for _, r := range name {
		if !isLowerAlnum(r) && r != '.' && r != '-' {
			return fmt.Errorf("name %q contains %q; use only a-z, 0-9, '.' and '-'", name, r)
		}
	}
	if !isLowerAlnum(rune(name[0])) || !isLowerAlnum(rune(name[len(name)-1])) {
		return fmt.Errorf("name %q must begin and end with a letter or a digit", name)
	}
	return nil
}

func isLowerAlnum(r rune) bool { return r >= 'a' && r <= 'z' || r >= '0' && r <= '9' }

func isASCIIAlnum(r rune) bool { return isLowerAlnum(r) || r >= 'A' && r <= 'Z' }

func isLowerHex(s string) bool {
	for _, r := range s {
		if (r < '0' || r > '9') && (r < 'a' || r > 'f') {
			return false
		}
	}
	return s != ""
}
