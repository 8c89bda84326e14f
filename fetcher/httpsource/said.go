package httpsource

import (
	"strings"
	"unicode/utf8"

	"github.com/stoker-project/stoker/printable"
)

// maxMessage bounds what is repeated of a server's words, in characters.
const maxMessage = 200

// maxID bounds what is repeated of a server's codes and request ids; Amazon's second
// request id has 76 characters.
const maxID = 128

// Plain makes a server's words fit to be shown: one line, and not long. It is cut
// between words: what hides secrets finds no half of one.
func Plain(s string) string {
	s = printable.Strip(s)
	if utf8.RuneCountInString(s) <= maxMessage {
		return s
	}
	s = string([]rune(s)[:maxMessage])
	s = s[:max(strings.LastIndexByte(s, ' '), 0)]
	return s + "..."
}

// ID returns a code or an identifier that a server gave, if it has the shape of one:
// not long, and of [A-Za-z0-9._-]; the Hub's request ids have = and ; as well. Else it
// returns "".
func ID(s string) string {
	if len(s) > maxID {
		return ""
	}
	for i := range len(s) {
		if !isIDByte(s[i]) && s[i] != '=' && s[i] != ';' {
			return ""
		}
	}
	return s
}

func isIDByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-'
}
