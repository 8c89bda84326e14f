package fleet

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/fetcher/store"
)

// with changes a model.
func with(m agent.ModelStatus, change func(*agent.ModelStatus)) agent.ModelStatus {
	change(&m)
	return m
}

// on changes a word.
func on(s agent.NodeStatus, change func(*agent.NodeStatus)) agent.NodeStatus {
	change(&s)
	return s
}

// explained are Nodes called "gpu-1", each with what it says of "llama".
func explained(t *testing.T) map[string]corev1.Node {
	t.Helper()
	say := func(s agent.NodeStatus) corev1.Node { return speaking(t, "gpu-1", s) }
	pull := func(m *agent.ModelStatus) {
		m.DoneBytes, m.TotalBytes, m.Rate, m.SecondsLeft = 5<<30+300<<20, 12<<30+400<<20, 210<<20, 34
	}
	cold := func(state agent.State, change func(*agent.ModelStatus)) corev1.Node {
		return say(word(20*time.Second, with(coldModel("llama", state), change)))
	}
	warm := func(change func(*agent.ModelStatus)) agent.ModelStatus { return with(warmModel("llama", 8), change) }
	fits := func(n int, gpus agent.GPUStatus, change func(*agent.ModelStatus)) corev1.Node {
		return say(on(word(time.Hour, warm(func(m *agent.ModelStatus) { m.Fits = &n; change(m) })), func(s *agent.NodeStatus) { s.GPUs = gpus }))
	}
	unchanged := func(*agent.ModelStatus) {}
	leaking := h200(8)
	leaking.FreeGiB, leaking.Idle = 4, 0
	leaking.Leaks = []agent.LeakStatus{{Index: 3, UUID: "GPU-1", Bytes: 131 << 30, Since: now.Add(-time.Hour).Unix()}}
	busy := h200(8)
	busy.FreeGiB, busy.Idle = 60, 0
	few := h200(8)
	few.Idle = 1
	out := map[string]corev1.Node{
		"absent":           cold(agent.StateAbsent, func(m *agent.ModelStatus) { m.Reason = "the store has not been read yet" }),
		"queued":           cold(agent.StateQueued, unchanged),
		"queued-held-back": cold(agent.StateQueued, func(m *agent.ModelStatus) { m.Reason = "it waits until a more important model has found room" }),
		"evicting-for-room": cold(agent.StateEvicting, func(m *agent.ModelStatus) {
			m.Reason = "it makes room for qwen, which has priority 5; its label is being withdrawn first"
		}),
		"pulling": cold(agent.StatePulling, pull),
		"listing": cold(agent.StatePulling, unchanged),
		"verify":  cold(agent.StateVerifying, pull),
		"evicting": cold(agent.StateEvicting, func(m *agent.ModelStatus) {
			m.Reason, m.Wanted, m.Next = "it is no longer in the model list", false, in(8*time.Minute)
		}),
		"evict-fails": cold(agent.StateEvicting, func(m *agent.ModelStatus) {
			m.Reason, m.Hint, m.Next = "its files cannot be removed: permission denied", "look at the node's disk", in(time.Minute)
		}),
		"failed": cold(agent.StateFailed, func(m *agent.ModelStatus) {
			m.Reason, m.Hint, m.Next = "list hf://Org/llama: the Hub answers 503", "wait: the Hub has a problem", in(90*time.Second)
		}),
		"throttled": func() corev1.Node {
			m := coldModel("llama", agent.StateQueued)
			m.Reason, m.Next = "the quota of API calls at huggingface.co is used up until 12:05 UTC", in(7*time.Minute)
			m.Hint = "wait; with a token in HF_TOKEN the Hub allows more; pinned commits, a mirror and a controller need less of it (docs/fleet.md)"
			return say(throttledWord(word(time.Minute, m)))
		}(),
		"failed-due": cold(agent.StateFailed, func(m *agent.ModelStatus) { m.Reason, m.Next = "the connection was reset", in(-time.Second) }),
		"refused": cold(agent.StateFailed, func(m *agent.ModelStatus) {
			m.Reason, m.Hint, m.Code, m.Next = "read hf://Org/llama: the repository is gated", "ask for access on the model's page and give a token in credentials", store.CodeRefused, in(9*time.Minute)
		}),
		"refused-unlisted": cold(agent.StateFailed, func(m *agent.ModelStatus) {
			m.Source, m.Pods, m.Code = "", 2, store.CodeRefused
			m.Reason, m.Hint = "a pod on this node names it, and the model list does not have it", "add it to the model list, or correct the pod's label stoker.dev/model"
		}),
		"no-room": cold(agent.StateSkipped, func(m *agent.ModelStatus) {
			m.Reason, m.Code, m.Next = "no room: 14.2 GiB are needed, 3.1 GiB is left before the store's quota of 500.0 GiB is used up", store.CodeNoRoom, in(10*time.Minute)
			m.Hint = "free some space, take a model off the list, or raise store.quota or lower store.reserve"
		}),
		"not-selected": cold(agent.StateSkipped, func(m *agent.ModelStatus) {
			m.Reason, m.Wanted = "its nodeSelector does not match this node's labels", false
		}),
		"unsupported": cold(agent.StateSkipped, func(m *agent.ModelStatus) {
			m.Reason, m.Hint, m.Code = "pull gs://bucket: no driver", "use another source, or a stoker that has a driver for this one", store.CodeRefused
		}),
		"unknown-state": say(on(word(time.Minute, coldModel("llama", "thawing")), func(s *agent.NodeStatus) { s.Version, s.Agent = 7, "9.0.0" })),
		"warm":          say(word(3*time.Hour, warm(unchanged))),
		"warm-not-fresh": say(word(time.Minute, warm(func(m *agent.ModelStatus) {
			m.Reason, m.Hint, m.Next = "it cannot be brought up to date: the Hub does not answer", "look at the network", in(4*time.Minute)
		}))),
		"warm-not-ready": notReady(say(word(time.Minute, warm(unchanged)))),
		"warm-cordoned": func() corev1.Node {
			n := say(word(time.Minute, warm(unchanged)))
			n.Spec.Unschedulable = true
			return n
		}(),
		"updating":       say(word(time.Minute, warm(func(m *agent.ModelStatus) { m.State = agent.StateUpdating; pull(m) }))),
		"updating-waits": say(word(time.Minute, warm(func(m *agent.ModelStatus) { m.State = agent.StateUpdating }))),
		"updating-fails": say(word(time.Minute, warm(func(m *agent.ModelStatus) {
			m.State, m.Reason, m.Hint, m.Next = agent.StateUpdating, "bytes do not verify", "tell the model's owner", in(time.Minute)
		}))),
		"queued-behind":   say(word(time.Minute, coldModel("llama", agent.StateQueued), with(coldModel("a", agent.StatePulling), pull), with(coldModel("b", agent.StateVerifying), pull))),
		"fits-allocated":  fits(0, h200(0), unchanged),
		"fits-too-few":    fits(0, h200(2), func(m *agent.ModelStatus) { m.Need = need(4, 70) }),
		"fits-small-node": fits(0, h200(8), func(m *agent.ModelStatus) { m.Need = need(16, 70) }),
		"fits-small-gpus": fits(0, h200(8), func(m *agent.ModelStatus) { m.Need = need(1, 160) }),
		"fits-tight": fits(0, h200(8), func(m *agent.ModelStatus) {
			m.Tight, m.Need = 8, &agent.ReplicaNeed{GPUs: 1, BytesPerGPU: 128 << 30, MostBytesPerGPU: 131 << 30, Share: 0.92}
		}),
		"fits-tight-measured": fits(0, h200(8), func(m *agent.ModelStatus) {
			m.Tight, m.Need = 8, &agent.ReplicaNeed{GPUs: 1, BytesPerGPU: 120 << 30, MostBytesPerGPU: 123 << 30, Share: 0.92}
			m.Measured = &agent.MeasuredStatus{BesideBytes: 11 << 30, Trusted: true}
		}),
		"fits-tight-claimed": fits(0, h200(8), func(m *agent.ModelStatus) {
			m.Tight, m.Need = 8, &agent.ReplicaNeed{GPUs: 1, BytesPerGPU: 120 << 30, MostBytesPerGPU: 123 << 30, Share: 0.92}
			m.Measured = &agent.MeasuredStatus{BesideBytes: 11 << 30}
		}),
		"fits-tight-unsaid": fits(0, h200(8), func(m *agent.ModelStatus) { m.Tight, m.Need = 8, nil }),
		"fits-leak":         fits(0, leaking, unchanged),
		"fits-busy":         fits(0, busy, unchanged),
		"fits-some-busy":    fits(0, few, func(m *agent.ModelStatus) { m.Need = need(4, 70) }),
		"fits-not-yet":      fits(0, h200(8), unchanged),
		"fits-need-unsaid":  fits(0, busy, func(m *agent.ModelStatus) { m.Need = nil }),
		"fits-no-gpu":       fits(0, agent.GPUStatus{Known: true}, unchanged),
		"fits-unknown-gpus": fits(0, agent.GPUStatus{Reason: "the driver is not loaded"}, func(m *agent.ModelStatus) { m.Fits = nil }),
		"fits-unknown-pods": fits(0, func() agent.GPUStatus { g := h200(8); g.Unallocated = nil; return g }(), func(m *agent.ModelStatus) { m.Fits = nil }),
		"fits-unknown-need": fits(0, h200(8), func(m *agent.ModelStatus) { m.Fits, m.Need = nil, nil }),
		"fits-unknown-files": fits(0, h200(8), func(m *agent.ModelStatus) {
			m.Fits, m.Need, m.NeedUnknown = nil, nil, "size model: read config.json: it is larger than any model: the file holds more than 500000 values"
		}),
		"fits-unsaid": fits(0, h200(8), func(m *agent.ModelStatus) { m.Fits = nil }),
		"ram":         say(word(time.Hour, toRAM(warm(unchanged), agent.RAMResident, 15<<30, ""))),
		"ram-reading": say(word(time.Minute, toRAM(warm(unchanged), agent.RAMReading, 6<<30, "it is being read into memory"))),
		"ram-over-budget": say(word(time.Minute, toRAM(warm(unchanged), agent.RAMOverBudget, 0,
			"it takes 15.0 GiB, beside 50.0 GiB of what comes first, and agent.ram.budget is 64.0 GiB"))),
		"ram-over-pods": say(word(time.Minute, toRAM(warm(unchanged), agent.RAMOverPods, 0,
			"it takes 15.0 GiB, and pods on this node have asked for 1.9 TiB of the 1.9 TiB of memory that it can allocate"))),
		"ram-over-use":   say(word(time.Minute, toRAM(warm(unchanged), agent.RAMOverUse, 0, "it takes 15.0 GiB, and too little of the node's memory is not in use"))),
		"ram-over-limit": say(word(time.Minute, toRAM(warm(unchanged), agent.RAMOverLimit, 0, "it takes 15.0 GiB, and the agent's memory limit is 2.0 GiB, of which it needs some itself; what it reads into memory counts against that"))),
		"ram-unmeasurable": say(word(time.Minute, toRAM(warm(unchanged), agent.RAMUnmeasurable, 0,
			"measure blob 0123: its owner is another user, of whose files the kernel does not tell: what the page cache holds of it cannot be told"))),
		"ram-leaves": say(word(time.Minute, toRAM(warm(unchanged), agent.RAMLeaves, 3<<30, "its pages do not stay in memory: something on the node takes it back"))),
		"ram-no-speed": say(on(word(time.Minute, with(toRAM(warm(unchanged), agent.RAMResident, 15<<30, ""), func(m *agent.ModelStatus) { m.LoadSeconds = nil })),
			func(s *agent.NodeStatus) { s.Store.ReadRate, s.Store.ReadAt = 0, nil })),
		"store-unknown": say(on(word(time.Minute, with(coldModel("llama", agent.StateFailed), func(m *agent.ModelStatus) {
			m.Reason, m.Hint = "the store cannot be read: it has not answered for 2m0s", "look at the node's disk"
		})), func(s *agent.NodeStatus) { s.Store = agent.StoreStatus{Reason: "it has not answered for 2m0s"} })),
		"list-rejected": say(on(word(time.Minute, warmModel("other", 8)), func(s *agent.NodeStatus) {
			s.List.Rejected = `models[1].source: "llama": write hf://ORG/NAME`
		})),
		"list-rejected-but-warm": say(on(word(time.Minute, warmModel("llama", 8)), func(s *agent.NodeStatus) {
			s.List.Rejected = `models[1].source: "x": write hf://ORG/NAME`
		})),
		"unnamed":  say(word(time.Minute, warmModel("other", 8))),
		"omitted":  say(on(word(time.Minute, warmModel("other", 8)), func(s *agent.NodeStatus) { s.Omitted = 3 })),
		"no-agent": bare("gpu-1"),
		"no-agent-unselected": func() corev1.Node {
			n := notReady(bare("gpu-1"))
			delete(n.Labels, presentLabel)
			n.Spec.Taints = []corev1.Taint{
				{Key: "nvidia.com/gpu", Effect: corev1.TaintEffectNoSchedule},
				{Key: "team", Value: "ml", Effect: corev1.TaintEffectNoExecute},
			}
			return n
		}(),
		"label-only":         label(bare("gpu-1"), agent.WarmPrefix+"llama", "disk"),
		"label-only-of-gpus": label(bare("gpu-1"), agent.FreeGiBLabel, "140"),
		"withdrawn":          unlabelled(say(word(2*time.Hour, warm(unchanged)))),
		"withdrawn-cold":     notReady(unlabelled(say(word(2*time.Hour, warmModel("other", 1), coldModel("llama", agent.StateQueued))))),
		"withdrawn-unnamed":  unlabelled(say(word(2*time.Hour, warmModel("other", 1)))),
		"label-set-on-cold":  label(cold(agent.StatePulling, pull), agent.WarmPrefix+"llama", "ram"),
		"label-set-unnamed":  label(say(word(time.Minute, warmModel("other", 8))), agent.WarmPrefix+"llama", "disk"),
		"label-changed": func() corev1.Node {
			n := say(word(time.Minute, warm(unchanged)))
			n.Labels[agent.RevPrefix+"llama"] = revB[:12]
			n.ManagedFields = []metav1.ManagedFieldsEntry{managed("kubectl-edit", agent.RevPrefix+"llama")}
			return n
		}(),
		"label-missing": func() corev1.Node {
			n := say(word(time.Minute, warm(unchanged)))
			delete(n.Labels, agent.WarmPrefix+"llama")
			return n
		}(),
		"unreadable": func() corev1.Node {
			n := say(word(time.Minute, warm(unchanged)))
			n.Annotations[agent.StatusAnnotation] = n.Annotations[agent.StatusAnnotation][:80]
			return n
		}(),
		"unreadable-cold": func() corev1.Node {
			n := bare("gpu-1")
			n.Annotations[agent.StatusAnnotation] = "{}"
			return n
		}(),
		"newer":             say(on(word(time.Minute, warm(unchanged)), func(s *agent.NodeStatus) { s.Version = 9 })),
		"silent-pull":       say(word(40*time.Minute, with(coldModel("llama", agent.StatePulling), pull))),
		"silent-retry":      say(word(time.Hour, with(coldModel("llama", agent.StateFailed), func(m *agent.ModelStatus) { m.Reason, m.Next = "the connection was reset", in(-50*time.Minute) }))),
		"not-ready-pulling": notReady(cold(agent.StatePulling, pull)),
	}
	return out
}

