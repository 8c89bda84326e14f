package fleet

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/stoker-project/stoker/agent"
)

// small is a cluster as it is on a good day.
func small(t *testing.T) []corev1.Node {
	t.Helper()
	pulling := coldModel("qwen2.5-72b", agent.StatePulling)
	pulling.DoneBytes, pulling.TotalBytes, pulling.Rate, pulling.SecondsLeft = 58<<30, 135<<30, 850<<20, 92
	skipped := coldModel("qwen2.5-72b", agent.StateSkipped)
	skipped.Reason, skipped.Wanted = "its nodeSelector does not match this node's labels", false
	half := h200(3)
	half.FreeGiB = 140
	older := warmModel("llama-3.1-8b", 3)
	older.Revision, older.Pods = revB, 5
	older = toRAM(older, agent.RAMResident, 15<<30, "")
	reading := toRAM(warmModel("qwen2.5-72b", 0), agent.RAMReading, 9<<30, "it is being read into memory")
	cpu := bare("control-1")
	cpu.Labels, cpu.Status.Allocatable = nil, nil
	return []corev1.Node{
		speaking(t, "gpu-1", word(4*time.Second, warmModel("llama-3.1-8b", 8), pulling)),
		speaking(t, "gpu-2", on(word(2*time.Hour, older, reading), func(s *agent.NodeStatus) { s.GPUs = half })),
		speaking(t, "gpu-3", word(26*time.Hour, warmModel("llama-3.1-8b", 8), skipped)),
		cpu,
	}
}

// troubled is a cluster in which every kind of trouble is there once.
func troubled(t *testing.T) []corev1.Node {
	t.Helper()
	nodes := small(t)
	explained := explained(t)
	for i, name := range []string{
		"no-agent", "no-agent-unselected", "label-only", "withdrawn", "unreadable", "newer", "label-set-on-cold", "label-changed",
		"list-rejected", "store-unknown", "fits-unknown-gpus", "fits-leak", "silent-pull", "warm-cordoned", "no-room",
	} {
		n := explained[name]
		n.Name = fmt.Sprintf("node-%02d-%s", i, name)
		nodes = append(nodes, n)
	}
	clock := speaking(t, "node-15-clock", word(-10*time.Minute, warmModel("llama", 8)))
	omitted := speaking(t, "node-16-omitted", on(word(time.Minute, warmModel("llama", 8)), func(s *agent.NodeStatus) { s.Omitted = 2 }))
	return append(nodes, clock, omitted)
}

// large has 300 nodes of three kinds.
func large(t *testing.T) []corev1.Node {
	t.Helper()
	var nodes []corev1.Node
	for i := range 300 {
		var models []agent.ModelStatus
		for j := range 12 {
			m := warmModel(fmt.Sprintf("model-%02d", j), i%9)
			switch {
			case j == 3 && i%4 == 0:
				m = coldModel(m.Name, agent.StatePulling)
				m.DoneBytes, m.TotalBytes, m.Rate, m.SecondsLeft = int64(i)<<26, 40<<30, 400<<20, int64(300-i)
			case j == 5 && i%10 == 0:
				m = coldModel(m.Name, agent.StateFailed)
				m.Reason, m.Hint, m.Next = "read hf://Org/model-05: the repository is gated", "ask for access", in(time.Duration(i)*time.Second)
			case j == 7 && i < 3:
				m = coldModel(m.Name, agent.StateSkipped)
				m.Reason, m.Code = fmt.Sprintf("no room: 40.0 GiB are needed, %d.0 GiB is left before the store's quota is used up", i), "noRoom"
			case j == 9 && i%2 == 1:
				m = coldModel(m.Name, agent.StateSkipped)
				m.Reason, m.Wanted = "its nodeSelector does not match this node's labels", false
			case j == 10 && i%3 == 0:
				m.Revision = revB
			}
			models = append(models, m)
		}
		s := word(time.Duration(i)*time.Second, models...)
		s.GPUs = h200(i % 9)
		if i%5 == 0 {
			s.GPUs.Name, s.GPUs.FreeGiB, s.GPUs.TotalBytes = "NVIDIA H100 80GB HBM3", i%80/4*4, 80<<30
		}
		if i%50 == 7 {
			s.Agent = "0.2.0"
			s.List.Rejected = "models[0].source: \"x\": write hf://ORG/NAME"
		}
		s.Store.FreeBytes -= int64(i) << 30
		n := speaking(t, fmt.Sprintf("gpu-%03d", i), s)
		if i%97 == 13 {
			n = notReady(n)
		}
		nodes = append(nodes, n)
	}
	return nodes
}

