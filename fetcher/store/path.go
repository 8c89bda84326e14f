package store

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of names that a source gives: those of Linux file systems.
const (
	maxPath    = 1024
	maxSegment = 255
)

// CheckPath reports why a file name that came from a source may not be used,
// or nil. Good names are relative, clean, slash-separated, valid UTF-8 without
// control characters or backslashes, and short enough for a file system. The
// error is ErrCorrupt.
func CheckPath(p string) error {
	if problem, _ := PathProblem(p); problem != "" {
		return fmt.Errorf("%s: %w", problem, ErrCorrupt)
	}
	return nil
}

// PathProblem returns in a clause why CheckPath does not pass a name, or "". A hostile
// one is a trick: it leads elsewhere, or steers what shows it. The others are names that
// a source may well have, and no file can.
func PathProblem(p string) (problem string, hostile bool) {
	why := ""
	switch {
	case strings.ContainsFunc(p, unicode.IsControl):
		why, hostile = "contains control characters", true
	case strings.HasPrefix(p, "/"):
		why, hostile = "is absolute", true
	case slices.Contains(strings.Split(p, "/"), ".."):
		why, hostile = "leads out of a folder", true
	case p == "":
		why = "is empty"
	case !utf8.ValidString(p):
		why = "is not valid UTF-8"
	case len(p) > maxPath:
		why = fmt.Sprintf("is %d bytes long, at most %d are allowed", len(p), maxPath)
	case strings.Contains(p, `\`):
		why = "contains a backslash"
	case path.Clean(p) != p || p == "." || !filepath.IsLocal(p):
		why = "is not a clean path inside the model: it has an empty part, or one that is a dot"
	default:
		why = segmentProblem(p)
	}
	if why == "" {
		return "", false
	}
	shown := p
	if len(shown) > 120 {
		shown = shown[:117] + "..."
	}
	return fmt.Sprintf("file name %q %s", shown, why), hostile
}

func segmentProblem(p string) string {
	for segment := range strings.SplitSeq(p, "/") {
		if strings.HasPrefix(segment, tempPrefix) {
			return "has a part that is reserved for unfinished files"
		}
		if len(segment) > maxSegment {
			return fmt.Sprintf("has a part of %d bytes, at most %d are allowed", len(segment), maxSegment)
		}
	}
	return ""
}

// revisionRunes are what a revision may consist of.
const revisionRunes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

// CheckRevision reports why a revision cannot be a folder name, or nil:
// 1 to 128 of [A-Za-z0-9._-], not beginning with a dot, and not "current".
func CheckRevision(revision string) error {
	ok := revision != "" && len(revision) <= 128 && revision[0] != '.' && revision != currentLink
	for _, r := range revision {
		if !strings.ContainsRune(revisionRunes, r) {
			ok = false
		}
	}
	if !ok {
		return fmt.Errorf("revision %q cannot be a folder name: %w", revision, ErrCorrupt)
	}
	return nil
}

// checkFolder is the store's own guard before a name becomes a path: callers
// have stricter rules for names, but nothing may ever leave the store.
func checkFolder(name string) error {
	if name == "" || name[0] == '.' || strings.ContainsAny(name, `/\`) || !filepath.IsLocal(name) {
		return fmt.Errorf("model name %q cannot be a folder name: %w", name, ErrCorrupt)
	}
	return nil
}

func checkSHA256(hex string) error {
	ok := len(hex) == 64
	for _, r := range hex {
		if (r < '0' || r > '9') && (r < 'a' || r > 'f') {
			ok = false
		}
	}
	if !ok {
		return fmt.Errorf("sha256 %q is not 64 lower-case hex digits: %w", hex, ErrCorrupt)
	}
	return nil
}
