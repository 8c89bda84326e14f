package sizing

import (
	"fmt"
	"slices"
)

// layerBytes is what a part of the weights takes: a layer, the embedding, the output head, or what is in none of them.
// The fields are those of [Weights].
type layerBytes struct {
	loaded, replicated, kvProjection, mxfp4 uint64
	// linear is the part that vLLM may quantize while it loads it.
	linear uint64
}

func (l *layerBytes) add(o layerBytes) {
	l.loaded, l.replicated, l.kvProjection = add(l.loaded, o.loaded), add(l.replicated, o.replicated), add(l.kvProjection, o.kvProjection)
	l.mxfp4, l.linear = add(l.mxfp4, o.mxfp4), add(l.linear, o.linear)
}

// parts are the weights by where they are.
type parts struct {
	layers            []layerBytes
	embed, head, rest layerBytes
}

// stage is what one of the GPUs of a pipeline holds: a model of some of the layers.
type stage struct {
	Model
	first, last bool
	// offloadable is the part of the weights in layers, which alone vLLM offloads; largest that of the largest layer.
	offloadable, largest uint64
}

// stageLayers is how many layers each stage has (distributed/utils.py, get_pp_indices): what a division leaves goes to the
// last stage but one and those before it, a layer to each.
func stageLayers(layers uint64, pp int) []uint64 {
	list := make([]uint64, pp)
	left := int(layers % uint64(pp))
	for i := range list {
		list[i] = layers / uint64(pp)
		if fromEnd := pp - 1 - i; fromEnd >= 1 && fromEnd <= left {
			list[i]++
		}
	}
	return list
}

// stages divides the model for a pipeline. The embedding is on the first stage, and on the last as well where the output
// head is tied to it.
func (m Model) stages(pp int) []stage {
	if pp == 1 {
		s := stage{Model: m, first: true, last: true}
		s.count(m.Weights.parts.layers)
		if len(m.Weights.parts.layers) == 0 {
			s.offloadable, s.largest = m.Weights.LoadedBytes, ceilDiv(m.Weights.LoadedBytes, max(1, m.Architecture.Layers))
		}
		return []stage{s}
	}
	var list []stage
	var begin uint64
	for i, layers := range stageLayers(m.Architecture.Layers, pp) {
		s := m.stage(begin, layers)
		s.first, s.last = i == 0, i == pp-1
		s.addEnds(m)
		begin += layers
		// Stages in the middle are often alike, and one of them says it all.
		if !slices.ContainsFunc(list, func(o stage) bool { return s.alike(o) }) {
			list = append(list, s)
		}
	}
	return list
}

// alike reports whether two stages take the same.
func (s stage) alike(o stage) bool {
	a, b := s.Weights, o.Weights
	return s.first == o.first && s.last == o.last && s.Architecture.Layers == o.Architecture.Layers && s.largest == o.largest &&
		a.LoadedBytes == b.LoadedBytes && a.ReplicatedBytes == b.ReplicatedBytes && a.KVProjectionBytes == b.KVProjectionBytes &&
		a.MXFP4Bytes == b.MXFP4Bytes && a.linearBytes == b.linearBytes
}

// stage is the part of the model in layers that follow each other, without what is around them.
func (m Model) stage(begin, layers uint64) stage {
	s := stage{Model: m}
	a, all := &s.Architecture, max(1, m.Architecture.Layers)
	part := func(n uint64) uint64 { return ceilDiv(mul(n, layers), all) }
	a.Layers = layers
	a.FullLayers, a.WindowLayers, a.StateLayers = part(a.FullLayers), part(a.WindowLayers), part(a.StateLayers)
	a.LatentCopyBytes = part(a.LatentCopyBytes)
	if len(m.Weights.parts.layers) == 0 { // of these files nothing is known by layers
		w := m.Weights
		s.set(layerBytes{part(w.LoadedBytes), part(w.ReplicatedBytes), part(w.KVProjectionBytes), part(w.MXFP4Bytes), part(w.linearBytes)})
		s.offloadable, s.largest = s.Weights.LoadedBytes, ceilDiv(m.Weights.LoadedBytes, all)
		return s
	}
	end := min(begin+layers, uint64(len(m.Weights.parts.layers)))
	s.count(m.Weights.parts.layers[min(begin, end):end])
	return s
}

// count makes layers the weights of a stage that may be offloaded.
func (s *stage) count(layers []layerBytes) {
	var sum layerBytes
	for _, l := range layers {
		sum.add(l)
		s.largest = max(s.largest, l.loaded)
	}
	s.offloadable = sum.loaded
	if !s.first || !s.last {
		s.set(sum)
	}
}

func (s *stage) set(b layerBytes) {
	w := &s.Weights
	w.LoadedBytes, w.ReplicatedBytes, w.KVProjectionBytes, w.MXFP4Bytes, w.linearBytes = b.loaded, b.replicated, b.kvProjection, b.mxfp4, b.linear
}

// addEnds adds what the first and the last stage hold beside layers. Encoders of pictures and sound are counted on each,
// for which of them has one differs by release.
func (s *stage) addEnds(m Model) {
	p := m.Weights.parts
	if len(p.layers) == 0 {
		return
	}
	w := s.Weights
	sum := layerBytes{w.LoadedBytes, w.ReplicatedBytes, w.KVProjectionBytes, w.MXFP4Bytes, w.linearBytes}
	if s.first || s.last && m.Architecture.TiedEmbeddings {
		sum.add(p.embed)
	}
	if s.last {
		sum.add(p.head)
	}
	sum.add(p.rest)
	s.set(sum)
}

// doubtStages returns why the division into stages is an estimate. vLLM does not refuse more stages than layers, but leaves
// stages empty (distributed/utils.py, get_pp_indices; config/model.py, verify_with_parallel_config, has no check), and
// nothing shows that it then starts.
func (m Model) doubtStages(pp int) string {
	a := m.Architecture
	uniform := func(n uint64) bool { return n == 0 || n == a.Layers }
	switch {
	case a.Layers > 0 && uint64(pp) > a.Layers:
		return fmt.Sprintf("%d stages of %d layers leave some without a layer, and whether vLLM starts so is not known", pp, a.Layers)
	case len(m.Weights.parts.layers) == 0:
		return "which layer a tensor belongs to is not known, so the stages are counted as equal parts"
	case a.Multimodal:
		return "which stage holds an encoder differs by release; it is counted on each"
	case !uniform(a.FullLayers), !uniform(a.WindowLayers), !uniform(a.StateLayers):
		return "layers differ in what they cache, and each stage is counted with its part of each kind"
	case a.WindowLayers > 0:
		return "how many batches a window keeps tokens of depends on the order of the stages"
	}
	return ""
}
