package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/agent/measure"
	"github.com/stoker-project/stoker/fetcher/store"
	"github.com/stoker-project/stoker/gpu"
	"github.com/stoker-project/stoker/gpu/sizing"
)

// readMeasured reads what the agent of this store has measured of a published revision, the latest first. There is
// nothing where no agent measures.
func readMeasured(s *store.Store, m store.Manifest) ([]measure.Record, error) {
	data, err := store.ReadAgentFile(s.AgentFile(measure.File))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what replicas here took: %w", err)
	}
	book, err := measure.ParseBook(data)
	return book.Records(m.Name, m.Revision), err
}

// onThese leaves the records of GPUs like those here; all of them where there is none.
func onThese(records []measure.Record, devices []gpu.Device) []measure.Record {
	if len(devices) == 0 {
		return records
	}
	return slices.DeleteFunc(slices.Clone(records), func(r measure.Record) bool {
		return !slices.ContainsFunc(devices, func(d gpu.Device) bool { return d.Name == r.GPU && d.UsableBytes == r.TotalBytes })
	})
}

// measuredRow is the row of the terms that says what replicas here took beside weights and cache; nil where none was
// measured.
func measuredRow(records []measure.Record, needs []*sizing.Need) []string {
	row, found := []string{"measured here, beside it"}, false
	for _, n := range needs {
		var most measure.Record
		for _, r := range records {
			if n == nil || r.TensorParallel != n.TensorParallel {
				continue
			}
			trusts, trusted := r.TrustedFor(n.VLLMVersion), most.TrustedFor(n.VLLMVersion)
			if trusts && !trusted || trusts == trusted && r.BesideBytes > most.BesideBytes {
				most = r
			}
		}
		cell := ""
		if most.BesideBytes > 0 {
			cell, found = size(most.BesideBytes)+distrust(most, n.VLLMVersion), true
		}
		row = append(row, cell)
	}
	if !found {
		return nil
	}
	return row
}

// distrust returns why a record adds no yes to a sum by the rules of a release of vLLM; "" where it may.
func distrust(r measure.Record, release string) string {
	switch {
	case !r.Trusted || r.TrustedFor(release):
		return untrusted(r)
	case r.VLLMVersion == "":
		return " (by an unknown vLLM)"
	}
	return " (by vLLM " + r.VLLMVersion + ")"
}

func untrusted(r measure.Record) string {
	if r.Trusted {
		return ""
	}
	return " (not trusted)"
}

// printMeasured says of each replica that was measured what it was.
func printMeasured(w io.Writer, records []measure.Record) {
	for _, r := range records {
		version, length := "", ""
		if r.VLLMVersion != "" {
			version = " of vLLM " + r.VLLMVersion
		}
		if r.MaxModelLen > 0 {
			length = fmt.Sprintf(" requests of %d tokens at most,", r.MaxModelLen)
		}
		fmt.Fprintf(w, "Measured here%s: a replica%s on %s (%s), with%s %v of the memory and a cache in %s of %d tokens, took %s on each beside weights and cache; seen %s.\n",
			untrusted(r), version, count(r.TensorParallel, "GPU"), r.GPU, length, r.GPUMemoryUtilization, r.KVCacheDtype, r.CacheTokens, size(r.BesideBytes), r.Seen.UTC().Format(time.RFC3339))
	}
	if len(records) > 0 {
		fmt.Fprintf(w, "The label %s%s goes by what was measured; the answer above is the sum's alone.\n", agent.FitsPrefix, records[0].Model)
	}
}
