package hf_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"sort"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/hf"
)

// inMemory answers by a handler, each time after a moment, and counts how.
type inMemory struct {
	handler http.Handler

	mu       sync.Mutex
	start    time.Time
	answered map[int]int     // by status
	served   []time.Duration // when those were answered that the quota allowed
}

func (m *inMemory) RoundTrip(req *http.Request) (*http.Response, error) {
	time.Sleep(50 * time.Millisecond)
	w := httptest.NewRecorder()
	m.handler.ServeHTTP(w, req)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.answered[w.Code]++; w.Code != http.StatusTooManyRequests {
		m.served = append(m.served, time.Since(m.start))
	}
	resp := w.Result()
	resp.Request = req
	return resp, nil
}

// fleet is nodes with a driver each that share one quota.
type fleet struct {
	t   *testing.T
	hub *inMemory

	mu   sync.Mutex
	warm []time.Duration // when each model of each node was
}

// run has every node find and list every model, as an agent does: one after the other,
// again when the driver says so, with what was found.
func (f *fleet) run(nodes, models int) {
	var wg sync.WaitGroup
	start := time.Now()
	for range nodes {
		d, err := hf.New(hf.Options{Endpoint: "http://hub.test", Transport: f.hub})
		if err != nil {
			f.t.Fatal(err)
		}
		wg.Go(func() {
			for m := range models {
				src := fetcher.Source{Scheme: fetcher.SchemeHub, Path: fmt.Sprintf("acme/model-%d", m)}
				src.Revision = f.again(func() (string, error) { return d.Resolve(f.t.Context(), src) })
				f.again(func() (string, error) { _, err := d.List(f.t.Context(), src); return "", err })
				f.mu.Lock()
				f.warm = append(f.warm, time.Since(start))
				f.mu.Unlock()
			}
		})
	}
	wg.Wait()
}

func (f *fleet) again(try func() (string, error)) string {
	for {
		got, err := try()
		var e *fetcher.Error
		switch {
		case err == nil:
			return got
		case !errors.As(err, &e) || fetcher.QuotaOf(err).Host == "":
			f.t.Error(err)
			return ""
		}
		time.Sleep(max(e.RetryAfter, 5*time.Second))
	}
}

// A fleet that starts cold behind one quota gets all that the quota allows, from the
// first window to the end, and asks for little beyond it. Time is virtual; drivers and
// quota are the real ones. STOKER_TEST_FLEETS=1 adds the fleets of docs/fleet.md.
func TestFleetUsesTheWholeQuota(t *testing.T) {
	quota := fetchertest.Quota{API: 1000, Window: 5 * time.Minute}
	sizes := [][2]int{{300, 20}, {1000, 4}}
	if os.Getenv("STOKER_TEST_FLEETS") != "" {
		sizes = append(sizes, [][2]int{{1000, 20}, {2000, 20}}...)
	}
	for _, size := range sizes {
		nodes, models := size[0], size[1]
		t.Run(fmt.Sprintf("%d nodes, %d models", nodes, models), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hub := fetchertest.NewHub(fetchertest.HubOptions{Quota: quota})
				for m := range models {
					if _, err := hub.Push(t.Context(), fmt.Sprintf("acme/model-%d", m), "main", fetchertest.Tree{"config.json": fetchertest.Bytes([]byte("{}"))}); err != nil {
						t.Fatal(err)
					}
				}
				f := &fleet{t: t, hub: &inMemory{handler: hub.HubHandler(), start: time.Now(), answered: map[int]int{}}}
				f.run(nodes, models)
				if len(f.warm) != nodes*models || f.hub.answered[http.StatusOK] != 2*nodes*models {
					t.Fatalf("%d pulls by %v, want %d by two calls each", len(f.warm), f.hub.answered, nodes*models)
				}
				// By the end of each window, as many calls were of use as the quota allows.
				served, total := f.hub.served, 2*nodes*models
				for windows := 1; ; windows++ {
					end, allowed := time.Duration(windows)*quota.Window, windows*quota.API
					n := sort.Search(len(served), func(i int) bool { return served[i] > end })
					if n > total*9/10 {
						t.Logf("%d nodes: %d calls of use after %s, %.0f%% of what the quota allows", nodes, n, end, 100*float64(n)/float64(allowed))
						break
					}
					if n <= total*3/4 && float64(n) < 0.9*float64(allowed) {
						t.Errorf("%d calls of use after %s, of %d that the quota allows", n, end, allowed)
					}
				}
				for i := 1; i < len(f.warm); i++ {
					if still := f.warm[i] - f.warm[i-1]; i < len(f.warm)*3/4 && still > quota.Window+time.Minute {
						t.Errorf("the warm count stood for %s after %s", still, f.warm[i-1])
					}
				}
				refused := f.hub.answered[http.StatusTooManyRequests]
				t.Logf("%d nodes: all after %s, %d calls refused of %d", nodes, f.warm[len(f.warm)-1].Round(time.Second), refused, 2*nodes*models+refused)
				if refused > 2*nodes*models/2 {
					t.Errorf("%d calls were refused", refused)
				}
			})
		})
	}
}
