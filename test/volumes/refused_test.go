package volumes

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/stoker-project/stoker/fetcher/store"
)

// A volume that refuses this user is told of in one line, by name, with what to do,
// and what only reads works.
func TestVolumeThatRefuses(t *testing.T) {
	t.Parallel()
	for errno, want := range map[syscall.Errno]string{
		syscall.EROFS:  "is mounted writable, but refuses every change as a read-only one does; make it writable where it comes from, or choose another with --store",
		syscall.EACCES: "refuses root (permission denied): ",
		syscall.EPERM:  "refuses root (operation not permitted): ",
	} {
		t.Run(errno.Error(), func(t *testing.T) {
			t.Parallel()
			var c changes
			at := mount(t, t.TempDir(), faults{changes: &c})
			dir, model := filepath.Join(at, "store"), source(t, nil)
			pull(t, model, dir)
			all := commands(t, dir)
			for _, name := range []string{"fit", "gpus"} { // which its files are too small for
				delete(all, name)
			}
			all["pull of what is not there"] = []string{"pull", model, "--store", filepath.Join(at, "new"), "--progress", "none"}
			all["verify of what is damaged"] = []string{"verify", "--store", dir}
			reads := map[string]bool{"ls": true, "verify": true, "wait": true, "gc": true} // of which gc has nothing to do
			run := func(names ...string) {
				for _, name := range names {
					var out bytes.Buffer
					code := stoker(t, &out, all[name]...)
					if reads[name] {
						if code != 0 {
							t.Errorf("%s ends with %d: %s", name, code, out.String())
						}
						continue
					}
					text := strings.TrimPrefix(out.String(), "verifying tiny:   0%, 0 B of 15 B\n")
					begin := fmt.Sprintf("stoker: use store %s", strings.TrimSuffix(at, "/"))
					if code != 1 || strings.Count(text, "\n") != 1 || !strings.HasPrefix(text, begin) || !strings.Contains(text, ": fuse.weak weak, mounted at "+at+", "+want) {
						t.Errorf("%s ends with %d: %s", name, code, text)
					}
				}
			}
			c.arm(fuse.Status(errno), 1, every)
			run("ls", "verify", "wait", "gc", "rm", "pull", "populate", "pull of what is not there")
			c.arm(fuse.OK, 0, 0)
			s, err := store.OpenReadOnly(dir)
			if err != nil {
				t.Fatal(err)
			}
			m, err := s.Lookup("tiny")
			if err == nil {
				err = os.Truncate(s.BlobPath(weights(m).SHA256), 1)
			}
			if err != nil {
				t.Fatal(err)
			}
			c.arm(fuse.Status(errno), 1, every)
			run("verify of what is damaged")
		})
	}
}
