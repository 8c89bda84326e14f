package store_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher/store"
)

// Pulls, removals, verifications and collections at once, each with a store of
// its own as processes have: what is published stays whole, and nobody fails.
func TestStorm(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	dir := filepath.Join(t.TempDir(), "store")
	files := func(name string, round int) map[string]string {
		return map[string]string{"shared": "shared by all", "own": name, "sub/moving": fmt.Sprint(round % 3)}
	}
	publish(t, open(t, dir), "stable", repo, commitA, files("stable", 0))

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	forever := func(number uint64, do func(s *store.Store, r *rand.Rand, round int) error) {
		s, r := open(t, dir), rand.New(rand.NewPCG(seed, number))
		wg.Go(func() {
			for round := 0; ctx.Err() == nil; round++ {
				if err := do(s, r, round); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
			}
		})
	}
	for i, name := range []string{"a", "b", "b"} {
		forever(uint64(i), func(s *store.Store, r *rand.Rand, round int) error {
			err := pullOnce(ctx, s, name, []string{commitA, commitB}[r.IntN(2)], files(name, round))
			if err != nil || r.IntN(3) > 0 {
				return err
			}
			if err := s.Remove(ctx, name); err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
			return nil
		})
	}
	forever(10, func(s *store.Store, r *rand.Rand, _ int) error {
		_, err := s.GC(ctx, []time.Duration{0, time.Hour}[r.IntN(2)])
		return err
	})
	forever(11, func(s *store.Store, _ *rand.Rand, _ int) error {
		all, err := s.Published()
		for _, m := range all {
			res, err := s.Verify(ctx, m, nil)
			if errors.Is(err, store.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			if len(res.Problems) > 0 {
				return fmt.Errorf("verify %s@%s: %+v", m.Name, m.Revision, res.Problems)
			}
		}
		return err
	})
	forever(12, func(s *store.Store, _ *rand.Rand, _ int) error {
		m, err := s.Lookup("stable")
		if err != nil {
			return err
		}
		if err := s.Check(ctx, m); err != nil {
			return err
		}
		all, err := s.Published()
		if err != nil {
			return err
		}
		for _, m := range all {
			// Links are moved before a manifest is replaced; nothing is missing ever.
			if err := s.Check(ctx, m); err != nil && strings.Contains(err.Error(), "missing") {
				return err
			}
		}
		_, err = s.Usage()
		return err
	})
	wg.Wait()

	s := open(t, dir)
	for _, name := range []string{"a", "b"} {
		m := publish(t, s, name, repo, commitB, files(name, 0))
		must(t, s.Check(t.Context(), m))
	}
	gc(t, s, 0)
	checkFiles(t, hubDir(s, "snapshots/"+commitA), files("stable", 0))
	for _, name := range []string{"a", "b"} {
		must(t, s.Remove(t.Context(), name))
	}
	must(t, s.Remove(t.Context(), "stable"))
	gc(t, s, 0)
	u, err := s.Usage()
	must(t, err)
	if u.StoreBytes != 0 {
		t.Errorf("%d bytes are left of nothing", u.StoreBytes)
	}
}

func pullOnce(ctx context.Context, s *store.Store, name, revision string, files map[string]string) (err error) {
	g, err := s.Stage(ctx, name, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	for _, content := range files {
		if err := admitOnce(ctx, g, content); err != nil {
			return err
		}
	}
	return g.Publish(ctx, manifest(name, repo, revision, files))
}

func admitOnce(ctx context.Context, g *store.Staging, content string) (err error) {
	sum := sumOf(content)
	if err := g.Keep(ctx, sum); err != nil {
		return err
	}
	if here, err := g.Has(ctx, sum, int64(len(content)), nil); here || err != nil {
		return err
	}
	p, err := g.OpenPartial(ctx, sum, "sha256:"+sum, int64(len(content)), nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	if here, err := g.Has(ctx, sum, int64(len(content)), nil); err != nil {
		return err
	} else if here {
		return p.Discard()
	}
	if err := p.Reset(); err != nil {
		return err
	}
	if _, err := p.WriteAt([]byte(content), 0); err != nil {
		return err
	}
	if err := p.Sync(); err != nil {
		return err
	}
	return g.Admit(ctx, p, sum, "sha256:"+sum)
}
