package httpsource_test

import (
	"net/http"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stoker-project/stoker/fetcher/httpsource"
)

// FuzzAnswered: what is repeated of an answer is one line of which nothing steers a
// terminal, and no answer asks to wait for less than nothing.
func FuzzAnswered(f *testing.F) {
	f.Add("AccessDenied", "you may not", "id-1", "5")
	f.Add("\x1b[2J", strings.Repeat("\u202e", 1000), "a\nb", "Fri, 31 Dec 9999 23:59:59 GMT")
	f.Add("", "\xff\xfe", "", "-1")
	f.Fuzz(func(t *testing.T, code, message, id, after string) {
		text := httpsource.Answered("host", http.StatusForbidden, code, message, id).Error()
		if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) || utf8.RuneCountInString(text) > 1000 {
			t.Errorf("%q", text)
		}
		if wait := httpsource.RetryAfter(http.Header{"Retry-After": {after}}); wait < 0 {
			t.Errorf("%q: %s", after, wait)
		}
	})
}

// FuzzPart: an answer passes only if it is exactly the range that was asked for.
func FuzzPart(f *testing.F) {
	f.Add(206, "bytes 2-4/10", int64(3), int64(10), int64(2), int64(3))
	f.Add(206, "bytes 2-4/*", int64(-1), int64(10), int64(2), int64(3))
	f.Add(200, "", int64(10), int64(10), int64(0), int64(10))
	f.Add(206, "bytes 2-4/10, bytes 0-1/10", int64(3), int64(10), int64(2), int64(3))
	f.Fuzz(func(t *testing.T, status int, span string, stated, size, offset, length int64) {
		if size < 0 || offset < 0 || length < 0 || offset > size || length > size-offset {
			return // nobody asks for that
		}
		err := httpsource.Part{Status: status, Range: span, Length: stated}.Check(size, offset, length)
		if err != nil {
			return
		}
		if status != http.StatusPartialContent && status != http.StatusOK || stated >= 0 && stated != length ||
			status == http.StatusOK && (offset != 0 || length != size) {
			t.Errorf("%d %q of %d passes for %d bytes from %d of %d", status, span, stated, length, offset, size)
		}
	})
}

// FuzzPathOf: a key of a bucket becomes what stands behind the prefix, or an error.
func FuzzPathOf(f *testing.F) {
	for _, key := range []string{"m/a", "m/", "m", "m2/a", "m//a", "m/../a", "m/a/", "/m/a", ""} {
		f.Add(key, "m/", int64(1))
		f.Add(key, "", int64(0))
	}
	f.Fuzz(func(t *testing.T, key, prefix string, size int64) {
		path, isFile, err := httpsource.PathOf(key, prefix, size)
		if err == nil && isFile && prefix+path != key || !isFile && path != "" {
			t.Errorf("%q below %q of %d bytes becomes %q, %v", key, prefix, size, path, err)
		}
	})
}
