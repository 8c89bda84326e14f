package faults

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"github.com/stoker-project/stoker/test/ordeal"

	"golang.org/x/sys/unix"
)

// removals tells what processes remove from one file system, with who did it:
// fanotify names the process, as inotify does not.
type removals struct {
	events *os.File
	mount  *os.File // for opening folders by their handle
}

// removed is one name that is gone from a folder.
type removed struct {
	pid  int
	path string // below the file system's mount point
}

func watchRemovals(dir string) (*removals, error) {
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK|unix.FAN_REPORT_DFID_NAME|unix.FAN_UNLIMITED_QUEUE, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	r := &removals{events: os.NewFile(uintptr(fd), "fanotify")}
	mask := uint64(unix.FAN_DELETE | unix.FAN_MOVED_FROM | unix.FAN_ONDIR)
	if err := unix.FanotifyMark(fd, unix.FAN_MARK_ADD|unix.FAN_MARK_FILESYSTEM, mask, unix.AT_FDCWD, dir); err != nil {
		return nil, errors.Join(err, r.events.Close())
	}
	if r.mount, err = os.Open(dir); err != nil {
		return nil, errors.Join(err, r.events.Close())
	}
	return r, nil
}

// close ends the watching. It must come before the unmounting.
func (r *removals) close() error { return errors.Join(r.events.Close(), r.mount.Close()) }

// run calls tell for each removal until close.
func (r *removals) run(tell func(removed)) {
	buf := make([]byte, 256<<10)
	for {
		n, err := r.events.Read(buf)
		if err != nil || n == 0 {
			return
		}
		for rest := buf[:n]; len(rest) >= int(unsafe.Sizeof(unix.FanotifyEventMetadata{})); {
			length := binary.NativeEndian.Uint32(rest)
			if e, ok := r.decode(rest[:length]); ok {
				tell(e)
			}
			rest = rest[length:]
		}
	}
}

// Sizes in the kernel's struct fanotify_event_info_fid: the record's header,
// the file system's id, and a handle's own two numbers.
const (
	recordHeader = 4
	fsid         = 8
	handleHeader = 8
)

// decode reads one event: its metadata, then a record of the folder's handle
// and the name in it.
func (r *removals) decode(event []byte) (removed, bool) {
	meta := (*unix.FanotifyEventMetadata)(unsafe.Pointer(&event[0]))
	record := event[meta.Metadata_len:]
	if len(record) < recordHeader+fsid+handleHeader || record[0] != unix.FAN_EVENT_INFO_TYPE_DFID_NAME {
		return removed{}, false
	}
	handle := record[recordHeader+fsid:]
	size := binary.NativeEndian.Uint32(handle)
	kind := int32(binary.NativeEndian.Uint32(handle[4:]))
	id := handle[handleHeader : handleHeader+size]
	name, _, _ := bytes.Cut(handle[handleHeader+size:], []byte{0})
	fd, err := unix.OpenByHandleAt(int(r.mount.Fd()), unix.NewFileHandle(kind, id), unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return removed{}, false // the folder itself is gone
	}
	defer unix.Close(fd)
	dir, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return removed{}, false
	}
	path, err := filepath.Rel(r.mount.Name(), filepath.Join(strings.TrimSuffix(dir, " (deleted)"), string(name)))
	return removed{pid: int(meta.Pid), path: path}, err == nil
}

// sawRemoval judges a removal by the agent: what a label promises at this
// moment must not go.
func (w *world) sawRemoval(ctx context.Context, e removed) {
	p := w.agent.Load()
	if p == nil || p.PID() != e.pid {
		return
	}
	parts := strings.Split(e.path, string(filepath.Separator))
	switch {
	case len(parts) == 3 && parts[0] == "blobs":
		w.source.Lost(parts[2])
		for _, commit := range w.source.CommitsWith(parts[2]) {
			w.mustNotPromise(ctx, e.path, "", commit)
		}
	case len(parts) == 3 && parts[0] == "manifests" && strings.HasSuffix(parts[2], ".json") && parts[2][0] != '.':
		w.mustNotPromise(ctx, e.path, parts[1], strings.TrimSuffix(parts[2], ".json"))
	case len(parts) >= 4 && parts[0] == "models" && parts[len(parts)-1][0] != '.':
		w.mustNotPromise(ctx, e.path, parts[1], parts[2])
	}
}

// mustNotPromise fails if the API server still promises a commit, by a label
// that has stood since before the removal: one that came since then is of a
// later pull.
func (w *world) mustNotPromise(ctx context.Context, path, name, commit string) {
	n, err := w.getNode(ctx)
	if err != nil {
		if ctx.Err() == nil {
			w.fail("read the Node: %v", err)
		}
		return
	}
	for model, revision := range ordeal.Promises(n.Labels) {
		if (name != "" && name != model) || revision != commit[:min(len(commit), ordeal.RevLength)] {
			continue
		}
		// Blobs that have just lost their manifest may go with what nothing refers to.
		if name == "" && w.justDamaged(model) {
			continue
		}
		if w.history.stood(promise{model, revision}, 3*time.Second) {
			w.fail("the agent removed %s while the Node says that %s is warm at %s", path, model, revision)
		}
	}
}
