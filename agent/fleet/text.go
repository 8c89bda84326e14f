package fleet

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
)

// size writes bytes for people, in binary units.
func size[T int64 | uint64](n T) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n)/1024, 0
	for value >= 1023.95 && unit < 5 {
		value /= 1024
		unit++
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTPE"[unit])
}

// span writes a duration with at most two units: 40s, 3m20s, 5h, 3d4h.
func span(d time.Duration) string {
	d = d.Round(time.Second)
	if d < 0 {
		d = 0
	}
	day := 24 * time.Hour
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < 10*time.Minute:
		return units(d, time.Minute, "m", time.Second, "s")
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < day:
		return units(d, time.Hour, "h", time.Minute, "m")
	}
	return units(d, day, "d", time.Hour, "h")
}

func units(d, large time.Duration, largeName string, small time.Duration, smallName string) string {
	s := fmt.Sprintf("%d%s", d/large, largeName)
	if rest := d % large / small; rest > 0 {
		s += fmt.Sprintf("%d%s", rest, smallName)
	}
	return s
}

// count is a number of things: "1 node", "2 nodes".
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// short is a revision as people read it, and as the label has it.
func short(revision string) string {
	return strings.Trim(revision[:min(12, len(revision))], "._-")
}

// brief shortens a text to n characters.
func brief(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return strings.TrimSpace(string(r[:max(n-3, 0)])) + "..."
}

// sentence begins with a capital letter and ends with a point. A first word
// that is one of the names, or looks like a key or a source, stays as it is.
func sentence(s string, names ...string) string {
	s = strings.TrimSpace(s)
	if s == "" {
		return ""
	}
	first, _, _ := strings.Cut(s, " ")
	first = strings.TrimRight(first, ":,;")
	if !slices.Contains(names, first) && !strings.ContainsAny(first, "./:-_=0123456789") {
		r := []rune(s)
		r[0] = unicode.ToUpper(r[0])
		s = string(r)
	}
	if !strings.ContainsAny(s[len(s)-1:], ".!?") {
		s += "."
	}
	return s
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
