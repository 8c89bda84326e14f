//go:build linux

package measure

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"
)

var errNoField = errors.New("no such field")

// memory reads a process's peak of resident memory, and its anonymous memory
// now, as Usage has them.
func memory(pid int) (Usage, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return Usage{}, err
	}
	hwm, err := kilobytes(text, "VmHWM:")
	if err != nil {
		return Usage{}, err // it has ended and is not waited for yet
	}
	anon, err := kilobytes(text, "RssAnon:")
	return Usage{PeakRSS: hwm, PeakAnon: anon}, err
}

// kilobytes finds a line "NAME   123 kB" and returns bytes.
func kilobytes(text []byte, name string) (int64, error) {
	_, rest, ok := bytes.Cut(text, []byte("\n"+name))
	if !ok {
		return 0, fmt.Errorf("%s: %w", name, errNoField)
	}
	line, _, _ := bytes.Cut(rest, []byte(" kB\n"))
	n, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 10, 64)
	return n << 10, err
}

// clockTick is the unit of /proc/PID/stat: USER_HZ, which Linux fixed at 100.
const clockTick = 10 * time.Millisecond

// CPU is what a process that is still running has used so far, user and
// system, to a hundredth of a second.
func CPU(pid int) (time.Duration, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, fmt.Errorf("read CPU time: %w", err)
	}
	// The name before it, in brackets, may have anything in it.
	field := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(field) < 13 {
		return 0, fmt.Errorf("read CPU time of %d: %w", pid, errNoField)
	}
	var total time.Duration
	for _, f := range field[11:13] {
		n, err := strconv.ParseInt(string(f), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read CPU time of %d: %w", pid, err)
		}
		total += time.Duration(n) * clockTick
	}
	return total, nil
}
