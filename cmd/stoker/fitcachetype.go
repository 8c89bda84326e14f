package main

import (
	"fmt"

	"github.com/stoker-project/stoker/gpu/sizing"
)

// unsized reports whether vLLM knows the KV cache's type, or may know it, while its
// size is not known here. A check refuses no name at all: a vLLM newer than this
// program has types that it cannot tell from misspelt ones, and vLLM refuses those.
func (f fitFlags) unsized() bool {
	if sizing.CheckKVCacheDtype(f.serving.KVCacheDtype) == nil {
		return false
	}
	return f.check || sizing.CheckListedKVCacheDtype(f.serving.KVCacheDtype) == nil
}

// sizedServing is the serving arguments with a type of which the size is known.
func (f fitFlags) sizedServing() sizing.Serving {
	s := f.serving
	if f.unsized() {
		s.KVCacheDtype = "auto"
	}
	return s
}

// noteUnsized marks a report as an estimate because of the KV cache's type.
func (f fitFlags) noteUnsized(out *fitOutput) {
	if !f.unsized() {
		return
	}
	note := fmt.Sprintf("the size of a KV cache of type %q is not known here; it is counted as auto", f.serving.KVCacheDtype)
	mark := func(n *sizing.Need) {
		n.Estimated, n.KVCacheDtype = true, f.serving.KVCacheDtype
		n.Notes = append(n.Notes[:len(n.Notes):len(n.Notes)], note)
	}
	mark(&out.Need)
	for _, s := range out.TensorParallelSizes {
		if s.Need != nil {
			mark(s.Need)
		}
	}
}
