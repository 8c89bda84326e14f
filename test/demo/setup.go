package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/test/charts"
	"github.com/stoker-project/stoker/test/cluster"
)

// What the demo plays with. The bigger model is for nodes of the pool
// "serving"; the smaller one is for all.
const (
	systemNamespace  = "stoker-system"
	servingNamespace = "serving"
	release          = "stoker"
	bigModel         = "llama-demo"
	smallModel       = "embedder-demo"
	bigModelBytes    = 256 << 20
	smallModelBytes  = 8 << 20
)

// machine is one Node and the board that its agent sees.
type machine struct {
	name, gpus, pool, about string
}

func machines() []machine {
	return []machine{
		{"gpu-1", "simulated:dgxh200", "serving", "8 x H200, idle"},
		{"gpu-2", "simulated:dgxa100", "serving", "8 x A100, idle"},
		{"gpu-3", "simulated:dgxh100,free=2GiB", "serving", "8 x H100, memory nearly full: something holds it"},
		{"gpu-4", "simulated:dgxb200", "batch", "8 x B200, but not in the list's pool for " + bigModel},
	}
}

// values of the chart. The intervals are short because nobody wants to watch a
// demo wait; the reserve is small because it runs on somebody's laptop.
func values() string {
	return fmt.Sprintf(`
models:
- name: %s
  source: hf://stoker-demo/llama-demo@main
  nodeSelector: {pool: serving}
  priority: 10
  serving: {maxModelLen: 4096}
- name: %s
  source: hf://stoker-demo/embedder-demo@main
namespaces: [%s]
agent:
  store: {reserve: 1Gi}
  intervals: {observe: 500ms, labelWrites: 500ms, progress: 1s, gpu: 2s, heartbeat: 1s, verify: 2s, resync: 5s}
`, bigModel, smallModel, servingNamespace)
}

// publishModels fills the Hub stand-in with generated models.
func (d *demo) publishModels(ctx context.Context) error {
	d.say("generating models for the Hub stand-in (valid safetensors, %d MB and %d MB)", bigModelBytes>>20, smallModelBytes>>20)
	for i, m := range []struct {
		name  string
		bytes int64
	}{{bigModel, bigModelBytes}, {smallModel, smallModelBytes}} {
		tree, err := fetchertest.GenerateModel(fetchertest.SpecOfSize(uint64(i+1), m.bytes, 4))
		if err != nil {
			return err
		}
		id := "stoker-demo/" + m.name
		d.hub.AddRepo(id, fetchertest.RepoOptions{})
		commit, err := d.hub.Push(ctx, id, "main", tree)
		if err != nil {
			return err
		}
		fmt.Fprintf(d.out, "    hf://%s@main is commit %s\n", id, commit[:12])
	}
	return nil
}

func (d *demo) addNodes(ctx context.Context) error {
	d.say("creating Nodes")
	for _, m := range machines() {
		_, err := d.cluster.AddNode(ctx, cluster.NodeSpec{
			Name: m.name, GPUs: 8, Labels: map[string]string{"pool": m.pool, "nvidia.com/gpu.present": "true"},
		})
		if err != nil {
			return err
		}
		fmt.Fprintf(d.out, "    %s  pool=%-8s %s\n", m.name, m.pool, m.about)
	}
	return nil
}

// installChart applies what Helm would, and keeps the agents' configuration as
// the file that their pods would see.
func (d *demo) installChart(ctx context.Context) error {
	d.say("installing charts/stoker")
	fmt.Fprint(d.out, indent(values()))
	for _, ns := range []string{systemNamespace, servingNamespace} {
		_, err := d.cluster.Client().CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
	}
	objs, err := charts.Render([]byte(values()), release, systemNamespace)
	if err != nil {
		return err
	}
	if err := charts.Apply(ctx, d.cluster.RESTConfig(), objs); err != nil {
		return err
	}
	config, err := charts.AgentConfig(objs)
	if err != nil {
		return err
	}
	return os.WriteFile(d.configPath(), config, 0o600)
}

func (d *demo) configPath() string { return filepath.Join(d.dir, "config.yaml") }

func (d *demo) storePath(node string) string { return filepath.Join(d.dir, "nodes", node, "models") }
