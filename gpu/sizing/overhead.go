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

// addOverhead fills in what vLLM takes beside weights and cache on a GPU of a stage.
func (n *Need) addOverhead(s stage) {
	tp := uint64(n.TensorParallel)
	sum := n.activations(s, tp).plus(n.nonTorch(tp))
	graphs := n.graphs(s.Architecture)
	n.outside = 0
	if n.release.graphsInBudget() {
		sum = sum.plus(graphs)
	} else {
		n.outside = graphs.most
	}
	if s.Weights.MXFP4Bytes > 0 {
		n.outside = add(n.outside, mul(mxfp4Outside/1024, max(leastSequences, n.batch.sequences)))
	}
	if n.PipelineParallel > 1 {
		n.outside = add(n.outside, stagesOutside)
	}
	slack := n.weightsError(s)
	n.OverheadMinBytes, n.OverheadMaxBytes = less(sum.least, slack.least), add(sum.most, slack.most)
}

// mxfp4Outside is what MXFP4 experts take after vLLM has given the budget away, with 1024 sequences: two starts of
// gpt-oss-20b ended for lack of memory with 3.96 GiB beside the budget, of which CUDA graphs had 1.84, and one with 7.92 did not.
const mxfp4Outside = 4 << 30

// leastSequences is the least of the defaults: no log has fewer.
const leastSequences = 256

// stagesOutside is what the connections between stages take at the most. They are made when the first request goes
// through, after the budget was given away: two logs have 70 MiB outside of PyTorch before, where one GPU alone has 250.
const stagesOutside = 512 << 20

// leastActivations is what the peak of a batch below the defaults is allowed at least: of such no log is public, and
// workspaces of kernels do not shrink with it.
const leastActivations = 512 << 20

// activations is the peak of a batch's forward pass or of the sampler after it, whichever is larger. The sampler's is
// the same at every parallelism, for each GPU of the last stage has all logits. Experts' workspaces stay.
func (n *Need) activations(s stage, tp uint64) bounds {
	a := s.Architecture
	tokens, vocabulary := n.batch.tokens, a.Vocabulary
	hidden := mul(tokens, a.HiddenSize, n.width)
	least, most := n.release.leastLogitBytes(), uint64(mostLogitBytes)
	if n.width == 4 { // the logits themselves are wider, and need no copy in float32
		least, most = min(least, 12), most+2
	}
	sampler := bounds{
		add(mul(n.batch.sequences, vocabulary, least), hidden),
		add(mul(n.batch.sequences, vocabulary, most), mul(5, hidden)),
	}
	if !s.last {
		sampler = bounds{}
	}
	dense := mul(tokens, a.DenseIntermediate/tp, n.width)
	var workspace uint64
	if a.ExpertsPerToken > 0 {
		// A token's row for each of its experts: what goes in, the two gated halves, their product, what comes out.
		row := add(max(mul(2, a.ExpertIntermediate/tp), a.HiddenSize), a.ExpertIntermediate/tp, a.HiddenSize)
		workspace = mul(tokens, a.ExpertsPerToken, row, n.width)
	}
	forward := bounds{most: add(mul(7, dense)/2, mul(8, hidden))}
	if a.ExpertsPerToken == 0 && a.Layers > 0 {
		// Two halves and their product; half as much is left where they do not come in halves.
		forward.least = add(mul(2, dense), hidden)
	}
	if a.LatentDim > 0 { // queries, keys and values of all heads
		forward.most = add(forward.most, mul(tokens, ceilDiv(a.LatentHeadBytes, tp), n.width)/2)
	}
	if n.PipelineParallel > 1 { // what comes from the stage before, and what goes to the next
		forward.most = add(forward.most, mul(4, hidden))
	}
	peak := bounds{max(sampler.least, forward.least), add(max(sampler.most, forward.most), workspace)}
	if a.Multimodal { // an encoder's output for the tokens of a batch, and its own peak where that is higher
		peak.most = add(peak.most, hidden, 512<<20)
	}
	if n.BatchGiven() {
		peak.most = max(peak.most, leastActivations)
	}
	return peak
}

func (n *Need) nonTorch(tp uint64) bounds {
	small := n.batch.small || n.PipelineParallel > 1
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
func (n *Need) graphs(a Architecture) bounds {
	if n.EnforceEager {
		return bounds{}
	}
	perLayer := mul(min(a.Layers, 1000), 18<<20)
	if sizes := graphSizes(n.batch.sequences); sizes < mostGraphs {
		perLayer = mul(perLayer, sizes) / mostGraphs
	}
	b := bounds{most: add(600<<20, perLayer)}
	if a.ExpertsPerToken > 0 {
		b.most = add(b.most, 1<<30)
	}
	if !n.release.graphsInBudget() {
		b.least = 100 << 20
	}
	return b
}

// mostGraphs is how many sizes of batches have a graph where none is left out: up to 512 tokens.
const mostGraphs = 51

// graphSizes is for how many sizes of batches vLLM captures a graph (config/vllm.py, _set_cudagraph_sizes): 1, 2, 4, each
// multiple of 8 below 256 and of 16 from there on, up to twice the requests of a batch and 512.
func graphSizes(sequences uint64) uint64 {
	most := min(mul(2, sequences), 512)
	var sizes uint64
	for _, n := range []uint64{1, 2, 4} {
		if n <= most {
			sizes++
		}
	}
	sizes += min(most, 255) / 8
	if most >= 256 {
		sizes += (most-256)/16 + 1
	}
	return sizes
}

// weightsError is how far the weights may be from the sum of headers: PyTorch rounds what it allocates up to 2 MiB, a few
// times in each layer, and the padding of MXFP4 depends on which kernel vLLM finds.
func (n *Need) weightsError(s stage) bounds {
	weights := n.ResidentWeightsBytes()
	b := bounds{weights / 500, add(weights/500, mul(min(s.Architecture.Layers, 1000), 2<<20), 16<<20)}
	if s.Weights.MXFP4Bytes > 0 {
		b.least, b.most = add(b.least, weights/100), add(b.most, weights/100)
	}
	if n.CPUOffloadBytes > 0 {
		// Matrices are offloaded whole, so it may be one more; where the GPU cannot read the CPU's memory, a layer is
		// copied for each pass (model_executor/offloader/uva.py).
		layer := ceilDiv(s.largest, uint64(n.TensorParallel))
		b.least, b.most = add(b.least, layer), add(b.most, layer)
	}
	return b
}