func render(t *testing.T, f *Fleet, v View) string {
	t.Helper()
	var b strings.Builder
	if err := f.Write(&b, v); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// What people and programs read of a cluster is a golden file.
func TestStatus(t *testing.T) {
	t.Parallel()
	only := func(f *Fleet, node, model string) *Fleet {
		out, err := f.Only(node, model)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	few, ill, many := Read(small(t), now), Read(troubled(t), now), Read(large(t), now)
	golden(t, "status/few.txt", render(t, few, View{}))
	golden(t, "status/few-wide.txt", render(t, few, View{Wide: true}))
	golden(t, "status/troubled.txt", render(t, ill, View{}))
	golden(t, "status/many.txt", render(t, many, View{}))
	golden(t, "status/many-node.txt", render(t, only(many, "gpu-000", ""), View{All: true}))
	golden(t, "status/one-model.txt", render(t, only(few, "", "qwen2.5-72b"), View{All: true}))
	golden(t, "status/one-pair.txt", render(t, only(few, "gpu-1", "qwen2.5-72b"), View{All: true}))
	golden(t, "status/plain-node.txt", render(t, only(few, "control-1", ""), View{All: true}))
	golden(t, "status/empty.txt", render(t, Read(nil, now), View{}))
	golden(t, "status/no-agents.txt", render(t, Read([]corev1.Node{bare("gpu-1"), bare("gpu-2")}, now), View{}))
	for name, f := range map[string]*Fleet{"few": few, "troubled": ill} {
		b, err := json.MarshalIndent(f, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		golden(t, "status/"+name+".json", string(b)+"\n")
	}
	// At a glance: 300 nodes fit on a screen, more or less.
	if n := strings.Count(render(t, many, View{}), "\n"); n > 80 {
		t.Errorf("300 nodes take %d lines", n)
	}
	if n := strings.Count(render(t, many, View{Wide: true}), "\n"); n < 300*12 {
		t.Errorf("all of 300 nodes take only %d lines", n)
	}
}

// Every kind of trouble is in the example, and none is said of a good day.
func TestEveryTroubleIsTold(t *testing.T) {
	t.Parallel()
	all := []string{
		TroubleNotReady, TroubleNoAgent, TroubleLabelsOnly, TroubleWithdrawn, TroubleUnreadable, TroubleNewer, TroubleDisagreement,
		TroubleList, TroubleStore, TroubleGPUs, TroubleLeak, TroubleSilent, TroubleClock, TroubleOmitted,
	}
	f := Read(troubled(t), now)
	got := map[string]bool{}
	for _, n := range f.Nodes {
		for _, tr := range n.Troubles {
			got[tr.Code] = true
			if !slices.Contains(all, tr.Code) {
				t.Errorf("code %s is in no list", tr.Code)
			}
		}
	}
	for _, code := range all {
		if !got[code] {
			t.Errorf("no node has trouble %s", code)
		}
	}
	text := render(t, f, View{})
	for _, code := range all {
		if !strings.Contains(text, code) {
			t.Errorf("the table does not say %s", code)
		}
	}
	for _, n := range Read(small(t), now).Nodes {
		if len(n.Troubles) > 0 {
			t.Errorf("%s is in trouble: %v", n.Name, n.Troubles)
		}
	}
}

// A word that is no agent's is said to be so, whatever stands there.
func TestBadWords(t *testing.T) {
	t.Parallel()
	model := `{"version":1,"time":"2030-05-06T12:00:00Z","models":[%s],"gpus":{"known":false},"store":{"known":false},"list":{"models":0}}`
	for text, want := range map[string]string{
		"":                       "unexpected end of JSON input",
		"null":                   "no version",
		"{}":                     "no version",
		"[]":                     "cannot unmarshal array",
		`{"version":"1"}`:        "cannot unmarshal string",
		`{"version":-1}`:         "no version",
		`{"version":1} and`:      "invalid character",
		`{"version":1,"time":3}`: "Time.UnmarshalJSON",
		fmt.Sprintf(model, `{"name":"../x","state":"warm"}`):                            `name "../x"`,
		fmt.Sprintf(model, `{"state":"warm"}`):                                          "name is empty",
		fmt.Sprintf(model, `{"name":"a","state":"warm"},{"name":"a","state":"queued"}`): "names model a twice",
		fmt.Sprintf(model, `{"name":"a","bytes":"many"}`):                               "cannot unmarshal string",
	} {
		n := bare("gpu-1")
		n.Annotations[agent.StatusAnnotation] = text
		got := Read([]corev1.Node{n}, now).Nodes[0]
		if got.Word != WordUnreadable || !strings.Contains(got.WordError, want) {
			t.Errorf("%q is %s: %q, want %s", text, got.Word, got.WordError, want)
		}
	}
}

// A newer version is read as far as it means the same.
func TestNewerWord(t *testing.T) {
	t.Parallel()
	n := label(bare("gpu-1"), agent.WarmPrefix+"a", "ram")
	n.Annotations[agent.StatusAnnotation] = `{"version":2,"agent":"9.0","time":{"seconds":1},"omitted":1,
		"models":[{"name":"a","state":"warm","tier":"ram","revision":{"id":"x"},"fits":[8]},{"name":"b","state":"thawing","source":"hf://Org/b"},17],
		"gpus":{"known":true,"count":8,"name":"G"},"store":"fine","list":{"models":3}}`
	got := Read([]corev1.Node{n}, now).Nodes[0]
	if got.Word != WordNewer || got.AgentVersion != "9.0" || got.SaidAt != nil || got.GPUs.Count != 8 || got.Store.Known || got.OmittedModels != 1 && got.OmittedModels != 2 {
		t.Errorf("read %+v", got)
	}
	a, b := got.model("a"), got.model("b")
	if a == nil || !a.Warm || a.Tier != "ram" || len(a.Disagreements) > 0 {
		t.Errorf("model a is %+v", a)
	}
	if b == nil || b.State != "thawing" || b.Source != "hf://Org/b" {
		t.Errorf("model b is %+v", b)
	}
	for _, tr := range got.Troubles {
		if tr.Code == TroubleDisagreement {
			t.Errorf("what could not be read contradicts: %s", tr.Text)
		}
	}
}

// An agent that was taken over can say what it likes of its own node, but not
// steer the terminal of whoever reads it.
func TestTextsAreInert(t *testing.T) {
	t.Parallel()
	evil := "\x1b]0;title\x07\x1b[2J\nNODE\u202e\u009b31m\u2028x\u200b\xff"
	m := coldModel("llama", agent.State(evil))
	m.Reason, m.Hint, m.Source, m.Revision, m.Code = evil, evil, evil, evil, evil
	s := word(time.Minute, m)
	s.Agent, s.List.Rejected, s.Store = evil, evil, agent.StoreStatus{Reason: evil}
	s.GPUs = agent.GPUStatus{Known: true, Count: 1, Name: evil, Leaks: []agent.LeakStatus{{MIG: evil, UUID: evil, Bytes: 1}}}
	n := speaking(t, "gpu-1", s)
	n.ManagedFields = []metav1.ManagedFieldsEntry{managed(evil, agent.WarmPrefix+"llama")}
	n.Labels[agent.WarmPrefix+"llama"] = "disk"
	f := Read([]corev1.Node{n}, now)
	e, err := f.Explain("gpu-1", "llama")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := e.Write(&b); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{render(t, f, View{Wide: true}), render(t, f, View{}), b.String()} {
		for _, r := range text {
			if r != '\n' && (unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp)) {
				t.Errorf("%U is in %q", r, text)
				break
			}
		}
	}
	// Numbers as large as they get do not break anything either.
	m = coldModel("llama", agent.StatePulling)
	m.DoneBytes, m.TotalBytes, m.Rate, m.SecondsLeft = 1<<63-1, 1, 1<<63-1, 1<<63-1
	s = word(0, m)
	s.GPUs.FreeGiB, s.Store.FreeBytes, s.Store.TotalBytes = -5, -1, 0
	if text := render(t, Read([]corev1.Node{speaking(t, "gpu-1", s)}, now), View{}); !strings.Contains(text, "100% of 1 B") {
		t.Error(text)
	}
}

func TestOnlyUnknown(t *testing.T) {
	t.Parallel()
	f := Read(small(t), now)
	for _, c := range []struct{ node, model, want string }{
		{"gpu-9", "", "gpu-1"}, {"", "qwen2.5-72", "qwen2.5-72b"}, {"gpu-1", "llama-3.1-8", "llama-3.1-8b"},
	} {
		if _, err := f.Only(c.node, c.model); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("did you mean %q?", c.want)) {
			t.Errorf("%s %s: %v", c.node, c.model, err)
		}
	}
	if _, err := Read(nil, now).Only("", "x"); err == nil || !strings.Contains(err.Error(), "nor of any other") {
		t.Error(err)
	}
}

// What explain takes for the chart's defaults are the chart's defaults.
func TestChartDefaults(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../charts/stoker/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var values struct {
		NodeSelector map[string]string   `json:"nodeSelector"`
		Tolerations  []corev1.Toleration `json:"tolerations"`
	}
	if err := yaml.Unmarshal(data, &values); err != nil {
		t.Fatal(err)
	}
	if len(values.NodeSelector) != 1 || values.NodeSelector[presentLabel] != "true" {
		t.Errorf("the chart selects by %v", values.NodeSelector)
	}
	for _, key := range []string{"nvidia.com/gpu", "sku", "stoker.dev/cold", "team"} {
		for _, value := range []string{"", "gpu", "x"} {
			for _, effect := range []corev1.TaintEffect{corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute} {
				want := slices.ContainsFunc(values.Tolerations, func(tol corev1.Toleration) bool {
					return tol.Key == key && (tol.Effect == "" || tol.Effect == effect) && (tol.Operator == corev1.TolerationOpExists || tol.Value == value)
				})
				if got := (taint{Key: key, Value: value, Effect: string(effect)}).tolerated(); got != want {
					t.Errorf("%s=%s:%s is tolerated: %t, by the chart: %t", key, value, effect, got, want)
				}
			}
		}
	}
}

// What the README shows is what is printed.
func TestReadmeShowsTheTruth(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"status/few.txt", "explain/fits-leak.txt"} {
		shown, err := os.ReadFile("testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(readme), "\n"+string(shown)) {
			t.Errorf("the README does not show testdata/%s as it is", name)
		}
	}
}

// A quota is of all who share it: how many nodes wait for it is one row, and gone when it
// is renewed.
func TestThrottledNodesAreCounted(t *testing.T) {
	t.Parallel()
	var nodes []corev1.Node
	for i := range 30 {
		s := word(time.Minute, warmModel("llama", 1))
		if i%3 == 0 {
			s = throttledWord(s)
		}
		nodes = append(nodes, speaking(t, fmt.Sprintf("gpu-%02d", i), s))
	}
	want := "the quota of API calls at huggingface.co is used up until " + now.Add(5*time.Minute).UTC().Format("15:04 UTC") + "; 10 of 30 nodes wait"
	if text := render(t, Read(nodes, now), View{Wide: true}); !strings.Contains(text, want) {
		t.Errorf("status does not say %q:\n%s", want, text)
	}
	if text := render(t, Read(nodes, now.Add(6*time.Minute)), View{Wide: true}); strings.Contains(text, "used up") {
		t.Errorf("status still says so:\n%s", text)
	}
}
