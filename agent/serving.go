package agent

import (
	"fmt"
	"slices"

	"github.com/stoker-project/stoker/gpu/sizing"
	"github.com/stoker-project/stoker/gpu/sizing/serveline"
)

// parseServing reads how vLLM will be started. What vLLM would refuse for every model is a mistake; what only a newer one
// may know, or may change the memory and is not counted, is none: see servingDoubts.
func parseServing(parent *fields) sizing.Serving {
	v, _ := parent.take("serving")
	f := asFields(parent.name("serving"), v, parent.errs)
	mistakes := len(*f.errs)
	s := sizing.Serving{
		TensorParallel:       int(f.integer("tensorParallel", 0, 1)),
		PipelineParallel:     int(f.integer("pipelineParallel", 0, 1)),
		Nodes:                int(f.integer("nnodes", 0, 1)),
		MaxModelLen:          f.integer("maxModelLen", 0, 1),
		GPUMemoryUtilization: f.fraction("gpuMemoryUtilization"),
		KVCacheDtype:         f.str("kvCacheDtype"),
		MaxNumSeqs:           f.integer("maxNumSeqs", 0, 1),
		MaxNumBatchedTokens:  f.integer("maxNumBatchedTokens", 0, 1),
		EnforceEager:         f.boolean("enforceEager", false),
		Quantization:         f.str("quantization"),
		CPUOffloadGB:         f.notNegative("cpuOffloadGB"),
	}
	further := f.strs("extraArgs")
	f.done()
	if len(*f.errs) > mistakes {
		return s
	}
	if err := s.Check(); err != nil {
		f.mistake("", err)
		return s
	}
	all, err := serveline.Read(s, further, nil)
	if err != nil {
		f.mistake("extraArgs", err)
		return s
	}
	return all
}

// servingDoubts are why the fits label of a model is an estimate, or missing, because of its arguments.
func servingDoubts(s sizing.Serving) []string {
	doubts := slices.Clone(s.Uncounted)
	for i, argument := range doubts {
		doubts[i] = fmt.Sprintf("serving.extraArgs: what %s takes is not counted", argument)
	}
	if doubt := sizing.DoubtKVCacheDtype(s.KVCacheDtype); doubt != "" {
		doubts = append(doubts, "serving.kvCacheDtype: "+doubt)
	}
	return doubts
}

// warnServing logs of which models the fits label is an estimate because of their arguments, and which have none
// because of them.
func (a *Agent) warnServing(models []Model) {
	for _, m := range models {
		if doubt := m.Serving.DoubtGPUs(); doubt != "" {
			a.logger.Warn("publish no fits label", "model", m.Name, "why", "serving.extraArgs: "+doubt)
			continue
		}
		for _, doubt := range servingDoubts(m.Serving) {
			a.logger.Warn("count fits as an estimate", "model", m.Name, "why", doubt)
		}
	}
}
