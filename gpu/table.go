package gpu

import (
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
)

// barCells is the width of the bar of used memory.
const barCells = 16

// Table renders devices for a terminal, one line each under a line of column
// names. The bar shows the part of the memory that is not free, which is more
// than USED where the driver tells reserved memory apart. MIG devices indented under their GPU. What is not known is "-".
func Table(devices []Device) string {
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	// Writes to a strings.Builder do not fail, nor does a flush into one.
	_, _ = fmt.Fprintln(w, "GPU\tNAME\tUUID\tTOTAL\tUSED\tFREE\tMEMORY IN USE\tSTATE")
	for _, d := range devices {
		_, _ = fmt.Fprintln(w, strings.Join(row(d), "\t"))
	}
	_ = w.Flush()
	return out.String()
}

func row(d Device) []string {
	number := strconv.Itoa(d.Index)
	if d.MIG != nil {
		number = "  " + number + "." + strconv.Itoa(d.MIG.Index)
	}
	cells := []string{number, known(d.Name), known(d.UUID), "-", "-", "-", "-", string(d.State)}
	if d.TotalBytes > 0 {
		cells[3] = FormatSize(d.TotalBytes)
		cells[4] = FormatSize(d.UsedBytes)
		cells[5] = FormatSize(d.FreeBytes)
		cells[6] = bar(d)
	}
	if d.Reason != "" {
		cells[7] += ": " + printable(d.Reason)
	}
	return cells
}

// bar draws the part that is not free. Any use shows as at least one cell, and
// only a full device as a full bar and 100%, so that the ends can be believed.
func bar(d Device) string {
	inUse := float64(d.TotalBytes-min(d.FreeBytes, d.TotalBytes)) / float64(d.TotalBytes)
	cells := int(inUse*barCells + 0.5)
	if cells == 0 && inUse > 0 {
		cells = 1
	}
	if cells == barCells && d.FreeBytes > 0 {
		cells = barCells - 1
	}
	return fmt.Sprintf("[%s%s] %3d%%", strings.Repeat("#", cells), strings.Repeat(".", barCells-cells), int(inUse*100))
}

func known(s string) string {
	if s == "" {
		return "-"
	}
	return printable(s)
}

// printable keeps a name that a driver gave from breaking the table.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
}
