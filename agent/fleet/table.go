package fleet

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/stoker-project/stoker/printable"
)

// table is rows of cells; the first row is the header.
type table [][]string

// maxText bounds a text that people read, in characters: what a Node says may be as
// long as an annotation.
const maxText = 2000

// add takes texts as Nodes say them; in the table each is one inert line.
func (t *table) add(cells ...string) {
	for i, c := range cells {
		cells[i] = or(printable.Short(c, maxText), "-")
	}
	*t = append(*t, cells)
}

// shorten bounds each cell.
func (t table) shorten(width int) {
	for _, row := range t {
		for i, c := range row {
			row[i] = brief(c, width)
		}
	}
}

// write aligns the columns. A table with nothing but its header is left out.
func (t table) write(w io.Writer) error {
	if len(t) < 2 {
		return nil
	}
	var text strings.Builder
	tw := tabwriter.NewWriter(&text, 0, 8, 2, ' ', 0)
	for _, row := range t {
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(text.String()) {
		if _, err := fmt.Fprintln(w, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

// writeAll writes what there is, with an empty line in between.
func writeAll(w io.Writer, parts ...table) error {
	written := false
	for _, t := range parts {
		if len(t) < 2 {
			continue
		}
		if written {
			if _, err := fmt.Fprintln(w); err != nil {
				return err
			}
		}
		written = true
		if err := t.write(w); err != nil {
			return err
		}
	}
	return nil
}

// note writes a sentence after the tables.
func note(w io.Writer, format string, args ...any) error {
	_, err := fmt.Fprintf(w, "\n%s\n", printable.Line(fmt.Sprintf(format, args...)))
	return err
}
