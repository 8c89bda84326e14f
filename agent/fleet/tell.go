package fleet

import (
	"fmt"
	"io"
)

// Write writes the explanation for people: why, what to do, and the facts.
func (e *Explanation) Write(w io.Writer) error {
	verdict := "not warm"
	if e.Warm {
		verdict = "warm"
	}
	if _, err := fmt.Fprintf(w, "%s on %s: %s\n\nWhy:  %s\nDo:   %s\n", e.Model, e.Node, verdict, e.Why, e.Do); err != nil {
		return err
	}
	if e.Run != "" {
		if _, err := fmt.Fprintf(w, "      %s\n", e.Run); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	wide := 0
	for _, f := range e.Facts {
		wide = max(wide, len(f.Name))
	}
	for _, f := range e.Facts {
		if _, err := fmt.Fprintf(w, "%-*s  %s\n", wide, f.Name, f.Value); err != nil {
			return err
		}
	}
	return nil
}
