package store

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// FuzzStatus: whatever stands in place of a status and a heartbeat is one, or an error
// that `wait` knows.
func FuzzStatus(f *testing.F) {
	good := `{"name":"m","state":"pulling","bytes":1,"total":2,"reason":"x","time":"2026-01-01T00:00:00Z"}`
	for _, text := range []string{
		good, "", "{", "null", "[]", "0", good + good, good[:20], strings.Replace(good, ":1", ":1e400", 1), strings.Replace(good, ":1", ":-9223372036854775808", 1),
		strings.Replace(good, "2026-01", "99999-99", 1), strings.Repeat("[", 100_000), strings.Replace(good, "x", "\\u001b[2J\\ud800", 1), "\xff\xfe",
	} {
		f.Add([]byte(text))
	}
	s, err := Open(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, name := range []string{"m", heartbeatName} {
			if err := os.WriteFile(s.statusPath(name), text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.ReadStatus("m"); err != nil && !errors.Is(err, ErrCorrupt) {
			t.Errorf("%q: status: %v", text, err)
		}
		if _, err := s.ReadHeartbeat(); err != nil && !errors.Is(err, ErrCorrupt) {
			t.Errorf("%q: heartbeat: %v", text, err)
		}
	})
}

// FuzzRecord: nothing in place of a blob's record makes other bytes pass for verified.
func FuzzRecord(f *testing.F) {
	s, err := Open(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	const sum = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881" // of "x"
	if err := os.MkdirAll(filepath.Dir(s.recordPath(sum)), 0o755); err != nil {
		f.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(s.BlobPath(sum)), 0o755); err != nil {
		f.Fatal(err)
	}
	if err := os.WriteFile(s.BlobPath(sum), []byte("y"), blobMode); err != nil {
		f.Fatal(err)
	}
	// No record that could be guessed is of this time.
	if err := os.Chtimes(s.BlobPath(sum), time.Time{}, time.Unix(1_234_567_890, 987_654_321)); err != nil {
		f.Fatal(err)
	}
	for _, text := range []string{
		"", "{", "null", "{}", "[]", `{"size":1}`, `{"size":1,"mtimeNs":0,"inode":0}`, `{"size":1e99}`, `{"size":-1}`, strings.Repeat("[", 100_000),
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(s.recordPath(sum), text, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := s.statBlob(sum, 1); !errors.Is(err, ErrUnverified) && !errors.Is(err, ErrCorrupt) {
			t.Errorf("%q: %v", text, err)
		}
	})
}

// FuzzMountTable: a mount that is found has a point above the path.
func FuzzMountTable(f *testing.F) {
	line := "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"
	for _, table := range []string{
		line, "", "\n", " - \n", "36 35 98:0 /  - \n", strings.Replace(line, "/mnt2", `/a\040b\134\9`, 1), strings.Replace(line, "/dev/root", "", 1),
		"1 2 3 4 / 6 - x", line + strings.Replace(line, "/mnt2", "/", 1), strings.Replace(line, " - ", " ", 1),
	} {
		f.Add(table, "/mnt2/models", uint64(36))
		f.Add(table, "/", uint64(1))
	}
	f.Fuzz(func(t *testing.T, table, path string, id uint64) {
		if m, ok := mountInTable(table, path); ok && m.Point != "/" && path != m.Point && !strings.HasPrefix(path, m.Point+"/") {
			t.Errorf("%q has %q on %+v", table, path, m)
		}
		if m, ok := findMount(table, id); ok && m.Type == "" {
			t.Errorf("%q: mount %d is %+v", table, id, m)
		}
	})
}

// FuzzID: whatever stands in place of the store's id, the store opens for reading, and
// tells an id that fits in a line.
func FuzzID(f *testing.F) {
	for _, text := range []string{"", "x\n", "\x00", "a\nb", strings.Repeat("a", 1<<16)} {
		f.Add([]byte(text))
	}
	dir := f.TempDir()
	s, err := Open(dir)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(s.AgentFile(idFile), text, 0o644); err != nil {
			t.Fatal(err)
		}
		opened, err := OpenReadOnly(dir)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		id, err := opened.readID()
		if err == nil && (id != string(bytes.TrimSpace([]byte(id)))) {
			t.Errorf("%q is the id %q", text, id)
		}
		if err != nil && errors.Is(err, unix.EISDIR) {
			t.Error(err)
		}
	})
}
