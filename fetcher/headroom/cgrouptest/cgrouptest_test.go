package cgrouptest

import (
	"os"
	"path/filepath"
	"testing"
)

// Folders with the files that tell hierarchies apart stand for what is mounted.
func TestFind(t *testing.T) {
	for name, tc := range map[string]struct {
		files map[string]string
		want  hierarchy // below the mounts
		fails bool
		// control is what the root's children are handed on then.
		control string
	}{
		"version 1":              {files: map[string]string{"memory/cgroup.procs": ""}, want: hierarchy{root: "memory"}},
		"version 1, unified":     {files: map[string]string{"memory/cgroup.procs": "", "unified/cgroup.controllers": "hugetlb"}, want: hierarchy{root: "memory"}},
		"version 2":              {files: map[string]string{"cgroup.controllers": "cpu memory pids", "cgroup.subtree_control": "cpu"}, want: hierarchy{v2: true}, control: "+memory"},
		"version 2, handed on":   {files: map[string]string{"cgroup.controllers": "cpu memory", "cgroup.subtree_control": "cpu memory"}, want: hierarchy{v2: true}, control: "cpu memory"},
		"version 2 beside 1":     {files: map[string]string{"cpu/cgroup.procs": "", "unified/cgroup.controllers": "memory", "unified/cgroup.subtree_control": ""}, want: hierarchy{root: "unified", v2: true}, control: "+memory"},
		"in neither":             {files: map[string]string{"cpu/cgroup.procs": "", "unified/cgroup.controllers": "hugetlb memoryless"}, fails: true},
		"nothing is mounted":     {fails: true},
		"it cannot be handed on": {files: map[string]string{"cgroup.controllers": "memory"}, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, content := range tc.files {
				path := filepath.Join(dir, file)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			got, err := find(dir)
			if (err != nil) != tc.fails {
				t.Fatalf("found %+v, %v", got, err)
			}
			if err != nil {
				return
			}
			if want := filepath.Join(dir, tc.want.root); got.root != want || got.v2 != tc.want.v2 {
				t.Errorf("found %+v, want %s", got, want)
			}
			if !got.v2 {
				return
			}
			if text, err := os.ReadFile(filepath.Join(got.root, "cgroup.subtree_control")); err != nil || string(text) != tc.control {
				t.Errorf("handed on %q, %v, want %q", text, err, tc.control)
			}
		})
	}
}

func TestOwn(t *testing.T) {
	const both = "4:memory,hugetlb:/pods/a:b\n1:cpu:/\n0::/unified/c\n"
	for _, tc := range []struct {
		text string
		v2   bool
		want string
	}{{both, false, "/pods/a:b"}, {both, true, "/unified/c"}, {"1:cpu:/x\n", false, "/"}, {"", true, "/"}} {
		if got := own(tc.text, tc.v2); got != tc.want {
			t.Errorf("of %q, version 2 %v: %q, want %q", tc.text, tc.v2, got, tc.want)
		}
	}
}
