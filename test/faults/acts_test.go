package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/stoker-project/stoker/test/ordeal"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/stoker-project/stoker/fetcher/fetchertest"
)

const (
	termSignal = syscall.SIGTERM
	stopSignal = syscall.SIGSTOP
)

// must fails the walk if the harness itself cannot do something.
func (w *world) must(doing string, err error) {
	if err != nil {
		w.fail("%s: %v", doing, err)
	}
}

// powerCut takes the power away from agent and disk at one moment, and gives it
// back: what was not on the disk is gone, and the kernel is another boot's.
func (w *world) powerCut() {
	w.diskMu.Lock()
	defer w.diskMu.Unlock()
	w.source.Killed()
	w.source.PowerLost(time.Now())
	if p := w.agent.Load(); p != nil {
		// Before the disk, so that nobody is left who could see it die.
		p.ending.Store(true)
		p.Signal(killSignal)
	}
	w.must("cut the power", w.disk.die())
	w.remount()
}

// remount ends the agent and mounts what is on the disk. w.diskMu is held.
func (w *world) remount() {
	w.endAgent(killSignal)
	w.unwatchDisk()
	w.must("boot", w.disk.newBoot())
	w.must("unmount", w.disk.unmount())
	w.must("mount", w.disk.mount())
	w.reader.Forget()
	w.diskState.Store(nil)
	w.watchDisk()
	w.ensureAgent()
}

// deadDisk has every call to the disk fail for a while, with the agent alive.
func (w *world) deadDisk(length time.Duration) {
	w.damage(w.names()...)
	w.diskMu.Lock()
	state := "a dead disk"
	w.diskState.Store(&state)
	w.source.PowerLost(time.Now())
	w.must("stop the disk", w.disk.die())
	w.reader.Forget()
	w.diskMu.Unlock()
	w.pause(length)
	w.diskMu.Lock()
	defer w.diskMu.Unlock()
	w.remount()
}

// hideDisk has the volume gone for a while, with the agent alive.
func (w *world) hideDisk(length time.Duration) {
	if !w.beats() {
		w.note("not done: the agent did not get as far as to open its store")
		return
	}
	w.damage(w.names()...)
	w.source.Killed() // what is under way ends
	w.diskMu.Lock()
	state := "a volume that is gone"
	w.diskState.Store(&state)
	w.must("hide the disk", w.disk.hide())
	w.reader.Forget()
	w.diskMu.Unlock()
	w.pause(length)
	w.diskMu.Lock()
	defer w.diskMu.Unlock()
	written, err := w.disk.show()
	w.must("show the disk", err)
	if len(written) > 0 {
		w.fail("in the place of the volume that was gone the agent wrote %v", written)
	}
	w.reader.Forget()
	w.diskState.Store(nil)
	w.exposed()
}

// beats waits until the agent that runs now has written its heartbeat: before
// that it has not opened its store, and would begin one wherever it is.
func (w *world) beats() bool {
	for range 200 {
		info, err := os.Stat(filepath.Join(w.disk.dir, "status", "agent.json"))
		p := w.agent.Load()
		// The clock may have been moved since an earlier agent wrote one.
		if err == nil && p != nil && info.ModTime().After(p.Started) && info.ModTime().Before(time.Now()) {
			return true
		}
		w.pause(50 * time.Millisecond)
	}
	return false
}

