//go:build e2e && linux

package node_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/fetcher/fetchertest"
)

// Interpreters of the virtual environments that `make clients` makes: with today's client of the Hub, and with
// transformers' models in JAX.
const (
	clientEnv = "STOKER_TEST_PYTHON"
	modelsEnv = "STOKER_TEST_PYTHON_JAX"
)

// readsInPython has the readers that people use read a model in a pod, through the claim and with the environment that
// the pod got: huggingface_hub finds it offline, safetensors hands out every tensor, transformers loads it and makes
// tokens, the same as from the files as they were made.
func (l *life) readsInPython(t *testing.T) {
	client, models := os.Getenv(clientEnv), os.Getenv(modelsEnv)
	if client == "" || models == "" {
		t.Skipf("%s or %s is not set: there is no Python here that make clients could use", clientEnv, modelsEnv)
	}
	// In one file: transformers' models in JAX read no shards.
	tree, err := fetchertest.GenerateModel(fetchertest.ModelSpec{Seed: 8, Shards: 1})
	if err != nil {
		t.Fatal(err)
	}
	tree["additional_chat_templates/tool.jinja"] = fetchertest.Bytes([]byte("{{ tools }}"))
	const id = "team/Tiny"
	commit := l.push(id, tree)
	l.list.models = append(l.list.models, "{source: 'hf://"+id+"'}")
	l.install(t, l.list)
	l.first.waitLabel(t, "warm.stoker.dev/tiny", "disk")

	leftOut := "original/consolidated.00.pth"
	if tree[leftOut] == nil {
		t.Fatalf("the model has no %s to leave out", leftOut)
	}
	names := []string{id, "/stoker/model", "/models/models/tiny/current"}
	pod := l.runPython(t, "python", "tiny", map[string][]string{
		"lookup":   {client, "offline.py", id, commit, "main", "config.json", "additional_chat_templates/tool.jinja", leftOut},
		"tensors":  {models, "tensors.py", "/stoker/model"},
		"generate": append([]string{models, "generate.py"}, names...),
	})

	made := writeTree(t, tree)
	var tokens, got map[string][]int
	l.output(t, pod, "generate", &got)
	runHere(t, &tokens, models, "generate.py", made)
	if len(tokens[made]) <= len("keep nodes warm") {
		t.Fatalf("from the files as they were made come the tokens %v", tokens[made])
	}
	for _, name := range names {
		if !slices.Equal(got[name], tokens[made]) {
			t.Errorf("%s gives the tokens %v, the files as they were made %v", name, got[name], tokens[made])
		}
	}
	var sums, madeSums map[string]string
	l.output(t, pod, "tensors", &sums)
	runHere(t, &madeSums, models, "tensors.py", made)
	if diff := cmp.Diff(madeSums, sums); diff != "" || len(sums) == 0 {
		t.Errorf("tensors (-made +read):\n%s", diff)
	}
	var found map[string]string
	l.output(t, pod, "lookup", &found)
	want := lookups("/models/hub/models--team--Tiny/snapshots/"+commit, l.first.countFiles(t))
	if diff := cmp.Diff(want, found); diff != "" {
		t.Errorf("what the Hub's client finds (-want +got):\n%s", diff)
	}
	t.Logf("%d tensors; the tokens %v", len(sums), tokens[made])
}

// lookups is what testdata/offline.py finds in a good store: by every way the file in the snapshot, and no more.
func lookups(snapshot string, files int) map[string]string {
	config, nested := snapshot+"/config.json", snapshot+"/additional_chat_templates/tool.jinja"
	want := map[string]string{"file_left_out": "LocalEntryNotFoundError", "scan": strconv.Itoa(files), "write": "Read-only file system"}
	for _, way := range []string{"snapshot", "snapshot_local_only", "snapshot_commit", "snapshot_branch", "snapshot_weights", "snapshot_ignoring"} {
		want[way] = snapshot
	}
	for _, way := range []string{"file", "file_commit", "file_branch", "file_local_only", "try_load", "try_load_commit"} {
		want[way] = config
	}
	for _, way := range []string{"file_nested", "file_subfolder"} {
		want[way] = nested
	}
	for _, way := range []string{"snapshot_no_such_branch", "file_no_such"} {
		want[way] = "LocalEntryNotFoundError"
	}
	return want
}

