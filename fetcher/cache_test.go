package fetcher_test

import (
	"testing"

	"github.com/stoker-project/stoker/fetcher/fetchertest"
)

// What is larger than what may stay in memory goes past the page cache.
func TestPullPastThePageCache(t *testing.T) {
	const size = 96 << 20
	for name, c := range map[string]struct {
		cache int64
		stays bool
	}{
		"it may stay":           {cache: 2 * size, stays: true},
		"half of the machine's": {cache: 0, stays: true},
		"more than may stay":    {cache: size / 2},
		"nothing may":           {cache: -1},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t, fetchertest.HubOptions{})
			e.push(repoID, bigTree(1, size))
			req := request("tiny", "")
			req.Cache = c.cache
			e.mustPull(req)
			s := e.store()
			m, err := s.Lookup("tiny")
			if err != nil {
				t.Fatal(err)
			}
			var resident int64
			for _, f := range m.Files {
				n, err := s.Resident(t.Context(), f.SHA256)
				if err != nil {
					t.Fatal(err)
				}
				resident += n
			}
			// Small files are written together, and stay. Of what stays, a machine that
			// is short of memory may take some back.
			if c.stays && resident < m.Bytes/2 || !c.stays && resident > 1<<20 {
				t.Errorf("of %d bytes %d are in memory", m.Bytes, resident)
			}
		})
	}
}