// Every sentence that explain can say is a golden file: what people read is
// reviewed like code.
func TestExplain(t *testing.T) {
	t.Parallel()
	nodes := explained(t)
	for name, n := range nodes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			other := speaking(t, "gpu-2", word(time.Minute, warmModel("llama", 8), warmModel("other", 8)))
			f := Read([]corev1.Node{n, other}, now)
			e, err := f.Explain("gpu-1", "llama")
			if err != nil {
				t.Fatal(err)
			}
			var text strings.Builder
			if err := e.Write(&text); err != nil {
				t.Fatal(err)
			}
			golden(t, "explain/"+name+".txt", text.String())
			for what, s := range map[string]string{"why": e.Why, "do": e.Do} {
				if s == "" || !strings.HasSuffix(s, ".") || strings.Contains(s, "  ") || strings.Contains(s, "..") || strings.ContainsAny(s, "\n\t") {
					t.Errorf("%s is no sentence: %q", what, s)
				}
			}
			if _, err := json.Marshal(e); err != nil {
				t.Error(err)
			}
		})
	}
	files, err := filepath.Glob("testdata/explain/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		if _, ok := nodes[strings.TrimSuffix(filepath.Base(path), ".txt")]; !ok {
			t.Errorf("%s belongs to no case", path)
			if *update {
				_ = os.Remove(path)
			}
		}
	}
}