// countFiles counts the files of all models as the Hub's clients see them.
func (m *machine) countFiles(t *testing.T) int {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(m.disk, "models", "*", "*", "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, config := range found {
		if filepath.Base(filepath.Dir(config)) == "current" {
			continue // a link to one of the others
		}
		err := filepath.WalkDir(filepath.Dir(config), func(_ string, entry os.DirEntry, err error) error {
			if err == nil && !entry.IsDir() {
				count++
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return count
}

// scriptsDir holds the scripts, here.
func scriptsDir(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("..", "..", "fetcher", "fetchertest", "testdata"))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// runPython runs a pod that names a model, with a container for each command (interpreter, script, arguments), and
// returns it when all have ended well. This machine's Python is mounted into them.
func (l *life) runPython(t *testing.T, name, model string, commands map[string][]string) *corev1.Pod {
	t.Helper()
	spec := podSpec(map[string]string{"pool": "large"})
	spec.RestartPolicy = corev1.RestartPolicyNever
	var mounts []corev1.VolumeMount
	mount := func(host, path string) {
		volume := "host-" + strconv.Itoa(len(mounts))
		spec.Volumes = append(spec.Volumes, corev1.Volume{Name: volume, VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: host}}})
		mounts = append(mounts, corev1.VolumeMount{Name: volume, MountPath: path, ReadOnly: true})
	}
	for _, dir := range pythonDirs(t, commands) {
		mount(dir, dir)
	}
	mount(scriptsDir(t), "/scripts")
	spec.Volumes = append(spec.Volumes, corev1.Volume{Name: "tmp", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
	mounts = append(mounts, corev1.VolumeMount{Name: "tmp", MountPath: "/tmp"})
	container := spec.Containers[0]
	container.ReadinessProbe, spec.Containers = nil, nil
	for name, command := range commands {
		c := container
		c.Name = name
		c.Command = append([]string{command[0], "/scripts/" + command[1]}, command[2:]...)
		c.VolumeMounts = mounts
		c.Env = []corev1.EnvVar{{Name: "HOME", Value: "/tmp"}, {Name: "PYTHONDONTWRITEBYTECODE", Value: "1"}}
		spec.Containers = append(spec.Containers, c)
	}
	pods := l.client.CoreV1().Pods("serving")
	_, err := pods.Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"stoker.dev/model": model}}, Spec: spec,
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var pod *corev1.Pod
	wait(t, "the Python readers to end", func(ctx context.Context) (bool, error) {
		pod, err = pods.Get(ctx, name, metav1.GetOptions{})
		return err == nil && (pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed), err
	})
	if pod.Status.Phase == corev1.PodFailed {
		t.Fatalf("a Python reader failed: %+v", pod.Status.ContainerStatuses)
	}
	return pod
}

// pythonDirs are the directories that interpreters need: their virtual environments, the Python that these were made of,
// and the system's libraries.
func pythonDirs(t *testing.T, commands map[string][]string) []string {
	t.Helper()
	dirs := []string{"/usr", "/lib"}
	if _, err := os.Stat("/lib64"); err == nil {
		dirs = append(dirs, "/lib64")
	}
	for _, command := range commands {
		var prefixes []string
		python(t, &prefixes, command[0], "-c", "import json, sys; print(json.dumps([sys.prefix, sys.base_prefix]))")
		for _, dir := range prefixes {
			if !slices.Contains(dirs, dir) && !strings.HasPrefix(dir, "/usr/") {
				dirs = append(dirs, dir)
			}
		}
	}
	return dirs
}

// runHere runs a script of fetchertest's on this machine, offline, and decodes what it printed.
func runHere(t *testing.T, into any, interpreter, script string, args ...string) {
	t.Helper()
	python(t, into, interpreter, append([]string{filepath.Join(scriptsDir(t), script)}, args...)...)
}

func python(t *testing.T, into any, interpreter string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), interpreter, args...)
	cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=/usr/bin:/bin", "HF_HUB_OFFLINE=1", "TRANSFORMERS_OFFLINE=1", "PYTHONDONTWRITEBYTECODE=1"}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, stderr.Bytes())
	}
	if err := json.Unmarshal(out, into); err != nil {
		t.Fatalf("%s printed %q: %v", cmd, out, err)
	}
}

// output decodes the JSON that a container printed as its last line.
func (l *life) output(t *testing.T, pod *corev1.Pod, container string, into any) {
	t.Helper()
	path := filepath.Join(l.first.PodLogs(), pod.Namespace+"_"+pod.Name+"_"+string(pod.UID), container, "0.log")
	log, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// Lines are TIME STREAM TAG TEXT; TAG is P where a long line goes on.
	var text strings.Builder
	for line := range strings.Lines(string(log)) {
		if fields := strings.SplitN(line, " ", 4); len(fields) == 4 && fields[1] == "stdout" {
			_, _ = io.WriteString(&text, strings.TrimSuffix(fields[3], "\n"))
		}
	}
	if err := json.Unmarshal([]byte(text.String()), into); err != nil {
		t.Fatalf("container %s printed %q: %v", container, log, err)
	}
}

// writeTree writes a model as it was made, as files of its own.
func writeTree(t *testing.T, tree fetchertest.Tree) string {
	t.Helper()
	dir := t.TempDir()
	for path, content := range tree {
		file := filepath.Join(dir, filepath.FromSlash(path))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		bytes, err := io.ReadAll(content.Reader())
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, bytes, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
