package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stoker-project/stoker/agent"
)

// TestAdaptersHaveOneBound: what agents would not pull is waited for by nobody, and whoever injects hears of it.
func TestAdaptersHaveOneBound(t *testing.T) {
	var names []string
	for i := range agent.MaxAdapters + 1 {
		names = append(names, fmt.Sprintf("a%d", i))
	}
	args := append([]string{"wait", "--store", t.TempDir(), "--timeout", "1ns", "m"}, names...)
	code, _, stderr := call(t, args...)
	if code != exitUsage || !strings.Contains(stderr, "65 adapters are too many; a pod may name 64 (annotation stoker.dev/adapters)") {
		t.Errorf("one too many: exit code %d: %s", code, stderr)
	}
	if code, _, stderr := call(t, args[:len(args)-1]...); code != exitFailed {
		t.Errorf("as many as there may be: exit code %d: %s", code, stderr)
	}
	for n, want := range map[int]string{agent.MaxAdapters: "", agent.MaxAdapters + 1: "names 65 adapters, and the init container will refuse more than 64; name fewer"} {
		file := filepath.Join(t.TempDir(), "pod.yaml")
		pod := fmt.Sprintf("{apiVersion: v1, kind: Pod, metadata: {name: p, labels: {stoker.dev/model: m}, annotations: {stoker.dev/adapters: '%s'}}, spec: {containers: [{name: c, image: i}]}}", strings.Join(names[:n], ","))
		if err := os.WriteFile(file, []byte(pod), 0o600); err != nil {
			t.Fatal(err)
		}
		code, _, stderr := call(t, "inject", "-f", file, "--image", "x/stoker:v1")
		if code != exitOK || (want == "") != !strings.Contains(stderr, "adapters") || !strings.Contains(stderr, want) {
			t.Errorf("inject with %d: exit code %d: %s", n, code, stderr)
		}
	}
}
