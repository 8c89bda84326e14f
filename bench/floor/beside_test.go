//go:build linux

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The command and the hashing both have to succeed.
func TestBeside(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("abc"), 0o600); err != nil {
		t.Fatal(err)
	}
	const right = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" // FIPS 180-2, B.1
	for name, c := range map[string]struct {
		command, list, want string
	}{
		"both right":         {"true", file + "\tfile\t" + right + "\n", ""},
		"the command fails":  {"false", file + "\tfile\t" + right + "\n", "run false"},
		"another content":    {"true", file + "\tfile\t" + strings.Repeat("0", 64) + "\n", "sha256 is " + right},
		"no such file":       {"true", file + "2\tfile\t" + right + "\n", "hash file"},
		"a line is no entry": {"true", "file\n", "is not file, path and sha256"},
	} {
		err := beside(t.Context(), []string{c.command}, strings.NewReader(c.list))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
