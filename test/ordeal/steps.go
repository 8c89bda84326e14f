package ordeal

import (
	"math/rand/v2"
	"slices"
	"time"
)

// Step is one thing that happens to the world. What it does is chosen when it
// is made, from the seed alone, so that a walk can be taken again.
type Step[W any] struct {
	Name string
	Run  func(w W)
}

// Kind makes steps of a kind.
type Kind[W any] struct {
	Weight int
	Make   func(r *rand.Rand) Step[W]
}

// Choose makes a step of one of the kinds.
func Choose[W any](r *rand.Rand, kinds []Kind[W]) Step[W] {
	total := 0
	for _, k := range kinds {
		total += k.Weight
	}
	n := r.IntN(total)
	for _, k := range kinds {
		if n -= k.Weight; n < 0 {
			return k.Make(r)
		}
	}
	panic("no kind was chosen")
}

// OneOf chooses among values.
func OneOf[T any](r *rand.Rand, values ...T) T { return values[r.IntN(len(values))] }

// Within is a random part of d, in milliseconds.
func Within(r *rand.Rand, d time.Duration) time.Duration {
	return time.Duration(r.Int64N(int64(d/time.Millisecond)+1)) * time.Millisecond
}

// Weighted multiplies the weights, so that sets of different sizes can be mixed:
// n is the weight of the set as a whole.
func Weighted[W any](n int, kinds []Kind[W]) []Kind[W] {
	const unit = 60
	total := 0
	for _, k := range kinds {
		total += k.Weight
	}
	out := slices.Clone(kinds)
	for i := range out {
		out[i].Weight = max(1, out[i].Weight*n*unit/total)
	}
	return out
}
