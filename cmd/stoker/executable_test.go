package main

import (
	"os/exec"
	"strings"
	"testing"
)

// An idle agent keeps much of its executable resident, so what nothing of it
// needs is kept out: all API groups but three, and the page of a library's traces,
// whose template keeps every method of every type.
func TestExecutableLeavesOut(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-tags", "disable_grpc_modules,grpcnotrace", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	groups := 0
	for pkg := range strings.Lines(string(out)) {
		switch pkg = strings.TrimSpace(pkg); {
		case pkg == "k8s.io/api/core/v1", pkg == "k8s.io/api/events/v1", pkg == "k8s.io/api/coordination/v1":
			groups++
		case strings.HasPrefix(pkg, "k8s.io/api/"), strings.HasPrefix(pkg, "k8s.io/client-go/kubernetes"), pkg == "golang.org/x/net/trace":
			t.Errorf("the executable has %s; see what imports it by `go list -deps`", pkg)
		}
	}
	if groups != 3 {
		t.Errorf("found %d API groups of 3: this test looks for the wrong names", groups)
	}
}
