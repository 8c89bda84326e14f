package store

import (
	"fmt"
	"path"
	"path/filepath"
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
	bad := func(why string) error {
		shown := p
		if len(shown) > 120 {
			shown = shown[:117] + "..."
		}
		return fmt.Errorf("file name %q %s: %w", shown, why, ErrCorrupt)
	}
	switch {
	case p == "":
		return bad("is empty")
	case !utf8.ValidString(p):
		return bad("is not valid UTF-8")
	case len(p) > maxPath:
		return bad(fmt.Sprintf("is %d bytes long, at most %d are allowed", len(p), maxPath))
	case strings.ContainsFunc(p, unicode.IsControl):
		return bad("contains control characters")
	case strings.Contains(p, `\`):
		return bad("contains a backslash")
	case strings.HasPrefix(p, "/"):
		return bad("is absolute")
	case path.Clean(p) != p || p == "." || !filepath.IsLocal(p):
		return bad("is not a clean path inside the model")
	}
	for _, segment := range strings.Split(p, "/") {
		if strings.HasPrefix(segment, tempPrefix) {
			return bad("has a part that is reserved for unfinished files")
		}
		if len(segment) > maxSegment {
			return bad(fmt.Sprintf("has a part of %d bytes, at most %d are allowed", len(segment), maxSegment))
		}
	}
	return nil
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
