//go:build cgo && linux

package gpu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/google/go-cmp/cmp"
)

// driver is a machine whose driver is the library for tests: its switches, and
// the files that Linux would have.
type driver struct {
	dir     string
	command Command
}

func newDriver(t *testing.T, flags ...string) driver {
	t.Helper()
	d := driver{dir: t.TempDir()}
	compileLibrary(t, filepath.Join(d.dir, "libnvidia-ml.so.1"), flags...)
	d.command = childCommand(t, "answer", "LD_LIBRARY_PATH="+d.dir, "NVML_TEST_DIR="+d.dir, rootVariable+"="+d.dir)
	return d
}

// set writes files: a switch of the library, or a file of the machine.
func (d driver) set(t *testing.T, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(d.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// reset takes back what was set.
func (d driver) reset(t *testing.T) {
	t.Helper()
	names, err := fs.Glob(os.DirFS(d.dir), "*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if name != "libnvidia-ml.so.1" {
			if err := os.RemoveAll(filepath.Join(d.dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func code(ret nvml.Return) string { return strconv.Itoa(int(ret)) }

// TestWorseTruths loads a real library that does what drivers do at their worst.
func TestWorseTruths(t *testing.T) {
	driver := newDriver(t, "-DMODERN")
	const meminfo = "MemTotal:  1048576 kB\nMemFree:  1024 kB\nMemAvailable:  524288 kB\nCached:  500000 kB\nHugePages_Total:       0\n"
	tests := map[string]struct {
		files map[string]string
		want  string // "STATE TOTAL USABLE FREE USED RESERVED CACHE [unified]" in MiB, then why it is not usable
	}{
		"a board": {nil, "ok 16384 15872 12288 3584 512 0"},
		"GB10, whose memory NVML does not know": {
			map[string]string{"memory": code(nvml.ERROR_NOT_SUPPORTED), "capability": "121", "proc/meminfo": meminfo},
			"ok 1024 1024 512 512 0 0 unified",
		},
		"Orin, whose driver reports the machine's memory": {
			map[string]string{"capability": "87", "total": "1024", "free": "1", "proc/meminfo": meminfo},
			"ok 1024 1024 512 512 0 0 unified",
		},
		"an integrated GPU that this package does not know": {
			map[string]string{"memory": code(nvml.ERROR_NOT_SUPPORTED), "capability": "133", "proc/meminfo": meminfo},
			"ok 1024 1024 512 512 0 0 unified",
		},
		"a machine that hides its memory": {
			map[string]string{"capability": "121"}, "unknown 0 0 0 0 0 0: GPU 0 shares the machine's memory, which cannot be read: open DIR/proc/meminfo: no such file or directory",
		},
		"a machine whose kernel is too old": {
			map[string]string{"capability": "121", "proc/meminfo": "MemTotal: 5 kB\n"}, "unknown 0 0 0 0 0 0: GPU 0 shares the machine's memory, which cannot be read: DIR/proc/meminfo has no MemTotal and MemAvailable",
		},
		"GH200, whose memory is a NUMA node with page cache": {
			map[string]string{"numa": "1", "free": "2048", "sys/devices/system/node/node1/meminfo": "Node 1 MemFree:  2097152 kB\nNode 1 FilePages:  8388608 kB\nNode 1 Shmem:  1048576 kB\nNode 1 SReclaimable:  1024 kB\n"},
			"ok 16384 15872 2048 13824 512 7169",
		},
		"more page cache than is in use": {
			map[string]string{"numa": "1", "sys/devices/system/node/node1/meminfo": "Node 1 FilePages:  88388608 kB\n"},
			"ok 16384 15872 12288 3584 512 3584",
		},
		"a NUMA node that is not shown": {map[string]string{"numa": "1"}, "ok 16384 15872 12288 3584 512 0"},
		"no permission":                 {map[string]string{"memory": code(nvml.ERROR_NO_PERMISSION)}, "no-permission 0 0 0 0 0 0: read the memory of GPU 0: no permission to read the GPU (NVML error 4)"},
		"the fabric manager not running": {
			map[string]string{"fabric": "1"},
			"ok 16384 15872 12288 3584 512 0: its NVLink fabric is not up (not-started), so CUDA cannot initialize (error 802); start nvidia-fabricmanager on the node, in the driver's version",
		},
		"the fabric manager at work": {
			map[string]string{"fabric": "2"},
			"ok 16384 15872 12288 3584 512 0: its NVLink fabric is not up (in-progress), so CUDA cannot initialize (error 802); start nvidia-fabricmanager on the node, in the driver's version",
		},
		"the fabric is up":         {map[string]string{"fabric": "3"}, "ok 16384 15872 12288 3584 512 0"},
		"the fabric failed":        {map[string]string{"fabric": "3", "fabric-status": code(nvml.ERROR_UNKNOWN)}, "ok 16384 15872 12288 3584 512 0"},
		"a status without a state": {map[string]string{"fabric": "0", "fabric-status": code(nvml.ERROR_UNKNOWN)}, "ok 16384 15872 12288 3584 512 0"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			driver.reset(t)
			driver.set(t, test.files)
			driver.set(t, map[string]string{"recovery": "0"})
			list, err := childReader(t, driver.command).Devices(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			d := list[0]
			mib := func(bytes uint64) uint64 { return bytes >> 20 }
			got := string(d.State) + " " + fmt.Sprint(mib(d.TotalBytes), mib(d.UsableBytes), mib(d.FreeBytes), mib(d.UsedBytes), mib(d.ReservedBytes), mib(d.PageCacheBytes))
			if d.UnifiedMemory {
				got += " unified"
			}
			if why := d.Obstacle(); why != "" {
				got += ": " + strings.ReplaceAll(why, driver.dir, "DIR")
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if failed := name == "the fabric failed"; failed != (d.Fabric == FabricFailed) {
				t.Errorf("the fabric is %q", d.Fabric)
			}
		})
	}
}

// An unknown error of the whole driver says what it most often is, in the words
// that nvidia-smi has for it too; that of one GPU among others is that GPU's.
func TestContainerThatLostItsGPUs(t *testing.T) {
	driver := newDriver(t)
	r := childReader(t, driver.command)
	if _, err := r.Devices(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, lost := range []string{"init", "handle"} {
		driver.reset(t)
		driver.set(t, map[string]string{lost: code(nvml.ERROR_UNKNOWN)})
		_, err := r.Devices(t.Context())
		if !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "systemctl daemon-reload on the node: restart the pod") || !strings.Contains(err.Error(), "NVML error 999") {
			t.Errorf("%s: %v", lost, err)
		}
	}
	driver.reset(t)
	if list, err := r.Devices(t.Context()); err != nil || list[0].State != StateOK {
		t.Errorf("afterwards: %+v, %v", list, err)
	}
}

// A library that crashes its process is one sentence.
func TestLibraryThatCrashes(t *testing.T) {
	driver := newDriver(t)
	driver.set(t, map[string]string{"crash": ""})
	list, err := childReader(t, driver.command).Devices(t.Context())
	const want = "read GPUs: NVIDIA's library crashed the process that was to read them (SIGSEGV: segmentation violation); nothing else was harmed: reinstall the driver on the node, or report it to NVIDIA"
	if err == nil || err.Error() != want {
		t.Errorf("%v, %v; want %q", list, err, want)
	}
}

func (b *nvmlBackend) setRoot(root string) { b.root = root }
