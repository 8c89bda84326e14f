package agent

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher/store"
)

// Whatever is in the place of the agent's memory, it begins anew, or says which file
// it is: it neither hangs nor reads more than its own files have.
func TestHostileMemory(t *testing.T) {
	for kind, plant := range map[string]func(path string) error{
		"pipe":   func(path string) error { return syscall.Mkfifo(path, 0o666) },
		"loop":   func(path string) error { return os.Symlink(filepath.Base(path), path) },
		"device": func(path string) error { return os.Symlink("/dev/zero", path) },
		"folder": func(path string) error { return os.Mkdir(path, 0o755) },
		"sparse": func(path string) error { return errors.Join(os.WriteFile(path, nil, 0o644), os.Truncate(path, 3<<40)) },
		"another user's": func(path string) error {
			return errors.Join(os.WriteFile(path, []byte(`{"version":1}`), 0o644), os.Chown(path, 4242, 4242))
		},
	} {
		t.Run(kind, func(t *testing.T) {
			if kind == "another user's" && os.Geteuid() != 0 {
				t.Skip("needs root, to give files away")
			}
			s, err := store.Open(filepath.Join(t.TempDir(), "store"))
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{memoryFile, speedFile, scrubFile, LastGoodFile} {
				if err := plant(s.AgentFile(name)); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := readMemory(s.AgentFile(memoryFile)); !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), memoryFile) {
				t.Errorf("memory: %v", err)
			}
			if _, err := readLaps(s.AgentFile(speedFile), time.Now()); !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), speedFile) {
				t.Errorf("speed: %v", err)
			}
			var log strings.Builder
			scrub := &scrubber{store: s, logger: slog.New(slog.NewTextHandler(&log, nil))}
			scrub.restore()
			if !strings.Contains(log.String(), scrubFile) {
				t.Errorf("scrub says %q", log.String())
			}
			_, err = LoadConfig(filepath.Join(t.TempDir(), "missing"), s.AgentFile(LastGoodFile))
			if !errors.Is(err, fs.ErrNotExist) || !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), LastGoodFile) {
				t.Errorf("configuration: %v", err)
			}
			for _, name := range []string{memoryFile, speedFile, scrubFile, LastGoodFile} {
				if err := s.WriteAgentFile(name, []byte("{}")); err != nil {
					t.Errorf("write %s: %v", name, err)
				}
				if got, err := store.ReadAgentFile(s.AgentFile(name)); err != nil || string(got) != "{}" {
					t.Errorf("%s afterwards: %q, %v", name, got, err)
				}
			}
		})
	}
}
