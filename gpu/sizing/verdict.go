package sizing

import "fmt"

// Verdict is whether vLLM could start a replica on a GPU now.
type Verdict string

const (
	// Fits means that even the most that vLLM takes beside weights and cache leaves room.
	Fits Verdict = "fits"
	// Tight means that the least that it takes leaves room, and the most does not.
	Tight Verdict = "tight"
	// No means that not even the least leaves room, that the GPU cannot take a process, or that less is free than vLLM
	// claims.
	No Verdict = "no"
	// Unknown means that nothing is known of the GPU's memory.
	Unknown Verdict = "unknown"
)

// On returns the need on one device: how many tokens and sequences vLLM takes into a batch, and with them its peak of
// memory and the tokens that a window keeps, depend on the GPU.
func (n Need) On(d DeviceMemory) Need {
	if n.model == nil || d.TotalBytes == 0 {
		return n
	}
	if b := n.batchOn(d.TotalBytes, d.Name); b != n.batch {
		n.batch = b
		n.addSums()
	}
	return n
}

// Verdict tells whether a replica could start on one of its GPUs, of totalBytes of which freeBytes are free, and in words
// why it could not for certain; "" where it could.
func (n Need) Verdict(totalBytes, freeBytes uint64) (Verdict, string) {
	if totalBytes == 0 {
		return Unknown, "the GPU's memory is not known"
	}
	if why := n.Obstacle(totalBytes, freeBytes); why != "" {
		return No, why
	}
	budget := n.BudgetBytes(totalBytes)
	if n.MostBytes() > budget {
		return Tight, fmt.Sprintf("weights and the KV cache of %s take %s; vLLM takes %s to %s beside them, and the budget is %s",
			n.requestText(), human(n.TotalBytes()), human(n.OverheadMinBytes), human(n.OverheadMaxBytes), human(budget))
	}
	if left := less(freeBytes, budget); left < n.outside {
		return Tight, fmt.Sprintf("vLLM may take %s beyond its budget of %s, and %s are free there", human(n.outside), human(budget), human(left))
	}
	return Fits, ""
}

// Fits reports whether a replica could start for certain.
func (n Need) Fits(totalBytes, freeBytes uint64) bool {
	v, _ := n.Verdict(totalBytes, freeBytes)
	return v == Fits
}

// Obstacle says in words why a replica cannot start: vLLM's own test of one GPU, with the least that it takes beside
// weights and cache. "" where it could.
func (n Need) Obstacle(totalBytes, freeBytes uint64) string {
	budget := n.BudgetBytes(totalBytes)
	weights := n.ResidentWeightsBytes()
	refusal := batchRefusal(n.batch)
	switch {
	case totalBytes == 0:
		return "the GPU's memory is not known"
	case refusal != "":
		return refusal
	case weights > budget:
		return fmt.Sprintf("the weights take %s on each GPU, more than the budget of %s", human(weights), human(budget))
	case n.LeastBytes() > budget && less(n.LeastBytes(), n.KVSequencesBytes) <= budget:
		return fmt.Sprintf("vLLM keeps a state for each of %d requests at once (--max-num-seqs): %s beside weights (%s) and what it takes itself (%s at the least) are more than the budget of %s",
			n.batch.sequences, human(n.sequenceBlocks), human(weights), human(n.OverheadMinBytes), human(budget))
	case n.LeastBytes() > budget:
		return fmt.Sprintf("weights (%s), the KV cache of %s (%s) and what vLLM takes beside them (%s at the least) are more than the budget of %s",
			human(weights), n.requestText(), human(n.KVBytes), human(n.OverheadMinBytes), human(budget))
	case freeBytes < budget:
		return fmt.Sprintf("%s are free, less than the budget of %s that vLLM claims at the start", human(freeBytes), human(budget))
	}
	return ""
}
