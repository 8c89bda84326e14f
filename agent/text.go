package agent

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/stoker-project/stoker/fetcher/secrets"
	"github.com/stoker-project/stoker/printable"
)

// truncate shortens s to at most n runes and ends it with "..." if it did.
func truncate(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:max(n-3, 0)]) + "..."
}

// truncateBytes shortens s to at most n bytes without cutting a character.
func truncateBytes(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n-3], "") + "..."
}

// oneLine makes a message fit for an annotation, an event or a status file: one line
// that steers no terminal, at most n runes.
func oneLine(s string, n int) string {
	s = strings.NewReplacer("\r\n", " ", "\n", " ", "\t", " ").Replace(s) // ours have several lines as well
	return truncate(printable.Line(strings.TrimSpace(redact(s))), n)
}

// oneSentence joins the lines of a list of mistakes.
func oneSentence(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, ":\n", ": "), "\n", "; ")
}

// sizeText writes bytes for people, in binary units.
func sizeText(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	x, i := float64(n)/1024, 0
	for x >= 1024 && i < len(units)-1 {
		x /= 1024
		i++
	}
	return fmt.Sprintf("%.1f %ciB", x, units[i])
}

// requestID is what a server calls one request. It is for logs: in the
// annotation it would make every attempt a change.
var requestID = regexp.MustCompile(`,? \(?request id [^\s;,)]+\)?`)

// lasting is a reason without what differs from one attempt to the next.
func lasting(s string) string { return requestID.ReplaceAllString(s, "") }

// redact takes out of s what looks like a secret. Those that the agent knows are
// taken out by hideSecrets, rejectList, and the recorder of events.
func redact(s string) string { return (*secrets.Set)(nil).Scrub(s) }

// errText is an error for logs, events and the annotation.
func errText(err error) string {
	if err == nil {
		return ""
	}
	return redact(err.Error())
}
