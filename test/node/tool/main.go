// Command tool is the program in the containers of the tests on a real node. As `tool pause` it holds a pod's
// namespaces; as `tool read` it is what a serving container would be to Stoker: it reads the model at /stoker/model to
// the last byte, tries to write where it must not, and tells what it saw over HTTP on port 8080. `tool start` only tells
// when it started, for comparison.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Seen is what `tool read` saw.
type Seen struct {
	// Started is when the program began, and Opened when it had opened every file of the model and read its first byte.
	Started time.Time `json:"started"`
	Opened  time.Time `json:"opened"`
	// Model is where /stoker/model leads.
	Model string `json:"model"`
	// Files are the SHA-256 of the model's files by path, and Bytes how many were read.
	Files map[string]string `json:"files"`
	Bytes int64             `json:"bytes"`
	// Seconds that reading took.
	Seconds float64 `json:"seconds"`
	// Writes are attempts to change something, and how each failed; empty: it did not.
	Writes map[string]string `json:"writes"`
	// Env are the variables that begin with HF_ or TRANSFORMERS_.
	Env map[string]string `json:"env"`
	UID int               `json:"uid"`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	started := time.Now()
	switch {
	case len(args) == 0 || args[0] == "pause":
		<-ctx.Done()
		return nil
	case args[0] == "start":
		return serve(ctx, Seen{Started: started})
	case args[0] == "read":
		seen, err := look("/stoker/model")
		if err != nil {
			return err
		}
		seen.Started = started
		return serve(ctx, seen)
	}
	return fmt.Errorf("use pause, start or read, not %q", args[0])
}

func look(model string) (Seen, error) {
	target, err := os.Readlink(model)
	if err != nil {
		return Seen{}, err
	}
	seen := Seen{Model: target, Files: map[string]string{}, Env: map[string]string{}, UID: os.Getuid()}
	if err := open(target); err != nil {
		return Seen{}, err
	}
	seen.Opened = time.Now()
	if err := seen.read(target); err != nil {
		return Seen{}, err
	}
	seen.Seconds = time.Since(seen.Opened).Seconds()
	for _, variable := range os.Environ() {
		if name, value, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "HF_") || strings.HasPrefix(name, "TRANSFORMERS_") {
			seen.Env[name] = value
		}
	}
	seen.tryToWrite(target)
	return seen, nil
}

// open reads the first byte of every file of the model.
func open(dir string) error {
	return eachFile(dir, func(_ string, file *os.File) error {
		if _, err := file.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			return err
		}
		return nil // an empty one
	})
}

// eachFile calls f with every file of the model: links into the store's blobs.
func eachFile(dir string, f func(path string, file *os.File) error) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer file.Close()
		return f(path, file)
	})
}

// read hashes every file of the model.
func (s *Seen) read(dir string) error {
	return eachFile(dir, func(path string, file *os.File) error {
		sum := sha256.New()
		n, err := io.Copy(sum, file)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		s.Files[filepath.ToSlash(name)] = hex.EncodeToString(sum.Sum(nil))
		s.Bytes += n
		return nil
	})
}

// tryToWrite does what a container must not be able to do to the store and to the pinned path.
func (s *Seen) tryToWrite(model string) {
	file := filepath.Join(model, "config.json")
	blob, err := filepath.EvalSymlinks(file)
	if err != nil {
		blob = file
	}
	s.Writes = map[string]string{}
	for what, try := range map[string]func() error{
		"create a file in the store": func() error { return os.WriteFile("/models/intruder", nil, 0o600) },
		"remove a file of the model": func() error { return os.Remove(file) },
		"overwrite a blob": func() error {
			f, err := os.OpenFile(blob, os.O_WRONLY, 0)
			if err == nil {
				err = f.Close()
			}
			return err
		},
		"make a blob writable": func() error { return os.Chmod(blob, 0o666) },
		"move the pin":         func() error { return os.Remove("/stoker/model") },
	} {
		s.Writes[what] = ""
		if err := try(); err != nil {
			s.Writes[what] = err.Error()
		}
	}
}

// serve tells everybody who asks, until ctx ends.
func serve(ctx context.Context, seen Seen) error {
	body, err := json.Marshal(seen)
	if err != nil {
		return err
	}
	server := &http.Server{
		Addr: ":8080", ReadHeaderTimeout: 5 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) }),
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
