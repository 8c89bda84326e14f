package agent

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/stoker-project/stoker/gpu"
)

const (
	dayTick  = 5 * time.Second // the agent's default tick
	dayTicks = int(24 * time.Hour / dayTick)
	h200     = 144384 << 20
	ownUse   = 600 << 20 // what an idle GPU has in use
)

// moment is one node at one tick.
type moment struct {
	used  []uint64
	pods  int // GPUs given to pods
	blind bool
}

// play runs a day of moments through the functions that the loop uses, and
// holds what the Node says against what is true, after each tick.
func play(t *testing.T, next func(tick int) moment) (s *stage, leaked, freed int) {
	t.Helper()
	one, four := warmModel("m", 1), warmModel("four", 4)
	one.Size.Weights.LoadedBytes = 60 * gib
	s = newStage(t, one, four)
	var found leaks
	since := map[string]time.Time{} // a label says more than is true
	longest := time.Duration(0)
	for tick := range dayTicks {
		now := noon.Add(time.Duration(tick) * dayTick)
		m := next(tick)
		reading := answer[[]gpu.Device]{Known: !m.blind, Err: gpu.ErrNoDriver}
		if reading.Known {
			reading.Err = nil
			for i, used := range m.used {
				reading.Value = append(reading.Value, gpu.Device{
					Index: i, UUID: fmt.Sprintf("GPU-%d", i), State: gpu.StateOK, TotalBytes: h200, UsableBytes: h200, UsedBytes: used, FreeBytes: h200 - used,
				})
			}
		}
		f := facts{PodsKnown: true, Pods: []pod{{Phase: corev1.PodRunning, GPUs: m.pods}}}
		g := gpuFactsOf(reading, f, nodeView{GPUs: len(m.used), GPUsKnown: true})
		more, less := found.look(now, g, s.iv.GPULeak, Share{Percent: 5})
		leaked, freed = leaked+len(more), freed+len(less)
		w := wordOf(s.models, g, found.list())
		s.turn(now, w)

		truth := labels(s.models, w)
		for _, key := range []string{FreeGiBLabel, IdleLabel, FitsPrefix + "m", FitsPrefix + "four"} {
			if number(t, s.labels[key]) <= number(t, truth[key]) {
				delete(since, key)
				continue
			}
			if _, lies := since[key]; !lies {
				since[key] = now
			}
			longest = max(longest, now.Sub(since[key])+dayTick)
		}
	}
	if longest > s.iv.GPU+dayTick {
		t.Errorf("a label said more than was true for %s; want at most the interval and a tick", longest)
	}
	for i := 2; i < len(s.writes); i++ { // the first one begins the day
		if d := s.writes[i].Sub(s.writes[i-1]); d < s.iv.GPU {
			t.Errorf("writes %d and %d are %s apart", i-1, i, d)
		}
	}
	t.Logf("%d writes in a day; a label said too much for %s at the longest", len(s.writes), longest)
	return s, leaked, freed
}

// number is a label's value; a missing label claims less than any.
func number(t *testing.T, label string) int {
	t.Helper()
	if label == "" {
		return unknown
	}
	var n int
	if _, err := fmt.Sscanf(label, "%d", &n); err != nil {
		t.Fatalf("label %q: %v", label, err)
	}
	return n
}

// replica is one GPU's life: free, loading, serving, restarting, ended, leaked.
type replica struct {
	phase string
	left  int // ticks in the phase
	level float64
}

// live moves a GPU on by one tick, and returns what is in use on it and
// whether a pod has it.
func (r *replica) live(rng *rand.Rand) (used uint64, pod bool) {
	const full = 0.92
	between := func(low, high int) int { return low + rng.IntN(high-low) }
	if r.left--; r.left < 0 {
		switch r.phase {
		case "", "ended", "leaked":
			r.phase, r.left = "free", between(360, 5000) // half an hour to seven
		case "free":
			r.phase, r.left = "bound", between(1, 24) // the image is pulled, memory is untouched
		case "bound", "restarting":
			r.phase, r.left = "loading", between(4, 30)
		case "loading":
			r.phase, r.left = "serving", between(720, 6000)
		case "serving":
			switch rng.IntN(10) {
			case 0, 1:
				r.phase, r.left = "restarting", between(1, 20)
			case 2:
				r.phase, r.left = "leaked", between(60, 400) // the pod is gone, its process is not
			default:
				r.phase, r.left = "ended", between(1, 4) // terminating: memory is free, the pod is there
			}
		}
	}
	target := 0.0
	switch r.phase {
	case "loading":
		target = full * (1 - float64(r.left)/30)
	case "serving":
		target = full + 0.004*rng.NormFloat64() // caches and graphs come and go, around a step of 4 GiB
	case "leaked":
		target = r.level
	}
	r.level = min(max(target, 0), 0.99)
	pod = r.phase != "free" && r.phase != "leaked" && r.phase != ""
	return uint64(r.level*h200) + ownUse + rng.Uint64N(64<<20), pod
}

