package fleet

import (
	"fmt"
	"io"

	"github.com/stoker-project/stoker/printable"
)

// Write writes the explanation for people: why, what to do, and the facts.
func (e *Explanation) Write(w io.Writer) error {
	shown := func(s string) string { return printable.Short(s, 2*maxText) }
	verdict := "not warm"
	if e.Warm {
		verdict = "warm"
	}
	if _, err := fmt.Fprintf(w, "%s on %s: %s\n\nWhy:  %s\nDo:   %s\n", e.Model, shown(e.Node), verdict, shown(e.Why), shown(e.Do)); err != nil {
		return err
	}
	if e.Run != "" {
		if _, err := fmt.Fprintf(w, "      %s\n", shown(e.Run)); err != nil {
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
		if _, err := fmt.Fprintf(w, "%-*s  %s\n", wide, f.Name, shown(f.Value)); err != nil {
			return err
		}
	}
	return nil
}