// What is warm by label and annotation is called warm, and nothing else.
func TestWarmNeedsBoth(t *testing.T) {
	t.Parallel()
	warm := []string{
		"warm", "warm-not-fresh", "warm-not-ready", "warm-cordoned", "updating", "updating-waits", "updating-fails",
		"list-rejected-but-warm", "label-changed", "newer",
	}
	for name, n := range explained(t) {
		e, err := Read([]corev1.Node{n, speaking(t, "gpu-2", word(0, warmModel("llama", 1)))}, now).Explain("gpu-1", "llama")
		if err != nil {
			t.Fatal(err)
		}
		want := strings.HasPrefix(name, "fits-") || strings.HasPrefix(name, "ram")
		for _, w := range warm {
			want = want || w == name
		}
		if e.Warm != want {
			t.Errorf("%s: warm is %t", name, e.Warm)
		}
	}
}

func TestExplainUnknown(t *testing.T) {
	t.Parallel()
	f := Read([]corev1.Node{
		speaking(t, "gpu-1.example.com", word(0, warmModel("llama-3.1-8b", 1))), bare("gpu-2.example.com"),
	}, now)
	for _, c := range []struct{ node, model, want string }{
		{"gpu-1.exmple.com", "llama-3.1-8b", `there is no node "gpu-1.exmple.com"; did you mean "gpu-1.example.com"?`},
		{"gpu-1", "llama-3.1-8b", `there is no node "gpu-1"; did you mean "gpu-1.example.com"?`},
		{"completely-else", "x", "there is no node \"completely-else\"; `stoker status` lists those that there are"},
		{"gpu-1.example.com", "lama-3.1-8b", `no node says anything of a model "lama-3.1-8b"; did you mean "llama-3.1-8b"?`},
		{"gpu-2.example.com", "lama-3.1-8b", `no node says anything of a model "lama-3.1-8b"; did you mean "llama-3.1-8b"?`},
		{"gpu-1.example.com", "qwen", "no node says anything of a model \"qwen\"; `stoker status` lists those that there are"},
	} {
		_, err := f.Explain(c.node, c.model)
		var unknown *UnknownError
		if !errors.As(err, &unknown) || err.Error() != c.want {
			t.Errorf("%s %s: %v, want %s", c.node, c.model, err, c.want)
		}
	}
	// Where nobody says anything, no name can be called wrong.
	if _, err := Read([]corev1.Node{bare("gpu-1")}, now).Explain("gpu-1", "qwen"); err != nil {
		t.Error(err)
	}
}
