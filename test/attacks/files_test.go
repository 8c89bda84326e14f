package attacks_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// What files of tokens, credentials and lists are instead is named.
func TestSettings(t *testing.T) {
	dir := t.TempDir()
	pipe, huge := filepath.Join(dir, "pipe"), filepath.Join(dir, "huge")
	if err := errors.Join(syscall.Mkfifo(pipe, 0o666), os.WriteFile(huge, nil, 0o644), os.Truncate(huge, 3<<40)); err != nil {
		t.Fatal(err)
	}
	for path, reason := range map[string]string{"/dev/zero": "is a device", pipe: "is a pipe", huge: "at most"} {
		for _, c := range []struct {
			what string
			env  []string
			args []string
		}{
			{"HF_TOKEN_PATH", []string{"HF_ENDPOINT=http://127.0.0.1:1", "HF_TOKEN_PATH=" + path}, []string{"pull", "hf://o/n"}},
			{"AWS_CONFIG_FILE", []string{"AWS_CONFIG_FILE=" + path, "AWS_ENDPOINT_URL=http://127.0.0.1:1"}, []string{"pull", "s3://b/n"}},
			{"AWS_SHARED_CREDENTIALS_FILE", []string{"AWS_SHARED_CREDENTIALS_FILE=" + path, "AWS_ENDPOINT_URL=http://127.0.0.1:1"}, []string{"pull", "s3://b/n"}},
			{"GOOGLE_APPLICATION_CREDENTIALS", []string{"GOOGLE_APPLICATION_CREDENTIALS=" + path}, []string{"pull", "gs://b/n"}},
			{"populate --config", nil, []string{"populate", "--config", path}},
			{"agent --config", nil, []string{"agent", "--config", path, "--node-name", "n"}},
		} {
			t.Run(c.what+"="+filepath.Base(path), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				o := w.attacked(t, "setting: "+c.what+"="+filepath.Base(path), c.env, append(c.args, "--store", w.store)...)
				if o.code != exitUsage || !strings.Contains(o.output, path+" ") || !strings.Contains(o.output, reason) {
					t.Errorf("exits with %d: %s", o.code, o.output)
				}
			})
		}
	}
}

// A link in a directory brings nothing into the store that is outside of it.
func TestDirectory(t *testing.T) {
	const secret = "root:$6$abcdefgh"
	for name, c := range map[string]struct {
		prepare func(src, secret string) error
		code    int
		follow  bool
	}{
		"link to a token":          {prepare: func(src, secret string) error { return os.Symlink(secret, filepath.Join(src, "tokenizer.json")) }, code: exitRefused},
		"link to a token, allowed": {prepare: func(src, secret string) error { return os.Symlink(secret, filepath.Join(src, "tokenizer.json")) }, follow: true},
		"link to its folder":       {prepare: func(src, secret string) error { return os.Symlink(filepath.Dir(secret), filepath.Join(src, "sub")) }, code: exitRefused},
		"link to /dev/zero":        {prepare: func(src, _ string) error { return os.Symlink("/dev/zero", filepath.Join(src, "tokenizer.json")) }, code: exitRefused},
		"pipe":                     {prepare: func(src, _ string) error { return syscall.Mkfifo(filepath.Join(src, "tokenizer.json"), 0o666) }, code: exitRefused},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, src := newWorld(t), modelDir(t)
			path := filepath.Join(t.TempDir(), "token")
			if err := errors.Join(os.WriteFile(path, []byte(secret), 0o600), c.prepare(src, path)); err != nil {
				t.Fatal(err)
			}
			args := []string{"--name", "m"}
			if c.follow {
				args = append(args, "--follow-links", filepath.Dir(path))
			}
			w.pull(t, "directory: "+name, nil, "file://"+src, args...).expect(t, c.code, "")
			if got := holds(t, w.store, secret); got != c.follow {
				t.Errorf("the store holds the secret: %v", got)
			}
		})
	}
	newWorld(t).pull(t, "directory: flag for another source", nil, "hf://o/n", "--follow-links", "/srv").
		expect(t, exitUsage, "--follow-links: only file:// sources have it")
}

// holds reports whether a file below dir has the text.
func holds(t *testing.T, dir, text string) bool {
	t.Helper()
	found := false
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		found = found || bytes.Contains(content, []byte(text))
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(fmt.Errorf("search the store: %w", err))
	}
	return found
}
