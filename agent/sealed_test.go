package agent

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stoker-project/stoker/fetcher/store"
)

func TestPlanOnAReadOnlyVolume(t *testing.T) {
	a, b := entry(t, "a"), entry(t, "b")
	elsewhere := a
	elsewhere.NodeSelector = map[string]string{"pool": "other"}
	pinnedElse := a
	pinnedElse.Source.Revision = strings.Repeat("e", 40)
	other := a
	other.Source = source(t, "hf://other/a@"+commit)
	missing := fmt.Errorf("a: model.safetensors is missing: %w", store.ErrCorrupt)
	unread := fmt.Errorf("a: model.safetensors: %w", store.ErrUnverified)
	with := func(models map[string]storedModel, list ...Model) facts {
		f := world(list...)
		f.Store.Value.Models, f.Shared = models, sharedFacts{On: true, Sealed: true}
		return f
	}
	read := func(f facts, v inspected) facts {
		v.Revision = commit
		f.Shared.Inspected = map[string]inspected{"a": v}
		return f
	}
	for name, tc := range map[string]struct {
		f            facts
		want, reason string
	}{
		"what was verified is warm, and nothing is done": {
			f: func() facts {
				f := with(map[string]storedModel{"a": published(a, nil), "gone": published(entry(t, "gone"), nil)}, a)
				f.Memory["gone"] = record{Managed: true, Unwanted: noon.Add(-time.Hour)}
				return f
			}(),
			want: "a warm +label\n",
		},
		"what is not there is said": {
			f:    with(map[string]storedModel{"a": published(a, nil)}, a, b),
			want: "a warm +label\nb failed\n", reason: "it is not on the volume, into which no agent writes",
		},
		"a pod that waits for it makes no pull": {
			f: func() facts {
				f := with(map[string]storedModel{}, b)
				f.Pods = []pod{podFor("b")}
				return f
			}(),
			want: "b failed\n", reason: "it is not on the volume",
		},
		"another source's": {
			f: with(map[string]storedModel{"a": published(other, nil)}, a), want: "a failed\n", reason: "from hf://other/a@",
		},
		"another revision is warm at that": {
			f: with(map[string]storedModel{"a": published(a, nil)}, pinnedElse), want: "a warm +label\n", reason: "and the list asks for eeeeeeeeeeee",
		},
		"not selected":           {f: with(map[string]storedModel{"a": published(a, nil)}, elsewhere), want: "a skipped\n", reason: notSelected},
		"damaged":                {f: with(map[string]storedModel{"a": published(a, missing)}, a), want: "a failed\n", reason: "is missing"},
		"nobody has read it yet": {f: read(with(map[string]storedModel{"a": published(a, unread)}, a), inspected{Bytes: 3}), want: "a verifying\n", reason: "the agents read all of it"},
		"read, and found wrong": {
			f: read(with(map[string]storedModel{"a": published(a, unread)}, a), inspected{Wrong: "x/y"}), want: "a failed\n", reason: "has read x/y from the volume",
		},
		"found wrong by another": {
			f: read(with(map[string]storedModel{"a": published(a, unread)}, a), inspected{Contested: "x/y"}), want: "a verifying\n", reason: "another node found the content of x/y wrong",
		},
		"what was read of another revision says nothing": {
			f: func() facts {
				f := with(map[string]storedModel{"a": published(a, unread)}, a)
				f.Shared.Inspected = map[string]inspected{"a": {Revision: "old", Wrong: "x"}}
				return f
			}(),
			want: "a verifying\n",
		},
		"its writer elsewhere takes it away": {
			f: func() facts {
				f := with(map[string]storedModel{"a": published(a, nil)}, a)
				f.Store.Value.Leaving = map[string]bool{"a": true}
				return f
			}(),
			want: "a evicting\n",
		},
		"a store that does not answer": {
			f: func() facts {
				f := with(map[string]storedModel{}, a)
				f.Store = answer[storeView]{Err: errStuck}
				return f
			}(),
			want: "a failed\n",
		},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			d := plan(tc.f)
			if diff := cmp.Diff(tc.want, told(d)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			last := d.Models[len(d.Models)-1]
			if p := last.Progress; p != nil && (last.State != StateVerifying || p.Total != 7) {
				t.Errorf("%s, it is at %d of %d bytes", last.State, p.Done, p.Total)
			}
			if !strings.Contains(last.Reason, tc.reason) {
				t.Errorf("the reason is %q", last.Reason)
			}
			if last.Warm && last.Tier != TierShared {
				t.Errorf("the tier is %q", last.Tier)
			}
		})
	}
}
