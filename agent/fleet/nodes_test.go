package fleet

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/agent"
)

var update = flag.Bool("update", false, "rewrite golden files")

// now is when the tests' Nodes are read.
var now = time.Date(2030, 5, 6, 12, 0, 0, 0, time.UTC)

const (
	revA = "0123456789abcdef0123456789abcdef01234567"
	revB = "fedcba9876543210fedcba9876543210fedcba98"
)

// h200 is a board with nothing on it.
func h200(unallocated int) agent.GPUStatus {
	return agent.GPUStatus{
		Known: true, Name: "NVIDIA H200 141GB HBM3e", Count: 8, Idle: unallocated, TotalBytes: 141 << 30,
		FreeGiB: 140, Unallocated: &unallocated,
	}
}

// need is a replica on one GPU.
func need(gpus int, gib uint64) *agent.ReplicaNeed {
	return &agent.ReplicaNeed{GPUs: gpus, BytesPerGPU: gib << 30, Share: 0.92}
}

func warmModel(name string, fits int) agent.ModelStatus {
	load := int64(12)
	return agent.ModelStatus{
		Name: name, Source: "hf://Org/" + name + "@main", State: agent.StateWarm, Tier: agent.TierDisk, Revision: revA,
		Bytes: 15 << 30, Fits: &fits, Need: need(1, 18), Wanted: true, LoadSeconds: &load,
	}
}

// toRAM is a model that is to be in memory, and of which so much is.
func toRAM(m agent.ModelStatus, state string, resident int64, why string) agent.ModelStatus {
	m.RAM, m.ResidentBytes, m.NotInRAM = state, resident, why
	if state == agent.RAMResident {
		m.Tier, m.LoadSeconds = agent.TierRAM, nil
	}
	return m
}

// coldModel is a model in a state without a label.
func coldModel(name string, state agent.State) agent.ModelStatus {
	return agent.ModelStatus{Name: name, Source: "hf://Org/" + name + "@main", State: state, Wanted: true}
}

// word is what an agent said a while ago, of these models.
func word(ago time.Duration, models ...agent.ModelStatus) agent.NodeStatus {
	measured := now.Add(-ago - 5*time.Minute)
	return agent.NodeStatus{
		Version: agent.StatusVersion, Agent: "0.1.0", Time: now.Add(-ago), Models: models, GPUs: h200(8),
		Store: agent.StoreStatus{Known: true, Bytes: 412 << 30, FreeBytes: 1200 << 30, TotalBytes: 3500 << 30, ReadRate: 1280 << 20, ReadAt: &measured},
		List:  agent.ListStatus{Models: len(models)},
	}
}

// bare is a Node with GPUs and nothing of Stoker's.
// throttledWord is of a node whose models wait for the Hub.
func throttledWord(s agent.NodeStatus) agent.NodeStatus {
	s.Throttled = []agent.ThrottledStatus{{Host: "huggingface.co", Requests: "API calls", Until: now.Add(5 * time.Minute)}}
	return s
}

func bare(name string) corev1.Node {
	return corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{presentLabel: "true"}, Annotations: map[string]string{}},
		Status: corev1.NodeStatus{
			Allocatable: corev1.ResourceList{gpuResource: resource.MustParse("8")},
			Conditions:  []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady"}},
		},
	}
}

// speaking is a Node as an agent leaves it that says s.
func speaking(tb testing.TB, name string, s agent.NodeStatus) corev1.Node {
	tb.Helper()
	n := bare(name)
	text, err := json.Marshal(s)
	if err != nil {
		tb.Fatal(err)
	}
	n.Annotations[agent.StatusAnnotation] = string(text)
	own := map[string]string{}
	for _, m := range s.Models {
		if m.Tier == "" {
			continue
		}
		own[agent.WarmPrefix+m.Name], own[agent.RevPrefix+m.Name] = m.Tier, m.Revision[:12]
		if m.Fits != nil {
			own[agent.FitsPrefix+m.Name] = strconv.Itoa(*m.Fits)
		}
	}
	if s.GPUs.Known {
		own[agent.FreeGiBLabel], own[agent.IdleLabel] = strconv.Itoa(s.GPUs.FreeGiB), strconv.Itoa(s.GPUs.Idle)
	}
	maps.Copy(n.Labels, own)
	n.ManagedFields = []metav1.ManagedFieldsEntry{managed(agent.FieldManager, slices.Sorted(maps.Keys(own))...)}
	return n
}

// managed is who owns labels.
func managed(manager string, keys ...string) metav1.ManagedFieldsEntry {
	fields := make([]string, 0, len(keys))
	for _, k := range keys {
		fields = append(fields, fmt.Sprintf("%q:{}", "f:"+k))
	}
	return metav1.ManagedFieldsEntry{
		Manager: manager, Operation: metav1.ManagedFieldsOperationApply, FieldsType: "FieldsV1",
		FieldsV1: metav1.NewFieldsV1(`{"f:metadata":{"f:labels":{` + strings.Join(fields, ",") + `}}}`),
	}
}

// label sets a label as somebody else does.
func label(n corev1.Node, key, value string) corev1.Node {
	n.Labels[key] = value
	n.ManagedFields = append(n.ManagedFields, managed("kubectl-label", key))
	return n
}

// unlabelled is a Node whose labels of Stoker's were withdrawn.
func unlabelled(n corev1.Node) corev1.Node {
	n.Labels, n.ManagedFields = map[string]string{presentLabel: "true"}, nil
	return n
}

// notReady is a Node whose kubelet is silent.
func notReady(n corev1.Node) corev1.Node {
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown, Reason: "NodeStatusUnknown"}}
	return n
}

func in(d time.Duration) *time.Time {
	at := now.Add(d)
	return &at
}

// golden compares with a file under testdata, or with -update writes it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got); go test -update rewrites it\n%s", path, diff)
	}
}
