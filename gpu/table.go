package gpu

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/stoker-project/stoker/printable"
)

// barCells is the width of the bar of used memory.
const barCells = 16

// Table renders devices for a terminal: one line each under a line of column
// names, MIG devices indented under their GPU, processes under their device. The
// bar shows the part of the memory that is not free, which is more than USED
// where the driver tells reserved memory apart; a process's bar shows what it
// holds. What is not known is "-". Below stands what is the matter with devices.
func Table(devices []Device) string {
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	// Writes to a strings.Builder do not fail, nor does a flush into one.
	_, _ = fmt.Fprintln(w, "GPU\tNAME\tMEMORY IN USE\tUSED\tFREE\tTOTAL\tSTATE")
	for _, d := range devices {
		_, _ = fmt.Fprintln(w, strings.Join(row(d), "\t"))
		for _, p := range d.Processes {
			_, _ = fmt.Fprintln(w, strings.Join(processRow(d, p), "\t"))
		}
	}
	_ = w.Flush()
	text := trimLines(out.String())
	if notes := notes(devices); len(notes) > 0 {
		text += "\n" + strings.Join(notes, "\n") + "\n"
	}
	return text
}

func row(d Device) []string {
	cells := []string{number(d), known(d.Name), "-", "-", "-", "-", string(d.State)}
	if d.MIG != nil {
		cells[0] = "  " + cells[0]
	}
	if d.TotalBytes > 0 {
		cells[2] = bar(d.TotalBytes-min(d.FreeBytes, d.TotalBytes), d.TotalBytes)
		cells[3] = FormatSize(d.UsedBytes)
		cells[4] = FormatSize(d.FreeBytes)
		cells[5] = FormatSize(d.TotalBytes)
	}
	if d.State == StateOK && !d.Usable() {
		cells[6] = "blocked"
	}
	return cells
}

// number is a device's: "3", or "3.1" for a MIG device.
func number(d Device) string {
	n := strconv.Itoa(d.Index)
	if d.MIG != nil {
		n += "." + strconv.Itoa(d.MIG.Index)
	}
	return n
}

func processRow(d Device, p Process) []string {
	name := "  process " + strconv.FormatUint(uint64(p.PID), 10)
	if p.PID == 0 {
		name = "  process, PID unknown"
	}
	if p.MPS {
		name += " (MPS)"
	}
	cells := []string{"", name, "-", "-", "", "", ""}
	if p.UsedKnown {
		cells[3] = FormatSize(p.UsedBytes)
		if d.TotalBytes > 0 {
			cells[2] = bar(min(p.UsedBytes, d.TotalBytes), d.TotalBytes)
		}
	}
	return cells
}

// notes says what is the matter, in one line for all devices of which it is.
func notes(devices []Device) []string {
	var texts []string
	who := map[string][]string{}
	note := func(d Device, text string) {
		if who[text] == nil {
			texts = append(texts, text)
		}
		who[text] = append(who[text], number(d))
	}
	for _, d := range devices {
		if d.State != StateOK && d.State != StatePartitioned {
			note(d, string(d.State)+": "+known(d.Reason))
			continue
		}
		for _, c := range d.Conditions {
			word := "note"
			if c.Blocks {
				word = "blocked"
			}
			note(d, word+": "+printable.Line(c.Reason))
		}
		switch {
		case d.State == StatePartitioned || d.ProcessesReason == "":
		case d.ProcessesPartial:
			note(d, "processes may be missing: "+printable.Line(d.ProcessesReason))
		default:
			note(d, "processes unknown: "+printable.Line(d.ProcessesReason))
		}
	}
	lines := make([]string, 0, len(texts))
	for _, text := range texts {
		word := "GPU "
		if len(who[text]) > 1 {
			word = "GPUs "
		}
		lines = append(lines, word+strings.Join(slices.Compact(who[text]), ", ")+": "+text)
	}
	return lines
}

// bar draws a part of a device's memory. Any use shows as at least one cell, and
// only all of it as a full bar and 100%, so that the ends can be believed.
func bar(used, total uint64) string {
	part := float64(used) / float64(total)
	cells := int(part*barCells + 0.5)
	if cells == 0 && used > 0 {
		cells = 1
	}
	if cells == barCells && used < total {
		cells = barCells - 1
	}
	percent := int(part * 100)
	if used < total {
		percent = min(percent, 99) // the quotient of large numbers may round to 1
	}
	return fmt.Sprintf("[%s%s] %3d%%", strings.Repeat("#", cells), strings.Repeat(".", barCells-cells), percent)
}

// trimLines takes away what pads the last columns.
func trimLines(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		out.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	return out.String()
}

func known(s string) string {
	if s == "" {
		return "-"
	}
	return printable.Line(s)
}
