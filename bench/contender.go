//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/stoker-project/stoker/bench/measure"
)

// contender is one way of getting the model.
type contender struct {
	// name tells it apart in tables; version is what it says of itself.
	name, version string
	// verifies says what it holds the bytes against.
	verifies string
	// command gets the model into an empty directory.
	command func(dir string) measure.Command
	// at is where a file of the model is in that directory then.
	at func(dir, path string) string
}

func plainly(dir, path string) string { return filepath.Join(dir, filepath.FromSlash(path)) }

// Names of contenders that ratios are made against.
const (
	nameFloor    = "verified floor"
	nameStoker   = "stoker pull"
	nameHub      = "huggingface_hub"
	nameChecking = "aria2c, checksums"
	nameS5cmd    = "s5cmd"
)

// environment is what every contender gets: nothing of ours.
func environment(dir string, more ...string) []string {
	return append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + dir, "LANG=C.UTF-8"}, more...)
}

// urls of the model's files, which the Hub redirects or answers.
func (s served) urlOf(f file) string {
	return s.URL + "/" + modelID + "/resolve/" + s.Revision + "/" + f.path
}

// floors are the least that a program can do.
func (b *bench) floors(hub served, files []file) []contender {
	var list strings.Builder
	for _, f := range files {
		fmt.Fprintf(&list, "%s\t%s\t%s\n", hub.urlOf(f), f.path, f.sha256)
	}
	one := func(name, verifies string, flags ...string) contender {
		return contender{
			name: name, verifies: verifies, at: plainly,
			command: func(dir string) measure.Command {
				args := append([]string{b.floor, "-dir", dir}, flags...)
				return measure.Command{Args: args, Env: environment(dir), Stdin: list.String()}
			},
		}
	}
	return []contender{
		one("floor", "no"),
		one(nameFloor, "sha256", "-verify"),
		one("the same, fsync", "sha256", "-verify", "-sync"),
		// What the kernel likes better: measured, it takes half of the time in write.
		one("the same, tuned", "sha256", "-verify", "-preallocate", "-buffer", "131072"),
	}
}

// stokerFromHub pulls into a store.
func (b *bench) stokerFromHub(ctx context.Context, hub served) contender {
	return b.stokerFrom(ctx, "hf://"+modelID, "HF_ENDPOINT="+hub.URL)
}

func (b *bench) stokerFrom(ctx context.Context, source string, env ...string) contender {
	return contender{
		name: nameStoker, version: version(ctx, b.stoker, "--version"), verifies: "sha256",
		command: func(dir string) measure.Command {
			return measure.Command{
				Args: []string{b.stoker, "pull", source, "--name", "model", "--store", filepath.Join(dir, "store")},
				Env:  environment(dir, env...),
			}
		},
		at: func(dir, path string) string {
			return plainly(filepath.Join(dir, "store", "models", "model", "current"), path)
		},
	}
}

// curlParallel fetches all files at once, a stream each.
func (b *bench) curlParallel(ctx context.Context, hub served, files []file) (contender, bool) {
	path, ok := b.find(b.curl, "curl", "apt-get install curl")
	if !ok {
		return contender{}, false
	}
	var config strings.Builder
	for _, f := range files {
		fmt.Fprintf(&config, "url = %q\noutput = %q\n", hub.urlOf(f), f.path)
	}
	return contender{
		name: "curl -Z", version: version(ctx, path, "--version"), verifies: "no", at: plainly,
		command: func(dir string) measure.Command {
			return measure.Command{
				// -q: not the user's own configuration.
				Args: []string{path, "-q", "-Z", "-L", "--fail", "--silent", "--show-error", "--create-dirs", "-K", "-"},
				Env:  environment(dir), Dir: dir, Stdin: config.String(),
			}
		},
	}, true
}

// aria2 is aria2c with and without checksums.
func (b *bench) aria2(ctx context.Context, hub served, files []file) []contender {
	path, ok := b.find(b.aria2c, "aria2c", "apt-get install aria2")
	if !ok {
		return nil
	}
	one := func(name, verifies string, checksums bool) contender {
		var list strings.Builder
		for _, f := range files {
			fmt.Fprintf(&list, "%s\n  out=%s\n", hub.urlOf(f), f.path)
			if checksums {
				fmt.Fprintf(&list, "  checksum=sha-256=%s\n", f.sha256)
			}
		}
		return contender{
			name: name, version: version(ctx, path, "--version"), verifies: verifies, at: plainly,
			command: func(dir string) measure.Command {
				return measure.Command{
					Args: []string{
						path, "--no-conf", "-x8", "-s8", "-j4", "-k1M", "--file-allocation=none",
						"--console-log-level=error", "--summary-interval=0", "-d", dir, "-i", "-",
					},
					Env: environment(dir), Stdin: list.String(),
				}
			},
		}
	}
	return []contender{one("aria2c", "no", false), one(nameChecking, "sha256", true)}
}

// hubClient is huggingface_hub's snapshot_download, as people call it.
func (b *bench) hubClient(ctx context.Context, hub served) (contender, bool) {
	path, ok := b.find(b.python, "a Python with huggingface_hub", "apt-get install python3-venv, then make bench")
	if !ok {
		return contender{}, false
	}
	const versions = `import importlib.metadata as m; print(" with ".join(n + " " + m.version(n) for n in ("huggingface_hub", "hf_xet")))`
	return contender{
		name: nameHub, version: version(ctx, path, "-c", versions), verifies: "size",
		command: func(dir string) measure.Command {
			return measure.Command{
				Args: []string{path, "-c", "from huggingface_hub import snapshot_download; print(snapshot_download('" + modelID + "'))"},
				Env:  environment(dir, "HF_ENDPOINT="+hub.URL, "HF_HOME="+filepath.Join(dir, "hf"), "HF_HUB_DISABLE_TELEMETRY=1"),
			}
		},
		at: func(dir, path string) string {
			folder := "models--" + strings.ReplaceAll(modelID, "/", "--")
			return plainly(filepath.Join(dir, "hf", "hub", folder, "snapshots", hub.Revision), path)
		},
	}, true
}

// find looks a peer up. One that is not there is said, and remembered.
func (b *bench) find(path, name, hint string) (string, bool) {
	if path != "" {
		if found, err := exec.LookPath(path); err == nil {
			return found, true
		}
	}
	b.say("MISSING: %s is not here, so it is not compared; to get it: %s", name, hint)
	b.missing = append(b.missing, name)
	return "", false
}

// version is the first line that a program says of itself.
func version(ctx context.Context, args ...string) string {
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).Output()
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if err != nil || line == "" {
		return ""
	}
	// curl goes on with all its libraries.
	line, _, _ = strings.Cut(line, " (")
	return line
}

// builtVersion is the version of a tool that the Makefile built: its folder is
// NAME-VERSION.
func builtVersion(path string) string {
	name, number, _ := strings.Cut(filepath.Base(filepath.Dir(path)), "-v")
	if number == "" {
		return filepath.Base(path)
	}
	return name + " " + number
}
