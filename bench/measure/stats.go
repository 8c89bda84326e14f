package measure

import "slices"

// Spread is the middle of a set of numbers: the median and the quartiles.
// Between two numbers it is interpolated.
type Spread struct {
	Low, Median, High float64
	// N is how many numbers there were; with 0 the others mean nothing.
	N int
}

// SpreadOf sorts a copy of values.
func SpreadOf(values []float64) Spread {
	sorted := slices.Sorted(slices.Values(values))
	if len(sorted) == 0 {
		return Spread{}
	}
	at := func(q float64) float64 {
		pos := q * float64(len(sorted)-1)
		i := int(pos)
		if i+1 == len(sorted) {
			return sorted[i]
		}
		return sorted[i] + (pos-float64(i))*(sorted[i+1]-sorted[i])
	}
	return Spread{Low: at(0.25), Median: at(0.5), High: at(0.75), N: len(sorted)}
}
