package headroom

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stoker-project/stoker/fetcher/headroom/cgrouptest"
)

const meminfo = "MemTotal:       24689888 kB\nMemFree:  1 kB\nMemAvailable:   20000000 kB\n"

func TestRead(t *testing.T) {
	const (
		v1Line     = "31 24 0:27 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
		v1Own      = "31 24 0:27 /pods/pod1/box /sys/fs/cgroup/memory ro,relatime - cgroup cgroup rw,memory\n"
		v2Line     = "32 24 0:28 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n"
		v2Beside   = "32 24 0:28 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
		otherMount = "30 24 0:26 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"
		none       = "9223372036854771712\n"
	)
	for name, tc := range map[string]struct {
		own, mounts string
		files       map[string]string // below /sys/fs/cgroup
		limit       int64
		wrong       bool
	}{
		"no cgroups": {limit: None},
		"version 1, none anywhere": {
			own: "4:memory:/a\n", mounts: otherMount + v1Line,
			files: map[string]string{"memory/memory.limit_in_bytes": none, "memory/a/memory.limit_in_bytes": none}, limit: None,
		},
		"version 1, the parent's is less": {
			own: "8:pids:/z\n4:cpu,memory:/a/b\n", mounts: v1Line,
			files: map[string]string{
				"memory/memory.limit_in_bytes": none, "memory/a/memory.limit_in_bytes": "1000\n", "memory/a/b/memory.limit_in_bytes": "2000\n",
			}, limit: 1000,
		},
		"version 1, in a container": {
			own: "4:memory:/pods/pod1/box\n", mounts: v1Own,
			files: map[string]string{"memory/memory.limit_in_bytes": "3000\n"}, limit: 3000,
		},
		"version 2, in a container": {
			own: "0::/\n", mounts: v2Line,
			files: map[string]string{"memory.max": "5000\n", "memory.high": "max\n"}, limit: 5000,
		},
		"version 2, throttled before its limit": {
			own: "0::/a\n", mounts: v2Line,
			files: map[string]string{"a/memory.max": "5000\n", "a/memory.high": "4000\n"}, limit: 4000,
		},
		"version 2, outside of what is mounted": {
			own: "0::/../other\n", mounts: v2Line,
			files: map[string]string{"memory.max": "6000\n"}, limit: 6000,
		},
		"both, version 2 without memory": {
			own: "4:memory:/a\n0::/\n", mounts: v1Line + v2Beside,
			files: map[string]string{"memory/a/memory.limit_in_bytes": "7000\n"}, limit: 7000,
		},
		"a file that is no limit": {
			own: "0::/\n", mounts: v2Line, files: map[string]string{"memory.max": "lots\n"}, limit: None, wrong: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			write := func(path, content string) {
				t.Helper()
				path = filepath.Join(root, path)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			write("proc/meminfo", meminfo)
			if tc.own != "" {
				write("proc/self/cgroup", tc.own)
				write("proc/self/mountinfo", tc.mounts)
			}
			for file, content := range tc.files {
				write("sys/fs/cgroup/"+file, content)
			}
			got, err := read(root)
			if (err != nil) != tc.wrong {
				t.Fatalf("err = %v", err)
			}
			want := State{Total: 24689888 << 10, Available: 20000000 << 10, Limit: tc.limit}
			if got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
			if most := got.Most(); most != min(want.Total, tc.limit) {
				t.Errorf("at most %d", most)
			}
		})
	}
	if s, err := read(t.TempDir()); err == nil || s.Most() != None {
		t.Errorf("of nothing it reads %+v: %v", s, err)
	}
}

// What this machine says, in a cgroup with a limit if this process may make one.
func TestReadThisMachine(t *testing.T) {
	s, err := Read()
	if err != nil || s.Total < 64<<20 || s.Available <= 0 || s.Available > s.Total || s.Limit < 1<<20 {
		t.Fatalf("%+v: %v", s, err)
	}
	cgrouptest.New(t, 300<<20).EnterSelf()
	if s, err := Read(); err != nil || s.Limit != 300<<20 {
		t.Errorf("with a limit of 300 MiB it reads %+v: %v", s, err)
	}
}
