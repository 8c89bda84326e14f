package fleet

import (
	"fmt"
	"strings"
)

// UnknownError is a name that nothing in the cluster has.
type UnknownError struct {
	// What is node or model.
	What, Name string
	// Nearest is a name that may have been meant; empty: none is near.
	Nearest string
	// Known is how many names there are.
	Known int
}

func (e *UnknownError) Error() string {
	text := fmt.Sprintf("there is no node %q", e.Name)
	if e.What == "model" {
		text = fmt.Sprintf("no node says anything of a model %q", e.Name)
	}
	switch {
	case e.Nearest != "":
		return text + fmt.Sprintf("; did you mean %q?", e.Nearest)
	case e.Known == 0 && e.What == "model":
		return text + ", nor of any other"
	}
	return text + "; `stoker status` lists those that there are"
}

// nearest is the name that is most like the given one; empty if none is.
func nearest(name string, names []string) string {
	best, least := "", max(2, len(name)/3)+1
	for _, n := range names {
		d := distance(strings.ToLower(name), strings.ToLower(n))
		if len(name) >= 3 && strings.Contains(strings.ToLower(n), strings.ToLower(name)) {
			d = min(d, 1) // a part of it, such as a host's name without its domain
		}
		if d < least || (d == least && best != "" && n < best) {
			best, least = n, d
		}
	}
	return best
}

// distance is how many characters must be put in, taken out or replaced to make
// one text of the other.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
