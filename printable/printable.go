// Package printable makes texts that others gave fit for a terminal: names, reasons
// and hints of a source's server, a Node's annotation, a driver, a file of the store.
// What can steer a terminal, reorder a line or hide in it is written as an escape
// (\x1b, \u202e), so that it is seen and does nothing.
//
// There are two walls. [Line] is for where a text of others becomes a part of ours: it
// has no line breaks, with which it could pass for ours. [Writer] is for standard
// output and standard error, and stops what was forgotten. Texts of programs, such as
// JSON and paths, are not for [Line].
package printable

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Line escapes everything in s that is no visible character or plain space, line breaks
// and tabs too. What is escaped once is not escaped again.
func Line(s string) string {
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if !safe(r, n) {
			return s[:i] + escaped(s[i:])
		}
		i += n
	}
	return s
}

// Short is Line of at most n characters; what it leaves out is three points.
func Short(s string, n int) string {
	if len(s) > 4*n { // do not look at megabytes
		s = s[:4*n]
	}
	s = Line(s)
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	r := []rune(s)
	return strings.TrimSpace(string(r[:max(n-3, 0)])) + "..."
}

// Strip is Line that leaves out what Line escapes: for a text in which secrets are
// looked for afterwards, so that none is found in two halves.
func Strip(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if safe(r, n) && r != utf8.RuneError {
			b.WriteString(s[i : i+n])
		}
		i += n
	}
	return b.String()
}

func escaped(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if safe(r, n) {
			b.WriteString(s[i : i+n])
		} else {
			b.WriteString(escape(r, n, s[i]))
		}
		i += n
	}
	return b.String()
}

// safe says whether a character of n bytes is shown as it is.
func safe(r rune, n int) bool {
	switch {
	case r >= ' ' && r < 0x7f:
		return true
	case r == utf8.RuneError:
		return n > 1 // else it stands for a byte that is no character
	case !unicode.IsPrint(r): // controls, formats, separators, private and unknown ones
		return false
	}
	// Letters and marks by their class, and yet nothing is shown.
	return !unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector) && r != braille
}

// braille is a pattern without a dot: a space by another name.
const braille = '\u2800'

// escape writes a character as Go does, or where that is not JSON's way too, as JSON
// does: only control characters below the space have been escaped by an encoder.
func escape(r rune, n int, first byte) string {
	switch {
	case r == utf8.RuneError && n <= 1:
		return fmt.Sprintf(`\x%02x`, first)
	case r == '\n':
		return `\n`
	case r == '\r':
		return `\r`
	case r == '\t':
		return `\t`
	case r < ' ':
		return fmt.Sprintf(`\x%02x`, r)
	case r > 0xffff:
		high, low := utf16.EncodeRune(r)
		return fmt.Sprintf(`\u%04x\u%04x`, high, low)
	}
	return fmt.Sprintf(`\u%04x`, r)
}