// A day of eight GPUs on which replicas load, serve, crash, end and sometimes
// leave memory behind, and on which the driver goes away three times for a
// minute.
func TestDayOfReplicas(t *testing.T) {
	for seed := range uint64(2) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 4))
			gpus := make([]replica, 8)
			changes := 0
			phases := make([]string, len(gpus))
			s, _, _ := play(t, func(tick int) moment {
				var m moment
				for i := range gpus {
					used, pod := gpus[i].live(rng)
					m.used = append(m.used, used)
					if pod {
						m.pods++
					}
					if gpus[i].phase != phases[i] {
						phases[i] = gpus[i].phase
						changes++
					}
				}
				m.blind = tick%(dayTicks/3) >= 2000 && tick%(dayTicks/3) < 2012
				return m
			})
			t.Logf("%d changes of phase", changes)
			if changes < 50 {
				t.Errorf("%d changes of phase are no day", changes)
			}
			if len(s.writes) > changes {
				t.Errorf("%d writes of %d changes", len(s.writes), changes)
			}
		})
	}
}

// Memory that jitters around a border of each label.
func TestDayOfJitter(t *testing.T) {
	border := []float64{0.08 * h200, h200 - 72*gib} // of idle and fits, of free-gib
	for _, jittering := range []int{2, 8} {
		t.Run(fmt.Sprint(jittering, " of eight"), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 4))
			s, _, _ := play(t, func(int) moment {
				m := moment{pods: 4}
				for i := range 8 {
					used := 120.0 * gib
					if i < jittering {
						used = border[i%2] + 1.5*gib*rng.NormFloat64()
					}
					m.used = append(m.used, uint64(used))
				}
				return m
			})
			if len(s.writes) > 30 { // told a few times, and then that it is not steady
				t.Errorf("%d writes, want hardly any", len(s.writes))
			}
		})
	}
}

// The worst that memory can do. The longest period is such that each rise lasts
// just long enough to count as one.
func TestDayOfWaves(t *testing.T) {
	for _, period := range []time.Duration{65 * time.Second, 150 * time.Second, 13 * time.Minute} {
		t.Run(period.String(), func(t *testing.T) {
			s, _, _ := play(t, func(tick int) moment {
				m := moment{used: []uint64{ownUse, ownUse}, pods: 1}
				if (time.Duration(tick)*dayTick)%period < period/2 {
					m.used = []uint64{100 * gib, 130 * gib}
				}
				return m
			})
			if limit := 2 * (1 + int(24*time.Hour/(13*time.Minute))); len(s.writes) > limit {
				t.Errorf("%d writes, want at most %d", len(s.writes), limit)
			}
		})
	}
	t.Run("everything at random", func(t *testing.T) {
		rng := rand.New(rand.NewPCG(2, 4))
		s, _, _ := play(t, func(int) moment {
			return moment{used: []uint64{rng.Uint64N(h200), rng.Uint64N(h200)}, pods: rng.IntN(3), blind: rng.IntN(20) == 0}
		})
		if len(s.writes) > 60 {
			t.Errorf("%d writes of noise", len(s.writes))
		}
	})
}

// A node that idles all day but for a process that outlived its pod for an
// hour, and a driver whose own use is what it is.
func TestDayWithALeak(t *testing.T) {
	s, leaked, freed := play(t, func(tick int) moment {
		m := moment{used: []uint64{ownUse, 2 * gib}}
		switch minute := time.Duration(tick) * dayTick; {
		case minute >= 2*time.Hour && minute < 4*time.Hour: // serves
			m.pods, m.used[0] = 1, uint64(math.Round(0.92*h200))
		case minute >= 4*time.Hour && minute < 5*time.Hour:
			m.used[0] = uint64(math.Round(0.92 * h200))
		case minute >= 8*time.Hour && minute < 8*time.Hour+4*time.Minute: // shorter than a leak
			m.used[1] = 50 * gib
		}
		return m
	})
	if leaked != 1 || freed != 1 {
		t.Errorf("%d leaks found and %d over, want one of each", leaked, freed)
	}
	// Start; pod and memory taken; pod gone; leak told; memory back; the short one and its end.
	if len(s.writes) > 8 {
		t.Errorf("%d writes of a quiet day", len(s.writes))
	}
}
