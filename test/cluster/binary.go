package cluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"
)

const (
	// version is the Kubernetes release that ../controlplane/go.mod pins. Without it the servers call themselves v0.0.0.
	version = "v1.37.2"
	// linkFlags strips the executable (400 MB otherwise) and sets what the servers say their version is.
	linkFlags = "-s -w -X k8s.io/component-base/version.gitVersion=" + version +
		" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37"
	// progressInterval is how often a running build says that it still runs.
	progressInterval = 30 * time.Second
)

// Binary returns the path of the control plane's executable, and builds it first if the user's cache directory does
// not hold it yet. Its name there is a digest over the sources of ../controlplane, the Go version and the platform, so
// that every clone shares one build and a change makes a new one. Several processes may call it at once: one builds,
// the others wait.
//
// log gets plain lines for a person when there is something to wait for; nil is silence. A build needs the go command,
// the modules (downloaded, or in the module cache), and from nothing 7 to 9 minutes on two cores. When ctx ends, so
// does the build.
//
// The sources are found from the working directory upwards, which is inside the repository for `go test` and `go run`.
func Binary(ctx context.Context, log io.Writer) (string, error) {
	if log == nil {
		log = io.Discard
	}
	source, err := sourceDir()
	if err != nil {
		return "", fmt.Errorf("find the control plane's source: %w", err)
	}
	key, err := buildKey(source)
	if err != nil {
		return "", fmt.Errorf("read the control plane's source: %w", err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the user's cache directory: %w", err)
	}
	return cachedBuild(ctx, source, filepath.Join(cache, "stoker", "controlplane", key), log)
}

// cachedBuild returns dir/controlplane and builds it from source if it is missing.
func cachedBuild(ctx context.Context, source, dir string, log io.Writer) (string, error) {
	target := filepath.Join(dir, "controlplane")
	if _, err := os.Stat(target); err == nil {
		return target, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make the cache directory of the control plane: %w", err)
	}
	unlock, err := lockFile(ctx, filepath.Join(dir, "lock"), func() {
		fmt.Fprintln(log, "waiting for another process that is building the control plane")
	})
	if err != nil {
		return "", fmt.Errorf("lock the cache directory of the control plane: %w", err)
	}
	defer unlock()
	if _, err := os.Stat(target); err == nil {
		return target, nil
	}
	if err := build(ctx, source, target, log); err != nil {
		return "", fmt.Errorf("build the control plane: %w", err)
	}
	return target, nil
}

// build runs the go command beside target and renames what it made, so that target is never half written.
func build(ctx context.Context, source, target string, log io.Writer) error {
	fmt.Fprintf(log, "building the control plane (Kubernetes %s and etcd) from source, about 8 minutes the first time on two cores\n", version)
	started := time.Now()
	partial := target + ".partial"
	defer os.Remove(partial)

	args := append([]string{"build"}, buildFlags()...)
	cmd := exec.CommandContext(ctx, "go", append(args, "-o", partial, ".")...)
	cmd.Dir = source
	// The platform is in the key, so it must be the one that is built; a workspace around the clone must not change the pins.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+runtime.GOOS, "GOARCH="+runtime.GOARCH, "GOWORK=off")
	// The go command ends its compilers and removes its work directory on an interrupt, which a kill would leave behind.
	cmd.SysProcAttr = tied(syscall.SIGINT)
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = 10 * time.Second
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output

	stopProgress := sayProgress(log, started)
	// See startProcess: the signal of tied comes when the thread that forked ends, so this one must not.
	runtime.LockOSThread()
	err := cmd.Run()
	runtime.UnlockOSThread()
	stopProgress()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, lastLines(output.Bytes()))
	}
	if err := os.Rename(partial, target); err != nil {
		return err
	}
	fmt.Fprintf(log, "built the control plane in %s: %s\n", time.Since(started).Round(time.Second), target)
	return nil
}

// sayProgress writes a line to log from time to time until the returned function is called.
func sayProgress(log io.Writer, started time.Time) (stop func()) {
	done := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		ticker := time.NewTicker(progressInterval)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				fmt.Fprintf(log, "still building the control plane, %s so far\n", time.Since(started).Round(time.Second))
			}
		}
	})
	return func() {
		close(done)
		running.Wait()
	}
}

// buildFlags are the go command's flags that decide what comes out. VCS stamping is off because the executable depends
// on the pinned modules, not on the commit of this repository.
func buildFlags() []string {
	return []string{"-mod=readonly", "-buildvcs=false", "-trimpath", "-ldflags", linkFlags}
}

// sourceDir finds test/controlplane from the working directory upwards.
func sourceDir() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		candidate := filepath.Join(dir, "test", "controlplane")
		if _, err := os.Stat(filepath.Join(candidate, "go.mod")); err == nil {
			return candidate, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no test/controlplane/go.mod in %s or above: run it inside a clone of the repository", start)
		}
	}
}

// buildKey is a digest over everything that decides what the executable is.
func buildKey(source string) (string, error) {
	files, err := filepath.Glob(filepath.Join(source, "*.go"))
	if err != nil {
		return "", err
	}
	files = append(files, filepath.Join(source, "go.mod"), filepath.Join(source, "go.sum"))
	slices.Sort(files)
	sum := sha256.New()
	fmt.Fprintf(sum, "%q %q %q %q\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, buildFlags())
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(sum, "%q %d\n", filepath.Base(file), len(content))
		sum.Write(content)
	}
	return hex.EncodeToString(sum.Sum(nil))[:16], nil
}
