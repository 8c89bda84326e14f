package fetchertest

import (
	"context"
	"errors"

	"github.com/stoker-project/stoker/fetcher"
)

// resolver is the suite's driver, which is one.
func (s *suite) resolver() fetcher.Resolver {
	s.t.Helper()
	r, ok := s.Driver.(fetcher.Resolver)
	if !ok {
		s.t.Fatal("the driver is no resolver any more")
	}
	return r
}

func resolves(f Fixture) bool {
	_, ok := f.Driver.(fetcher.Resolver)
	return ok
}

// A revision that was looked up is the one that a list has, before a change and after.
func testResolve(s *suite) {
	for round := range 3 {
		if round == 2 {
			if s.Change == nil {
				return
			}
			s.Change(s.t, smallFile, []byte("another"))
		}
		got, err := s.resolver().Resolve(s.t.Context(), s.Source)
		if err != nil {
			s.t.Fatal(err)
		}
		l, err := s.Driver.List(s.t.Context(), s.Source)
		if err != nil || l.Revision != got {
			s.t.Fatalf("round %d: looked up %q, listed %q, %v", round, got, l.Revision, err)
		}
		if s.AtRevision == nil {
			continue
		}
		if pinned, err := s.resolver().Resolve(s.t.Context(), s.AtRevision(got)); err != nil || pinned != got {
			s.t.Errorf("round %d: the pinned source is looked up as %q, %v", round, pinned, err)
		}
	}
}

func testResolveMissing(s *suite) {
	for _, src := range s.Missing {
		if src.Pinned() {
			continue // its list is refused
		}
		if got, err := s.resolver().Resolve(s.t.Context(), src); !errors.Is(err, fetcher.ErrRefused) {
			s.t.Errorf("%s: looked up %q, %v, want a refusal", src, got, err)
		}
	}
	ended, cancel := context.WithCancel(s.t.Context())
	cancel()
	if got, err := s.resolver().Resolve(ended, s.Source); !errors.Is(err, context.Canceled) {
		s.t.Errorf("after the end: looked up %q, %v", got, err)
	}
}
