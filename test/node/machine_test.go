//go:build e2e && linux

package node_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/test/node"
)

// machine is one of the world's nodes.
type machine struct {
	*node.Node
	name   string
	client kubernetes.Interface
	// disk is the directory in which the tests see the node's store.
	disk   string
	cgroup string
}

// storePath is where every node has its store.
func storePath() string { return filepath.Join(box.Dir, "store") }

// startMachine starts the node of that number, with its store on a disk.
func (w *world) startMachine(number int, pool, disk string) *machine {
	w.Helper()
	name := "node-" + strconv.Itoa(number)
	cgroup, err := box.NewCGroup(name)
	if err != nil {
		w.Fatal(err)
	}
	n, err := node.Start(w.Context(), node.Options{
		Name: name, Dir: makeDir(w, filepath.Join(box.Dir, name)), CGroup: cgroup, Cluster: w.cluster,
		Mounts:     map[string]string{storePath(): disk},
		Containerd: need(w, containerdEnv), Kubelet: need(w, kubeletEnv),
		Labels: map[string]string{"nvidia.com/gpu.present": "true", "pool": pool},
		Images: []string{need(w, imageEnv), need(w, toolEnv)}, PauseImage: toolImage,
		PodSubnet: fmt.Sprintf("10.0.%d.0/24", 1+number), Bridge: "stoker" + strconv.Itoa(number), Port: 10250 + number,
	})
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		if err := n.Stop(); err != nil {
			w.Error(err)
		}
	})
	return &machine{Node: n, name: name, client: w.client, disk: disk, cgroup: cgroup}
}

func makeDir(tb testing.TB, path string) string {
	tb.Helper()
	if err := os.Mkdir(path, 0o755); err != nil {
		tb.Fatal(err)
	}
	return path
}

// newDisk is a directory that is a file system of its own with that many bytes. The kernel unmounts it and frees its
// loop device at the end of the sandbox.
func newDisk(tb testing.TB, dir string, bytes int64) string {
	tb.Helper()
	makeDir(tb, dir)
	file := dir + ".ext4"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := os.Truncate(file, bytes); err != nil {
		tb.Fatal(err)
	}
	for _, command := range [][]string{{"mkfs.ext4", "-q", "-F", "-m", "0", file}, {"mount", "-o", "loop", file, dir}} {
		if out, err := exec.CommandContext(tb.Context(), command[0], command[1:]...).CombinedOutput(); err != nil {
			tb.Fatalf("%q: %v: %s", command, err, out)
		}
	}
	return dir
}

func (m *machine) get(ctx context.Context) (*corev1.Node, error) {
	return m.client.CoreV1().Nodes().Get(ctx, m.name, metav1.GetOptions{})
}

// patch writes to the Node as an administrator.
func (m *machine) patch(t *testing.T, patch string) {
	t.Helper()
	_, err := m.client.CoreV1().Nodes().Patch(t.Context(), m.name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// waitLabel waits until the Node's label has a value; empty: until it is absent.
func (m *machine) waitLabel(tb testing.TB, key, want string) {
	tb.Helper()
	wait(tb, fmt.Sprintf("label %s=%s on %s", key, want, m.name), func(ctx context.Context) (bool, error) {
		n, err := m.get(ctx)
		if err != nil {
			return false, err
		}
		return n.Labels[key] == want, nil
	})
}

// waitModel waits until what the agent says of a model in the Node's annotation is as wanted, and returns it.
func (m *machine) waitModel(t *testing.T, name, what string, wanted func(agent.ModelStatus) bool) agent.ModelStatus {
	t.Helper()
	var found agent.ModelStatus
	wait(t, "model "+name+" on "+m.name+" "+what, func(ctx context.Context) (bool, error) {
		n, err := m.get(ctx)
		if err != nil {
			return false, err
		}
		var status agent.NodeStatus
		if err := json.Unmarshal([]byte(n.Annotations[agent.StatusAnnotation]), &status); err != nil {
			return false, err
		}
		for _, model := range status.Models {
			if model.Name == name {
				if found = model; !wanted(model) {
					return false, fmt.Errorf("it says %+v", model)
				}
				return true, nil
			}
		}
		return false, fmt.Errorf("it says nothing of it: %+v", status.Models)
	})
	return found
}
