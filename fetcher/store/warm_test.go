package store_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stoker-project/stoker/fetcher/headroom/cgrouptest"
	"github.com/stoker-project/stoker/fetcher/store"
)

// warmBlob reads a whole blob into memory, as an agent does.
func warmBlob(t *testing.T, s *store.Store, sum string) (read int64, cold store.Reading) {
	t.Helper()
	for at, done := int64(0), false; !done; {
		w, err := s.Warm(t.Context(), sum, at)
		if err != nil {
			t.Fatal(err)
		}
		if w.Next <= at && !w.Done {
			t.Fatalf("it stays at %d", at)
		}
		at, done, read = w.Next, w.Done, read+w.Read
		cold.Bytes, cold.Took = cold.Bytes+w.Cold.Bytes, cold.Took+w.Cold.Took
	}
	return read, cold
}

// What is said to be in memory is what mincore, asked by the owner about each page
// of the file's own cache, says as well.
func TestResidentAndWarm(t *testing.T) {
	image := func(mkfs ...string) func(*testing.T) string {
		return func(t *testing.T) string { t.Helper(); return mountImage(t, mkfs...) }
	}
	for name, volume := range map[string]func(*testing.T) string{
		"the machine's own":        func(t *testing.T) string { t.Helper(); return t.TempDir() },
		"ext4":                     image("mkfs.ext4", "-q", "-b", "4096"),
		"ext4 with a data journal": journaled,
		"ext2":                     image("mkfs.ext2", "-q", "-b", "4096"),
		"overlay": func(t *testing.T) string {
			t.Helper()
			return overlaid(t, mountImage(t, "mkfs.ext4", "-q", "-b", "4096"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, filepath.Join(volume(t), "store"))
			content := strings.Repeat("weights!", 3<<17) + "the end" // 3 MiB and a bit
			publish(t, s, "tiny", repo, commitA, map[string]string{"model.safetensors": content, "empty": ""})
			sum, size := sumOf(content), int64(len(content))
			path := s.BlobPath(sum)
			pages := func() int64 {
				return min(size, int64(bytes.Count(cached(t, path), []byte{1}))*int64(os.Getpagesize()))
			}
			resident := func() int64 {
				t.Helper()
				n, err := s.Resident(t.Context(), sum)
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
			cool(t, path)
			if n := resident(); n > int64(os.Getpagesize()) {
				t.Errorf("of a cold blob %d bytes are resident", n)
			}
			warm(t, path, 1<<20, 2<<20)
			if got, want := resident(), pages(); got != want || want < 1<<20 || want >= size {
				t.Errorf("%d bytes are resident, mincore says %d", got, want)
			}
			cool(t, path)
			if read, cold := warmBlob(t, s, sum); read != size || cold.Bytes < size-64<<10 || cold.Bytes > size || cold.Took <= 0 {
				t.Errorf("read %d of %d bytes, %d of them from the disk in %s", read, size, cold.Bytes, cold.Took)
			}
			if got, want := resident(), pages(); got != size || want != size {
				t.Errorf("of %d warmed bytes %d are resident, mincore says %d", size, got, want)
			}
			if read, cold := warmBlob(t, s, sum); read != 0 || cold != (store.Reading{}) {
				t.Errorf("of a warm blob %d bytes were read again, in %s", read, cold.Took)
			}
			if n, err := s.Resident(t.Context(), sumOf("")); n != 0 || err != nil {
				t.Errorf("of nothing %d bytes are resident: %v", n, err)
			}
			if read, _ := warmBlob(t, s, sumOf("")); read != 0 {
				t.Errorf("of nothing %d bytes were read", read)
			}
		})
	}
}

func TestResidentOfWhatIsNoBlob(t *testing.T) {
	s := newStore(t)
	sum := sumOf("weights")
	for name, make := range map[string]func(){
		"nothing": func() {},
		"a pipe":  func() { must(t, syscall.Mkfifo(s.BlobPath(sum), 0o644)) },
		"a link": func() {
			must(t, os.Remove(s.BlobPath(sum)))
			must(t, os.Symlink("/etc/passwd", s.BlobPath(sum)))
		},
	} {
		if name == "a link" {
			must(t, os.WriteFile(s.BlobPath(sum), nil, 0o644))
		}
		make()
		if _, err := s.Resident(t.Context(), sum); !errors.Is(err, store.ErrUnverified) {
			t.Errorf("of %s: %v", name, err)
		}
		if _, err := s.Warm(t.Context(), sum, 0); !errors.Is(err, store.ErrUnverified) {
			t.Errorf("warm %s: %v", name, err)
		}
		must(t, os.RemoveAll(s.BlobPath(sum)))
	}
	if _, err := s.Warm(t.Context(), "../../etc/passwd", 0); err == nil {
		t.Error("warmed a path")
	}
}

// Of another user's files mincore says that all is there, and cachestat nothing.
func TestResidentOfAnothersFiles(t *testing.T) {
	if dir := os.Getenv("STOKER_TEST_RESIDENT"); dir != "" {
		s, err := store.OpenReadOnly(dir)
		must(t, err)
		if n, err := s.Resident(t.Context(), sumOf("weights")); !errors.Is(err, store.ErrUnmeasurable) {
			t.Errorf("%d bytes are resident: %v", n, err)
		}
		if w, err := s.Warm(t.Context(), sumOf("weights"), 0); !errors.Is(err, store.ErrUnmeasurable) || w.Read != 0 {
			t.Errorf("%d bytes were read: %v", w.Read, err)
		}
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, not root: there is no other user to be")
	}
	dir := t.TempDir()
	must(t, os.Chmod(filepath.Dir(dir), 0o755)) // the other user has to pass
	s := open(t, filepath.Join(dir, "store"))
	publish(t, s, "tiny", repo, commitA, tiny)
	self, err := os.ReadFile("/proc/self/exe")
	must(t, err)
	binary := filepath.Join(dir, "test")
	must(t, os.WriteFile(binary, self, 0o755))
	cmd := exec.CommandContext(t.Context(), binary, "-test.run=^TestResidentOfAnothersFiles$", "-test.v")
	cmd.Env = append(os.Environ(), "STOKER_TEST_RESIDENT="+s.Dir())
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("PASS")) {
		t.Errorf("%v\n%s", err, out)
	}
}

