package charts

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// repositoryRoot is the folder of the root module.
func repositoryRoot(t *testing.T) string {
	t.Helper()
	dir, err := Dir("stoker")
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(filepath.Dir(dir))
}

// runInRoot runs a command in the root module and gives what it printed.
func runInRoot(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = repositoryRoot(t)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String()
}

// buildBinary builds cmd/stoker and gives its path.
func buildBinary(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "stoker")
	runInRoot(t, "go", "build", "-o", binary, "./cmd/stoker")
	return binary
}

// The rendered arguments are parsed by the real flag set. --help comes last:
// flags are parsed from left to right, so a flag before it that the binary does
// not know, or a value that does not suit, ends with an error and not with help.
func TestArgumentsAreTheBinarys(t *testing.T) {
	binary := buildBinary(t)
	openshift := chartFile(t, Stoker, "values/openshift.yaml")
	for name, values := range map[string][]byte{"default": nil, "full": fullValues(t), "openshift": openshift} {
		for flag, pod := range map[string]corev1.PodSpec{
			"--node-name": agentPod(t, values), "--agent-timeout": sweeperPod(t, values).Spec, "--all": unlabelPod(t, values),
		} {
			container := pod.Containers[0]
			help := runInRoot(t, binary, append(slices.Clone(container.Args), "--help")...)
			if !strings.Contains(help, flag) {
				t.Errorf("%s values: these are not the arguments of %s: %q; the binary printed\n%s", name, container.Name, container.Args, help)
			}
		}
	}
	job := populateJob(t, renderAll(t, readOnlyValues(t))).Spec.Template.Spec.Containers[0]
	if help := runInRoot(t, binary, append(slices.Clone(job.Args), "--help")...); !strings.Contains(help, "--prune") {
		t.Errorf("these are not the arguments of %s: %q; the binary printed\n%s", job.Name, job.Args, help)
	}
	// The same way with a flag that is not there must fail, or the test proves nothing.
	if err := exec.CommandContext(t.Context(), binary, "agent", "--no-such-flag", "--help").Run(); err == nil {
		t.Error("the binary takes a flag that it does not have")
	}
}

// copied finds the folders that the Dockerfile takes from the repository.
var copied = regexp.MustCompile(`(?m)^COPY ([a-z]+) \./[a-z]+$`)

// A package outside of the copied folders would break the image's build, which
// no other test runs.
func TestDockerfileCopiesWhatTheBinaryNeeds(t *testing.T) {
	root := repositoryRoot(t)
	var have []string
	for _, match := range copied.FindAllStringSubmatch(string(readFile(t, filepath.Join(root, "Dockerfile"))), -1) {
		have = append(have, match[1])
	}
	const module = "github.com/stoker-project/stoker/"
	var need []string
	for pkg := range strings.FieldsSeq(runInRoot(t, "go", "list", "-deps", "./cmd/stoker")) {
		if inside, ok := strings.CutPrefix(pkg, module); ok {
			top, _, _ := strings.Cut(inside, "/")
			need = append(need, top)
		}
	}
	slices.Sort(have)
	slices.Sort(need)
	if need = slices.Compact(need); !slices.Equal(have, need) {
		t.Errorf("the Dockerfile copies %q, cmd/stoker is built from %q", have, need)
	}
	ignore := string(readFile(t, filepath.Join(root, ".dockerignore")))
	for _, name := range append(need, "go.mod", "go.sum") {
		if !strings.Contains(ignore, "\n!"+name+"\n") {
			t.Errorf(".dockerignore keeps %s from the build", name)
		}
	}
}
