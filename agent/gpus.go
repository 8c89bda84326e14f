package agent

import (
	"errors"
	"time"

	"github.com/stoker-project/stoker/gpu"
)

// observeGPUs takes the latest reading: for what is said of the GPUs, and for
// memory that nobody here can have asked for.
func (a *Agent) observeGPUs(now time.Time, f facts, d decision) {
	l := &a.loop
	got := a.devices.latest()
	if !got.answered() {
		return
	}
	a.watchContainer(got)
	if !f.PodsKnown && !a.patient(now) {
		return // what pods hold is not known yet: fits would say too much or nothing
	}
	g := gpuFactsOf(got, f, l.nodeSeen)
	if l.nodeOK && !l.leaksRestored {
		l.leaksRestored = true
		if g.FreeKnown && !g.Held {
			l.leaks.restore(l.nodeSeen.Status)
		}
	}
	a.measureReplicas(now, f, d, g)
	g.Measured = l.measured
	found, gone := l.leaks.look(now, g, l.cfg.Intervals.GPULeak, l.cfg.GPU.LeakAbove)
	a.tellLeaks(found, gone)
	l.gpus.feed(now, wordOf(d.Models, g, l.leaks.list()), l.cfg.Intervals.GPURise)
}

// watchContainer notices that this container has lost its GPUs: NVML answers
// "Unknown Error" where it listed GPUs before. Only a new container has them
// again, so /healthz fails until something else is answered. In the container that
// follows, NVML has not worked yet, so an error that stays restarts nothing twice.
func (a *Agent) watchContainer(got answer[[]gpu.Device]) {
	l := &a.loop
	l.gpusWorked = l.gpusWorked || len(got.Value) > 0
	gone := l.gpusWorked && errors.Is(got.Err, gpu.ErrUnknown)
	if gone && !a.gpusGone.Swap(gone) {
		a.logger.Error("lost the container's GPUs; /healthz fails so that the container is restarted", "error", got.Err)
	}
	a.gpusGone.Store(gone)
}

// tellLeaks records what was found and what is over.
func (a *Agent) tellLeaks(found, gone []LeakStatus) {
	for _, leak := range found {
		a.logger.Warn("found GPU memory in use though no pod here has a GPU", "gpu", leak.Index, "mig", leak.MIG, "uuid", leak.UUID, "bytes", leak.Bytes)
		a.events.record(event{
			Reason: EventGPUMemoryLeaked, Subject: leak.device(), Action: "ReadGPUs", Warning: true,
			Note: sizeText(int64(leak.Bytes)) + " are in use though no pod on this node has a GPU, so vLLM may not start on it; " +
				"find the process with nvidia-smi on the node and end it (" + leak.UUID + ")",
		})
	}
	for _, leak := range gone {
		a.logger.Info("saw leaked GPU memory free again", "gpu", leak.Index, "mig", leak.MIG, "uuid", leak.UUID)
		a.events.record(event{
			Reason: EventGPUMemoryFreed, Subject: leak.device(), Action: "ReadGPUs",
			Note: "the memory that was in use without a pod is free again (" + leak.UUID + ")",
		})
	}
}

// gpuFactsOf puts together devices and what pods hold of them.
//
// A pod that was given a GPU and still loads leaves that GPU's memory free, and
// nothing tells which one it is: so GPUs are counted. Where the device plugin
// counts each GPU several times (time-slicing, MPS), each share given may be of
// another GPU, and where it counts fewer than there are, the rest is unhealthy.
// Parts of GPUs under names of their own (nvidia.com/mig-*) are no whole GPUs
// and count for nothing here but for being held; see slicesCount for those that
// are called nvidia.com/gpu.
func gpuFactsOf(devices answer[[]gpu.Device], f facts, node nodeView) gpuFacts {
	g := gpuFacts{Known: devices.Known, Devices: devices.Value, FreeKnown: f.PodsKnown}
	if !devices.Known {
		g.Reason, g.trouble = errText(devices.Err), troubleOf(devices.Err)
		return g
	}
	g.Slices = slicesCount(g.Devices, node)
	g.Free = g.sound()
	if node.GPUsKnown {
		g.Free = min(g.Free, node.GPUs)
		g.Divided = node.GPUs > g.there()
	}
	for _, p := range f.Pods {
		if p.over() {
			continue
		}
		g.Free -= p.GPUs
		g.Held = g.Held || p.GPUs > 0 || p.GPUParts
	}
	g.Free = max(0, g.Free)
	return g
}

// slicesCount reports whether nvidia.com/gpu stands for MIG devices on this node:
// the device plugin's strategy "single", for which every GPU has to be in MIG mode
// (NVIDIA/k8s-device-plugin, --mig-strategy). GPU feature discovery names the
// strategy in a label. Without it, the plugin offers as many as there are slices,
// while with the strategy "none" it offers the GPUs themselves.
func slicesCount(devices []gpu.Device, node nodeView) bool {
	gpus, slices := 0, 0
	for _, d := range devices {
		switch {
		case d.MIG != nil:
			slices++
		case d.State == gpu.StatePartitioned:
			gpus++
		case d.State == gpu.StateOK:
			return false
		}
	}
	if gpus == 0 || !node.GPUsKnown {
		return false
	}
	switch strategy := node.Labels[migStrategyLabel]; strategy {
	case "":
		return slices > 0 && node.GPUs == slices
	default:
		return strategy == "single"
	}
}

// troubleOf is the kind of an error of reading the GPUs, never empty: texts of
// one kind may say how long something has taken.
func troubleOf(err error) string {
	for _, kind := range []error{
		gpu.ErrNoDriver, gpu.ErrVersionMismatch, gpu.ErrNoPermission, gpu.ErrLost, gpu.ErrUnsupported, gpu.ErrUnknown, gpu.ErrTimeout, errStuck,
	} {
		if errors.Is(err, kind) {
			return kind.Error()
		}
	}
	return "other: " + errText(err)
}
