package main

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/stoker-project/stoker/fetcher/store"
	"github.com/stoker-project/stoker/gpu"
	"github.com/stoker-project/stoker/gpu/sizing"
)

// gpusFit is what `stoker gpus` says of one model in the store.
type gpusFit struct {
	Name     string `json:"name"`
	Revision string `json:"revision"`
	// Replicas is how many could start now, each on TensorParallel GPUs, the
	// fewest with which one could.
	Replicas       int `json:"replicas"`
	TensorParallel int `json:"tensorParallel,omitempty"`
	// Reason says why none could.
	Reason string `json:"reason,omitempty"`
	// Estimated: a term of the sum is not exact; `stoker fit` says which.
	Estimated bool `json:"estimated"`
}

// storeToFit opens the store whose models are to be fitted: the one that was
// named, or the default one if it is there; otherwise nil.
func storeToFit(dir string, named bool) (*store.Store, error) {
	if !named && !holdsStore(dir) {
		return nil, nil //nolint:nilnil // no store is an answer, not a failure
	}
	return openToRead(dir)
}

// fitModels tests each published model against the devices, started as vLLM
// does without arguments.
func fitModels(s *store.Store, devices []gpu.Device) ([]gpusFit, error) {
	published, err := s.Published()
	if err != nil {
		return nil, err
	}
	// Nothing runs on a GPU that is split into parts, only on those.
	memory := deviceMemory(slices.DeleteFunc(slices.Clone(devices), func(d gpu.Device) bool { return d.State == gpu.StatePartitioned }))
	fits := []gpusFit{}
	for _, m := range published {
		f := gpusFit{Name: m.Name, Revision: m.Revision}
		model, err := sizing.ReadModel(s.Files(m.Name, m.Revision))
		if err != nil && !stillPublished(s, m) {
			continue // removed or replaced since it was listed
		}
		if err != nil {
			f.Reason = err.Error()
		} else {
			f.fit(model, memory)
		}
		fits = append(fits, f)
	}
	return fits, nil
}

// fit looks for the fewest GPUs with which a replica could start.
func (f *gpusFit) fit(model sizing.Model, devices []sizing.DeviceMemory) {
	report, err := model.Report(sizing.Serving{}, devices)
	if err != nil {
		f.Reason = err.Error()
		return
	}
	if len(devices) == 0 {
		f.Reason = "there is no GPU here"
		return
	}
	most := 0 // the device that comes nearest
	for i, d := range devices {
		if d.Blocked == "" && (d.FreeBytes > devices[most].FreeBytes || devices[most].Blocked != "") {
			most = i
		}
	}
	tooFew := ""
	for _, s := range report.TensorParallelSizes {
		if s.Impossible != "" {
			continue
		}
		f.Estimated = s.Need.Estimated
		if s.Replicas > 0 {
			f.Replicas, f.TensorParallel, f.Reason = s.Replicas, s.TensorParallel, ""
			return
		}
		fitting := 0
		for _, g := range s.GPUs {
			if g.Fits {
				fitting++
			}
		}
		if fitting > 0 && tooFew == "" {
			tooFew = fmt.Sprintf("a replica takes %d GPUs, and it fits on %d", s.TensorParallel, fitting)
		}
		f.Reason = s.GPUs[most].Reason
		if s.Verdict == sizing.Tight {
			f.Reason = "tight: " + f.Reason
		}
	}
	if tooFew != "" {
		f.Reason = tooFew
	}
}

// fitsTable is a line for each model.
func fitsTable(fits []gpusFit) [][]string {
	rows := [][]string{{"MODEL", "REVISION", "REPLICAS", "GPUS EACH", "WHY NOT"}}
	for _, f := range fits {
		row := []string{f.Name, short(f.Revision), strconv.Itoa(f.Replicas), "-", f.Reason}
		if f.TensorParallel > 0 {
			row[3] = strconv.Itoa(f.TensorParallel)
		}
		if f.Estimated {
			row[2] = "about " + row[2]
		}
		rows = append(rows, row)
	}
	return rows
}
