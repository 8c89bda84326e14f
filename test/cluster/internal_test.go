package cluster

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

func TestWaitFor(t *testing.T) {
	t.Run("returns once the condition holds", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			calls := 0
			err := WaitFor(t.Context(), "the third call", func(context.Context) (bool, error) {
				calls++
				if calls == 1 {
					return false, errors.New("not yet")
				}
				return calls == 3, nil
			})
			if err != nil || calls != 3 {
				t.Errorf("%d calls and %v, want 3 and no error", calls, err)
			}
		})
	})
	t.Run("says what it waited for and what was wrong", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			cause := errors.New("no such thing")
			err := WaitFor(ctx, "a thing", func(context.Context) (bool, error) { return false, cause })
			if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, cause) {
				t.Errorf("%v wraps not both the deadline and the cause", err)
			}
			if want := "wait for a thing: context deadline exceeded after 3s, at last: no such thing"; err.Error() != want {
				t.Errorf("got  %s\nwant %s", err, want)
			}
		})
	})
	t.Run("ends without a deadline", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			started := time.Now()
			err := WaitFor(context.Background(), "nothing", func(context.Context) (bool, error) { return false, nil })
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(started) != waitLimit {
				t.Errorf("%v after %s, want the deadline after %s", err, time.Since(started), waitLimit)
			}
		})
	})
}

func TestCachedBuildBuildsOnce(t *testing.T) {
	source := writeModule(t, "package main\n\nfunc main() {}\n")
	dir := filepath.Join(t.TempDir(), "cache")
	var logs [3]bytes.Buffer
	var paths [len(logs)]string
	var builders sync.WaitGroup
	for i := range logs {
		builders.Go(func() {
			path, err := cachedBuild(t.Context(), source, dir, &logs[i])
			if err != nil {
				t.Error(err)
			}
			paths[i] = path
		})
	}
	builders.Wait()
	built := 0
	for i := range logs {
		built += strings.Count(logs[i].String(), "built the control plane")
		if info, err := os.Stat(paths[i]); err != nil || info.Mode()&0o111 == 0 {
			t.Errorf("%q is no executable: %v", paths[i], err)
		}
	}
	if built != 1 {
		t.Errorf("built %d times, want once", built)
	}
}

func TestCachedBuildSaysWhatTheCompilerSaid(t *testing.T) {
	source := writeModule(t, "package main\n\nfunc main() { undefinedHere() }\n")
	dir := t.TempDir()
	path, err := cachedBuild(t.Context(), source, dir, &bytes.Buffer{})
	if err == nil || !strings.Contains(err.Error(), "undefinedHere") {
		t.Errorf("got %q and %v, want the compiler's message", path, err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "controlplane*"))
	if err != nil || len(left) != 0 {
		t.Errorf("a build that went wrong leaves %v (%v)", left, err)
	}
}

func TestCachedBuildEndsWithItsContext(t *testing.T) {
	source := writeModule(t, "package main\n\nfunc main() {}\n")
	dir := t.TempDir()
	unlock, err := tryLock(filepath.Join(dir, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithCancel(t.Context())
	// The line is written when it finds somebody else building: exactly then it is interrupted.
	_, err = cachedBuild(ctx, source, dir, writerFunc(cancel))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

type writerFunc func()

func (f writerFunc) Write(p []byte) (int, error) {
	f()
	return len(p), nil
}

func TestBuildKeyFollowsTheSource(t *testing.T) {
	key := func(t *testing.T, source string) string {
		t.Helper()
		key, err := buildKey(source)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	one := writeModule(t, "package main\n\nfunc main() {}\n")
	same := writeModule(t, "package main\n\nfunc main() {}\n")
	if key(t, one) != key(t, same) {
		t.Error("two clones with the same sources have different keys")
	}
	if err := os.WriteFile(filepath.Join(same, "go.sum"), []byte("changed\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if key(t, one) == key(t, same) {
		t.Error("another go.sum has the same key")
	}
}

// writeModule makes a module that builds in a second.
func writeModule(t *testing.T, main string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{"go.mod": "module example.test\n\ngo 1.26.0\n", "go.sum": "", "main.go": main} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestRemoveAbandoned(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	long := time.Now().Add(-2 * abandonedAge)
	for _, name := range []string{"abandoned", "kept", "locked", "new"} {
		dir := filepath.Join(temp, "stoker-cluster-"+name)
		if err := os.MkdirAll(filepath.Join(dir, "logs"), 0o700); err != nil {
			t.Fatal(err)
		}
		switch name {
		case "kept":
			if err := os.WriteFile(filepath.Join(dir, keptMarker), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		case "locked":
			unlock, err := tryLock(filepath.Join(dir, "lock"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(unlock)
		}
		if name != "new" {
			if err := os.Chtimes(dir, long, long); err != nil {
				t.Fatal(err)
			}
		}
	}
	removeAbandoned()
	for name, want := range map[string]bool{"abandoned": false, "kept": true, "locked": true, "new": true} {
		_, err := os.Stat(filepath.Join(temp, "stoker-cluster-"+name))
		if got := err == nil; got != want {
			t.Errorf("the directory that is %s is there: %t, want %t", name, got, want)
		}
	}
}

func TestDirServesOneClusterAtATime(t *testing.T) {
	dir := t.TempDir()
	_, unlock, err := newDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := newDir(dir); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("a directory in use gives %v, want %v", err, unix.EWOULDBLOCK)
	}
	unlock()
	_, unlock, err = newDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}

// Every component says in the same words that its port is in use, which is what Start's second attempt goes by.
func TestPortTaken(t *testing.T) {
	binary, err := Binary(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	l, unlock, err := newDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	keys, err := writePKI(l.path("pki"))
	if err != nil {
		t.Fatal(err)
	}
	taken, err := reservePort(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer taken.release()
	c := &Cluster{layout: l, ca: keys.authority.pem}
	if err := c.writeKubeconfigs(keys, taken.url()); err != nil {
		t.Fatal(err)
	}
	for _, component := range []component{
		etcd(l, taken), apiServer(l, taken, taken), controllerManager(l, taken, time.Hour), scheduler(l, taken),
	} {
		t.Run(component.name, func(t *testing.T) {
			p, err := startProcess(binary, component.name, l.log(component.name), component.args)
			if err != nil {
				t.Fatal(err)
			}
			probe, err := newProbe(keys)
			if err != nil {
				t.Fatal(err)
			}
			// Nobody answers behind the held port, so only the component's death can end this wait early.
			if err := probe.waitReady(t.Context(), component, p); !errors.Is(err, errPortTaken) {
				t.Errorf("got %v, want %v", err, errPortTaken)
			}
			_ = p.stop()
		})
	}
}
