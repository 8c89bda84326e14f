//go:build e2e && linux

package node_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const (
	release         = "stoker"
	systemNamespace = "stoker-system"
)

// values of the chart: what an operator must say, this machine's directories, and no more.
type values struct {
	tag    string
	models []string // entries of the list
	memory string   // the agent's limit; empty: the chart's
}

func (w *world) values(v values) string {
	resources := "{}"
	if v.memory != "" {
		resources = fmt.Sprintf("{requests: {memory: 64Mi}, limits: {memory: %s}}", v.memory)
	}
	return fmt.Sprintf(`
image: {repository: localhost/stoker, tag: %s, pullPolicy: Never}
models: [%s]
namespaces: [serving, strict]
store: {hostPath: %s}
agent: {store: {reserve: 64Mi}}
resources: %s
gpus: simulated:dgxh200
extraEnv:
- {name: HF_ENDPOINT, value: "%s"}
`, v.tag, strings.Join(v.models, ", "), storePath(), resources, w.hub.URL())
}

// install installs the chart with Helm, or upgrades it.
func (w *world) install(tb testing.TB, v values) {
	tb.Helper()
	file := filepath.Join(tb.TempDir(), "values.yaml")
	if err := os.WriteFile(file, []byte(w.values(v)), 0o600); err != nil {
		tb.Fatal(err)
	}
	w.runHelm(tb, "upgrade", "--install", release, filepath.Join("..", "..", "charts", "stoker"),
		"--namespace", systemNamespace, "--create-namespace", "--values", file)
}

func (w *world) runHelm(tb testing.TB, args ...string) {
	tb.Helper()
	cmd := exec.CommandContext(tb.Context(), w.helm, args...)
	home := filepath.Join(box.Dir, "helm")
	cmd.Env = append(os.Environ(), "KUBECONFIG="+w.cluster.KubeconfigPath, "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	out, err := cmd.CombinedOutput()
	if err != nil {
		tb.Fatalf("helm %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}
