package store

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
)

// changing ends the generation while a manifest is being written.
const changing = "~"

func (s *Store) generationPath() string { return filepath.Join(s.dir, "agent", "generation") }

// Generation names the set of manifests that are here: while it is the same, no stoker
// that knows of generations has changed the set, in any process. Empty: not known,
// because none has published yet, or one is about to, or one was killed meanwhile. Older
// stokers change manifests and not the generation, and so does a removal where nothing
// more can be written.
func (s *Store) Generation() string {
	target, err := os.Readlink(s.generationPath())
	if err != nil || strings.HasSuffix(target, changing) {
		return ""
	}
	return target
}

// newGeneration calls publish, which writes a manifest, and begins a new generation,
// whatever comes of it. It returns the generations before and after; empty: not known.
// The caller holds the layout's lock.
func (s *Store) newGeneration(publish func() error) (before, after string, err error) {
	before, after = s.Generation(), rand.Text()
	// First, so that nobody takes a crash in between for the old generation.
	if err := s.replaceLink(after+changing, s.generationPath()); err != nil {
		return before, "", err
	}
	err = publish()
	if s.replaceLink(after, s.generationPath()) != nil {
		after = "" // it stays unknown until the next one, which costs time only
	}
	return before, after, err
}

// endGeneration follows the removal of a manifest, which no full disk may stop: whoever
// goes by the old generation counts on content that was here a moment ago. The caller
// holds the layout's lock.
func (s *Store) endGeneration() {
	if s.Generation() != "" {
		_ = s.replaceLink(rand.Text(), s.generationPath()) // best effort, as said
	}
}
