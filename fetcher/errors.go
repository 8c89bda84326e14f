package fetcher

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/stoker-project/stoker/fetcher/store"
)

// What a failure means for whoever decides whether to try again. Code branches
// on these with errors.Is; every failure of a driver is exactly one of them.
var (
	// ErrTransient is a passing failure: a cut connection, a 5xx, a timeout.
	// Trying again may help.
	ErrTransient = errors.New("passing failure")
	// ErrThrottled is a source that asks for patience; Error.RetryAfter says
	// how long. Trying again sooner prolongs it.
	ErrThrottled = errors.New("rate limited")
	// ErrRefused is a source that will not give this: missing, gated, no
	// access, no such revision. Trying again helps only after somebody acted.
	ErrRefused = errors.New("refused by the source")
	// ErrMisconfigured is an ErrRefused that is no word of the source: it could not
	// be asked, because what this machine gives for it (a token, a credentials
	// file, an endpoint) cannot be used as it stands.
	ErrMisconfigured = fmt.Errorf("wrong configuration: %w", ErrRefused)
	// ErrUnsupported is a source that this build has no driver for.
	ErrUnsupported = errors.New("unsupported source")
	// ErrCorrupt is content that does not verify, or file names that no source
	// may give.
	ErrCorrupt = store.ErrCorrupt
	// ErrNoRanges is, within an ErrTransient, a source that sends the whole file
	// where a part of it was asked for. If it keeps to that, the engine takes
	// the file from its front, over one connection.
	ErrNoRanges = errors.New("the source gives no ranges")
	// ErrSlow is, within an ErrTransient, a source that sends too little to wait
	// for: what it brought is no progress.
	ErrSlow = errors.New("too slow")
	// ErrNoSpace is a full disk, a used-up quota, or a reserve that would be
	// crossed.
	ErrNoSpace = store.ErrNoSpace
)

// Error is a failure that people read: what was being done, to what, why it
// failed and what to do about it. It never contains a token or a signed URL.
type Error struct {
	// Kind is one of the sentinels of this package.
	Kind error
	// Op is what was being done, verb first: "list files".
	Op string
	// Origin is what it was done to: a source, a file of it, a host.
	Origin string
	// Err is why it failed.
	Err error
	// Hint is what to do about it, without a full stop; may be empty.
	Hint string
	// RetryAfter is how long to wait before trying again, at least; zero if
	// the source did not say.
	RetryAfter time.Duration
	// Quota is, of an ErrThrottled, which quota is used up; zero: the source named none.
	Quota Quota
}

// Quota is a number of requests that a source answers in a window of time, and that is
// used up. Until then is for all who share it; RetryAfter of the same [Error] is when
// this process should return, which may be later: all at once would use it up again.
type Quota struct {
	// Host is whose quota it is.
	Host string
	// Requests says of which requests, in words: "API calls".
	Requests string
	// Until is when it is renewed.
	Until time.Time
	// Held says that the source was not even asked: its driver knew. That is no try and
	// no failure.
	Held bool
}

// QuotaOf returns the quota that err says is used up, or the zero Quota.
func QuotaOf(err error) Quota {
	var e *Error
	if errors.As(err, &e) && errors.Is(err, ErrThrottled) {
		return e.Quota
	}
	return Quota{}
}

// Error says it in one sentence: op, origin, cause; hint.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Origin != "" {
		b.WriteString(" ")
		b.WriteString(e.Origin)
	}
	if e.Err != nil {
		b.WriteString(": ")
		b.WriteString(cut(e.Err.Error()))
	}
	if e.Hint != "" {
		b.WriteString("; ")
		b.WriteString(e.Hint)
	}
	return b.String()
}

// maxCause bounds the text of a cause, in bytes: parsers repeat what they could not
// parse, and a source may send millions of digits.
const maxCause = 1500

// cut shortens a text that is too long to be read.
func cut(text string) string {
	if len(text) <= maxCause {
		return text
	}
	return strings.ToValidUTF8(text[:maxCause], "") + "..."
}

// Unwrap makes both the kind and the cause visible to errors.Is and errors.As.
func (e *Error) Unwrap() []error { return []error{e.Kind, e.Err} }

// Hint returns the first hint in the chain of err, or "".
func Hint(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Hint
	}
	return ""
}

// Permanent says that trying again cannot help until somebody changed
// something: the source refuses.
func Permanent(err error) bool { return errors.Is(err, ErrRefused) }