// tamper has somebody remove labels of a model.
func (w *world) tamper(name string) {
	w.drop(name)
	patch := fmt.Sprintf(`{"metadata":{"labels":{%q:null,%q:null}}}`, ordeal.WarmPrefix+name, ordeal.RevPrefix+name)
	_, err := w.client.CoreV1().Nodes().Patch(context.WithoutCancel(w.t.Context()), w.node, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	w.must("remove labels", err)
}

func (w *world) fillDisk(leave int64) {
	// Whoever matters less may have to make room for whoever matters more.
	for _, name := range w.names() {
		for _, other := range w.entries {
			if other.on && other.name != "ghost" && other.priority > w.entries[name].priority {
				w.drop(name)
			}
		}
	}
	err := w.disk.fill(leave)
	if err != nil && w.diskState.Load() == nil && !errors.Is(err, syscall.ENOSPC) {
		w.fail("fill the disk: %v", err)
	}
}

func (w *world) freeDisk() {
	if w.diskState.Load() == nil {
		w.must("free the disk", w.disk.free())
	}
}

// readOnly makes the disk read-only as soon as nobody has a file open for
// writing.
func (w *world) readOnly() {
	// Bytes are as good as before; whether the label stays is the agent's to say.
	w.drop(w.names()...)
	state := "a read-only disk"
	for range 100 {
		err := w.disk.readOnly(true)
		if err == nil {
			w.diskState.Store(&state)
			return
		}
		if !errors.Is(err, syscall.EBUSY) {
			w.fail("remount read-only: %v", err)
			return
		}
		w.pause(10 * time.Millisecond)
	}
	w.note("not done: the disk was always being written")
}

func (w *world) writable() {
	if w.diskState.Load() == nil {
		return
	}
	w.must("remount writable", w.disk.readOnly(false))
	w.diskState.Store(nil)
	w.exposed()
}

// heal ends every fault.
func (w *world) heal() {
	w.signalAgent(contSignal)
	w.must("thaw", w.disk.thaw())
	w.writable()
	w.freeDisk()
	w.source.Heal(rate)
	w.api.Set(ordeal.APIFault{})
	w.writeList()
	w.ensureAgent()
	w.exposed()
}

// moveClock restarts the agent with everything that it wrote down of times
// moved, as a machine finds it whose clock was set: to set the real clock would
// change it for every process of the machine, and a Go program reads it past
// any library that could be put in between.
func (w *world) moveClock(d time.Duration) {
	w.endAgent(termSignal)
	w.diskMu.Lock()
	defer w.diskMu.Unlock()
	back := -d // the clock moves on, so what was written is further back
	err := filepath.WalkDir(w.disk.dir, func(path string, e fs.DirEntry, err error) error {
		rel := strings.TrimPrefix(path, w.disk.dir+"/")
		switch {
		case err != nil || e.IsDir() || e.Type()&fs.ModeSymlink != 0:
			return err
		// What is compared with a record is compared for being the same.
		case strings.HasPrefix(rel, "blobs/"), strings.HasPrefix(rel, "lost+found/"):
			return nil
		case strings.HasPrefix(rel, "manifests/"), rel == "agent/memory.json", rel == "agent/scrub.json", strings.HasPrefix(rel, "agent/withdrawn/"):
			if err := moveTimes(path, back); err != nil {
				return err
			}
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		return os.Chtimes(path, time.Time{}, info.ModTime().Add(back))
	})
	if w.diskState.Load() == nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ENOSPC) {
		w.must("move the clock", err)
	}
	w.ensureAgent()
}

// moveTimes moves each time that stands in a file of JSON.
func moveTimes(path string, d time.Duration) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var document any
	if err := json.Unmarshal(data, &document); err != nil {
		return nil //nolint:nilerr // the harness has garbled it before
	}
	moved, err := json.Marshal(movedTimes(document, d))
	if err != nil {
		return err
	}
	next := path + ".next"
	if err := os.WriteFile(next, moved, 0o644); err != nil {
		return errors.Join(err, os.Remove(next))
	}
	return os.Rename(next, path)
}

func movedTimes(v any, d time.Duration) any {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			v[key] = movedTimes(value, d)
		}
	case []any:
		for i, value := range v {
			v[i] = movedTimes(value, d)
		}
	case string:
		if t, err := time.Parse(time.RFC3339Nano, v); err == nil && !t.IsZero() {
			return t.Add(d).Format(time.RFC3339Nano)
		}
	}
	return v
}

// edit changes an entry of the list, which is not written yet.
func (w *world) edit(name string, change func(e *entry)) {
	e := w.entries[name]
	w.source.Canceled(e.repo)
	change(&e)
	w.entries[name] = e
}

// publishMoving pushes a new commit of what moves.
func (w *world) publishMoving() {
	w.pushed++
	w.source.Push(w.t, movingRepo, tree(w.t, fetchertest.SpecOfSize(100+w.pushed, 9<<20, 2), nil))
}

// togglePod makes a pod on the node that names a model, or removes it.
func (w *world) togglePod(model string) {
	ctx := context.WithoutCancel(w.t.Context())
	w.source.Canceled("") // what a pod waits for takes another's place
	pods := w.client.CoreV1().Pods("default")
	name := w.node + "-" + model
	if w.pods[model] {
		w.drop(model)
		w.pods[model] = false
		now := int64(0)
		err := pods.Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &now})
		if !apierrors.IsNotFound(err) {
			w.must("delete the pod", err)
		}
		return
	}
	w.pods[model] = true
	_, err := pods.Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"stoker.dev/model": model}},
		Spec:       corev1.PodSpec{NodeName: w.node, Containers: []corev1.Container{{Name: "vllm", Image: "vllm"}}},
	}, metav1.CreateOptions{})
	w.must("make the pod", err)
}
