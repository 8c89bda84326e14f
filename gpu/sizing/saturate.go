package sizing

import (
	"math"
	"math/bits"
)

// The numbers of a config.json are multiplied with each other. Products and sums
// stop at the largest number instead of wrapping around, so that an absurd model
// is too large for every GPU instead of fitting on one.

func mul(factors ...uint64) uint64 {
	product := uint64(1)
	for _, f := range factors {
		high, low := bits.Mul64(product, f)
		if high != 0 {
			return math.MaxUint64 // even if a later factor is 0
		}
		product = low
	}
	return product
}

func add(terms ...uint64) uint64 {
	var sum uint64
	for _, t := range terms {
		s, carry := bits.Add64(sum, t, 0)
		if carry != 0 {
			return math.MaxUint64
		}
		sum = s
	}
	return sum
}

// ceilDiv rounds up; d is not 0.
func ceilDiv(n, d uint64) uint64 {
	q := n / d
	if n%d != 0 {
		q++
	}
	return q
}

// less is a-b, and 0 where b is larger.
func less(a, b uint64) uint64 {
	return a - min(a, b)
}