// What a process brings into memory is charged to its cgroup, and leaves at its
// limit; what others have brought stay theirs. That is what a budget rests on.
func TestWarmInAMemoryCgroup(t *testing.T) {
	if dir := os.Getenv("STOKER_TEST_WARM"); dir != "" {
		_, err := os.Stdin.Read(make([]byte, 1)) // it is in the cgroup now
		must(t, err)
		s, err := store.OpenExisting(dir)
		must(t, err)
		warmBlob(t, s, os.Getenv("STOKER_TEST_SUM"))
		return
	}
	const size, limit = 192 << 20, 48 << 20
	s := newStore(t)
	content := strings.Repeat("0123456789abcdef", size/16)
	publish(t, s, "large", repo, commitA, map[string]string{"model.safetensors": content})
	sum := sumOf(content)
	group := cgrouptest.New(t, limit)
	warmThere := func() {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestWarmInAMemoryCgroup$")
		cmd.Env = append(os.Environ(), "STOKER_TEST_WARM="+s.Dir(), "STOKER_TEST_SUM="+sum)
		in, err := cmd.StdinPipe()
		must(t, err)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		must(t, cmd.Start())
		group.Enter(cmd.Process.Pid)
		_, err = in.Write([]byte("x"))
		must(t, err)
		if err := cmd.Wait(); err != nil {
			t.Fatalf("the process in the cgroup: %v\n%s", err, out.String())
		}
	}
	resident := func() int64 {
		t.Helper()
		n, err := s.Resident(t.Context(), sum)
		must(t, err)
		return n
	}
	cool(t, s.BlobPath(sum))
	warmThere()
	n := resident()
	t.Logf("of %d MiB warmed below a limit of %d MiB, %d MiB stay", size>>20, limit>>20, n>>20)
	if n > limit || n < limit/4 {
		t.Errorf("%d bytes are resident", n)
	}
	group.CheckNoneKilled()
	cool(t, s.BlobPath(sum)) // what the group brought may leave for the next process's own memory
	warmBlob(t, s, sum)
	if n := resident(); n != size {
		t.Fatalf("this process has brought %d of %d bytes", n, size)
	}
	warmThere()
	if n := resident(); n != size {
		t.Errorf("of what was there, %d of %d bytes are left", n, size)
	}
}
