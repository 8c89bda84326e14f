package agent

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stoker-project/stoker/fetcher/store"
)

func TestPlanOnASharedVolume(t *testing.T) {
	a, b, c := entry(t, "a"), entry(t, "b"), entry(t, "c")
	elsewhere := a
	elsewhere.NodeSelector = map[string]string{"pool": "other"}
	corrupt := fmt.Errorf("a: model.safetensors is missing: %w", store.ErrCorrupt)
	unwanted := record{Managed: true, Unwanted: noon.Add(-2 * time.Minute)}
	follows, writes := sharedFacts{On: true, Writer: "n9"}, sharedFacts{On: true, Writes: true, Writer: "n0"}
	with := func(models map[string]storedModel, shared sharedFacts, list ...Model) facts {
		f := world(list...)
		f.Store.Value.Models, f.Shared = models, shared
		return f
	}
	gone := func(f facts, what ...departure) facts {
		f.Shared.Gone = map[departure]bool{}
		for _, d := range what {
			f.Shared.Gone[d] = true
		}
		return f
	}
	old := func(m Model) storedModel {
		s := published(m, nil)
		before := s.Manifest
		before.Revision, before.PublishedAt = strings.Repeat("e", 40), noon.Add(-2*time.Hour)
		s.Old = []store.Manifest{before}
		return s
	}
	leaves := departure{Model: "a"}
	for name, tc := range map[string]struct {
		f     facts
		want  string
		leave map[departure]bool
	}{
		"a follower says what it sees, and does nothing": {
			f: func() facts {
				f := with(map[string]storedModel{"a": published(a, nil), "b": published(b, corrupt), "gone": published(entry(t, "gone"), nil)}, follows, a, b, c)
				f.Memory["gone"] = unwanted
				f.Pods = []pod{podFor("c")}
				return f
			}(),
			want: "a warm +label\nb queued\nc queued\n",
		},
		"a follower says nothing of what leaves": {
			f: func() facts {
				f := with(map[string]storedModel{"a": published(a, nil)}, follows, a)
				f.Store.Value.Leaving = map[string]bool{"a": true}
				return f
			}(),
			want: "a evicting\n",
		},
		"a follower labels only what its node should hold": {
			f:    with(map[string]storedModel{"a": published(a, nil)}, follows, elsewhere),
			want: "a skipped\n",
		},
		"the writer pulls for other nodes": {
			f:    with(map[string]storedModel{}, writes, elsewhere),
			want: "a queued\n-> pull a\n",
		},
		"and does not label its own for that": {
			f:    with(map[string]storedModel{"a": published(a, nil)}, writes, elsewhere),
			want: "a skipped\n",
		},
		"nothing is removed while another node promises it": {
			f: func() facts {
				f := with(map[string]storedModel{"a": published(a, nil)}, writes)
				f.Memory["a"] = unwanted
				return f
			}(),
			want: "a evicting\n", leave: map[departure]bool{leaves: true},
		},
		"and is when none does": {
			f: func() facts {
				f := with(map[string]storedModel{"a": published(a, nil)}, writes)
				f.Memory["a"] = unwanted
				return gone(f, leaves)
			}(),
			want: "a evicting\n-> remove a\n", leave: map[departure]bool{leaves: true},
		},
		"a pod of another node holds a model": {
			f: func() facts {
				f := with(map[string]storedModel{"a": published(a, nil)}, writes)
				f.Memory["a"] = unwanted
				f.Shared.Elsewhere = []pod{podFor("a")}
				return gone(f, leaves)
			}(),
			want: "a evicting\n",
		},
		"damaged files stay while another node promises them": {
			f:    with(map[string]storedModel{"a": published(a, corrupt)}, writes, a),
			want: "a queued\n", leave: map[departure]bool{leaves: true},
		},
		"and are pulled again when none does": {
			f:    gone(with(map[string]storedModel{"a": published(a, corrupt)}, writes, a), leaves),
			want: "a queued\n-> pull a\n", leave: map[departure]bool{leaves: true},
		},
		"an old revision stays while another node says it": {
			f: func() facts {
				f := with(map[string]storedModel{"a": old(a)}, writes, a)
				f.Revisions["a"] = shortRevision(commit)
				return f
			}(),
			want: "a warm +label\n", leave: map[departure]bool{{Model: "a", Except: shortRevision(commit)}: true},
		},
		"and goes when none does": {
			f: func() facts {
				f := with(map[string]storedModel{"a": old(a)}, writes, a)
				f.Revisions["a"] = shortRevision(commit)
				return gone(f, departure{Model: "a", Except: shortRevision(commit)})
			}(),
			want: "a warm +label\n-> prune a " + strings.Repeat("e", 40) + "\n", leave: map[departure]bool{{Model: "a", Except: shortRevision(commit)}: true},
		},
		"also while its source is looked up": {
			f: func() facts {
				f := with(map[string]storedModel{"a": old(a)}, writes, a)
				f.Revisions["a"], f.Running["a"] = shortRevision(commit), pulling{Lookup: true, Transfer: a.transfer()}
				return gone(f, departure{Model: "a", Except: shortRevision(commit)})
			}(),
			want: "a warm +label\n-> prune a " + strings.Repeat("e", 40) + "\n", leave: map[departure]bool{{Model: "a", Except: shortRevision(commit)}: true},
		},
		"and waits for other nodes, but does not go, while something is pulled": {
			f: func() facts {
				f := with(map[string]storedModel{"a": old(a)}, writes, a)
				f.Revisions["a"], f.Running["a"] = shortRevision(commit), pulling{Transfer: a.transfer()}
				return gone(f, departure{Model: "a", Except: shortRevision(commit)})
			}(),
			want: "a updating +label\n", leave: map[departure]bool{{Model: "a", Except: shortRevision(commit)}: true},
		},
		"and while the store is looked at again": {
			f: func() facts {
				f := with(map[string]storedModel{"a": old(a)}, writes, a)
				f.Revisions["a"], f.Memory["a"] = shortRevision(commit), record{Fresh: f.Store.Gen + 1}
				return gone(f, departure{Model: "a", Except: shortRevision(commit)})
			}(),
			want: "a warm +label\n", leave: map[departure]bool{{Model: "a", Except: shortRevision(commit)}: true},
		},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			d := plan(tc.f)
			if diff := cmp.Diff(tc.want, told(d)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if !maps.Equal(d.Leave, tc.leave) {
				t.Errorf("these leave: %v, want %v", d.Leave, tc.leave)
			}
			for _, m := range d.Models {
				if m.Warm && m.Tier != TierShared {
					t.Errorf("the tier of %s is %q", m.Name, m.Tier)
				}
			}
		})
	}
}
