package main

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/term"
)

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// clearLine takes away a progress bar, in the middle of which a line may come on
// standard error.
func (c *cli) clearLine() {
	if c.terminal {
		fmt.Fprint(c.steering, "\r\x1b[K")
	}
}
