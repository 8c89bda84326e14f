package sizing

// What vLLM takes beside weights and cache, in bounds. It measures three of the terms when it starts, with a batch of
// dummy tokens (v1/worker/gpu_worker.py, determine_available_memory), so they can be bounded and not computed. The
// figures below were fitted on a part of the public logs of testdata/logs.json; a test holds them against all, and
// docs/fit.md has the table.

// Memory that the driver, NCCL and the kernels' workspaces take outside of PyTorch, on large GPUs; at a tensor
// parallelism of 2 and more, buffers to exchange results come on top.
const (
	nonTorchMin, nonTorchMax         = 230 << 20, 600 << 20
	nonTorchMinGroup, nonTorchMaxTwo = 2000 << 20, 2400 << 20
	// Each further doubling of the parallelism was seen to add 60 to 120 MiB.
	nonTorchMaxDoubling = 150 << 20
	// On smaller GPUs nothing was logged: what a context takes at the least, and half of the exchange at the most.
	nonTorchMinSmall      = 50 << 20
	nonTorchMinGroupSmall = 200 << 20
)

// bounds are the least and the most of a term in bytes.
type bounds struct{ least, most uint64 }

func (b bounds) plus(o bounds) bounds { return bounds{add(b.least, o.least), add(b.most, o.most)} }

// overhead is the range of what vLLM takes on one of tp GPUs beside the weights and the cache.
func (n *Need) addOverhead(m Model) {
	tp := uint64(n.TensorParallel)
	sum := n.activations(m.Architecture, tp).plus(n.nonTorch(tp))
	graphs := m.Architecture.graphs(n.release)
	if n.release.graphsInBudget() {
		sum = sum.plus(graphs)
	} else {
		n.outside = graphs.most
	}
	if m.Weights.MXFP4Bytes > 0 {
		n.outside = add(n.outside, mul(mxfp4Outside/1024, n.batch.sequences))
	}
	slack := n.weightsError(m)
	n.OverheadMinBytes, n.OverheadMaxBytes = less(sum.least, slack.least), add(sum.most, slack.most)
}

// mxfp4Outside is what MXFP4 experts take after vLLM has given the budget away, with 1024 sequences: two starts of
// gpt-oss-20b ended for lack of memory with 3.96 GiB beside the budget, of which CUDA graphs had 1.84, and one with 7.92 did not.
const mxfp4Outside = 4 << 30

// activations is the peak of a batch's forward pass or of the sampler after it, whichever is larger. The sampler's is
// the same at every parallelism, for each GPU has all logits. Experts' workspaces stay.
func (n *Need) activations(a Architecture, tp uint64) bounds {
	tokens, vocabulary := n.batch.tokens, a.Vocabulary
	hidden := mul(tokens, a.HiddenSize, 2)
	sampler := bounds{
		add(mul(n.batch.sequences, vocabulary, n.release.leastLogitBytes()), hidden),
		add(mul(n.batch.sequences, vocabulary, mostLogitBytes), mul(5, hidden)),
	}
	dense := mul(tokens, a.DenseIntermediate/tp, 2)
	var workspace uint64
	if a.ExpertsPerToken > 0 {
		// A token's row for each of its experts: what goes in, the two gated halves, their product, what comes out.
		row := add(max(mul(2, a.ExpertIntermediate/tp), a.HiddenSize), a.ExpertIntermediate/tp, a.HiddenSize)
		workspace = mul(tokens, a.ExpertsPerToken, row, 2)
	}
	forward := bounds{most: add(mul(7, dense)/2, mul(8, hidden))}
	if a.ExpertsPerToken == 0 {
		// Two halves and their product; half as much is left where they do not come in halves.
		forward.least = add(mul(2, dense), hidden)
	}
	if a.LatentDim > 0 { // queries, keys and values of all heads
		forward.most = add(forward.most, mul(tokens, ceilDiv(a.LatentHeadBytes, tp)))
	}
	peak := bounds{max(sampler.least, forward.least), add(max(sampler.most, forward.most), workspace)}
	if a.Multimodal { // an encoder's output for the tokens of a batch, and its own peak where that is higher
		peak.most = add(peak.most, mul(tokens, a.HiddenSize, 2), 512<<20)
	}
	return peak
}

func (n *Need) nonTorch(tp uint64) bounds {
	small := n.batch.sequences < 1024
	if tp == 1 {
		if small {
			return bounds{nonTorchMinSmall, nonTorchMax}
		}
		return bounds{nonTorchMin, nonTorchMax}
	}
	b := bounds{nonTorchMinGroup, nonTorchMaxTwo}
	if small {
		b.least = nonTorchMinGroupSmall
	}
	for ; tp > 2; tp = (tp + 1) / 2 {
		b.most += nonTorchMaxDoubling
	}
	return b
}

// graphs is what CUDA graphs take: a little for each layer, more with experts. What vLLM expects them to take is its own
// measurement of a few, which no public log has for many models: nothing is the lower bound there.
func (a Architecture) graphs(r release) bounds {
	b := bounds{most: add(600<<20, mul(min(a.Layers, 1000), 18<<20))}
	if a.ExpertsPerToken > 0 {
		b.most = add(b.most, 1<<30)
	}
	if !r.graphsInBudget() {
		b.least = 100 << 20
	}
	return b
}

// weightsError is how far the weights may be from the sum of headers: PyTorch rounds what it allocates up to 2 MiB, a few
// times in each layer, and the padding of MXFP4 depends on which kernel vLLM finds.
func (n *Need) weightsError(m Model) bounds {
	weights := add(n.WeightsBytes, n.ReplicatedBytes)
	b := bounds{weights / 500, add(weights/500, mul(min(m.Architecture.Layers, 1000), 2<<20), 16<<20)}
	if m.Weights.MXFP4Bytes > 0 {
		b.least, b.most = add(b.least, weights/100), add(b.most, weights/100)
	}
	return b
}
