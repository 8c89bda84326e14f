package charts

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// update rewrites the golden files: go test ./charts -update.
var update = flag.Bool("update", false, "rewrite golden files")

// readFile reads a file or ends the test.
func readFile(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// chartFile reads a file of charts/stoker.
func chartFile(t *testing.T, name string) []byte {
	t.Helper()
	dir, err := Dir("stoker")
	if err != nil {
		t.Fatal(err)
	}
	return readFile(t, filepath.Join(dir, name))
}

// fullValues sets every value to something else than its default.
func fullValues(t *testing.T) []byte {
	t.Helper()
	return readFile(t, filepath.Join("testdata", "full-values.yaml"))
}

// checkGolden compares got with testdata/name, or rewrites it under -update.
func checkGolden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(readFile(t, path)), got); diff != "" {
		t.Errorf("%s differs (-golden +got); rewrite it with -update if this is meant:\n%s", path, diff)
	}
}
