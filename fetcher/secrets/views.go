package secrets

import (
	"html"
	"strconv"
	"strings"
	"unicode/utf8"
)

// view is a text less one way to encode characters, and where each byte of it stands in
// the text that was given.
type view struct {
	text     string
	from, to []int32
	// joined says that white space was left out.
	joined bool
}

// whole returns the view of a text as it is.
func whole(text string) view {
	v := view{text: text, from: make([]int32, len(text)), to: make([]int32, len(text))}
	for i := range len(text) {
		v.from[i], v.to[i] = int32(i), int32(i+1)
	}
	return v
}

// span returns where a part of the view stands in the text that was given.
func (v view) span(p span) span { return span{int(v.from[p.from]), int(v.to[p.to-1])} }

// rewrite returns the view in which next replaces what it knows at a place in the text:
// n bytes of it by put. It keeps the byte where n is 0. same says that nothing was
// replaced.
func (v view) rewrite(next func(at int) (put string, n int)) (w view, same bool) {
	var text []byte
	same = true
	for at := 0; at < len(v.text); {
		put, n := next(at)
		if n == 0 {
			put, n = v.text[at:at+1], 1
		} else {
			same = false
		}
		text = append(text, put...)
		for range len(put) {
			w.from, w.to = append(w.from, v.from[at]), append(w.to, v.to[at+n-1])
		}
		at += n
	}
	w.text, w.joined = string(text), v.joined
	return w, same
}

// maxNested is how many encodings within one another are undone.
const maxNested = 2

// maxViewed bounds the texts of which there are views, in bytes; no error has as many.
const maxViewed = 64 << 10

// views returns what a text says once its encodings are undone: escapes (of URLs, JSON,
// source code and HTML), then hexadecimal digits by two, and spaces between characters.
func views(text string) []view {
	if len(text) > maxViewed {
		return nil
	}
	at := whole(text)
	levels := []view{at}
	for range maxNested {
		next, same := at.rewrite(func(i int) (string, int) { return unescape(at.text[i:]) })
		if same {
			break
		}
		levels, at = append(levels, next), next
	}
	all := levels[1:len(levels):len(levels)]
	for _, level := range levels {
		if joined, same := level.rewrite(func(i int) (string, int) { return "", spaces(level.text[i]) }); !same {
			joined.joined = true
			all = append(all, joined)
			all = append(all, joined.unhex()...)
		}
		all = append(all, level.unhex()...)
	}
	return all
}

// unescape reads one escaped character: %XX, \xXX, \uXXXX, &#NN; or &#xNN;, or \ before
// another.
func unescape(text string) (string, int) {
	switch {
	case len(text) < 2:
	case text[0] == '%':
		return numbered(text, 1, 2, 16)
	case text[0] == '&':
		end := strings.IndexByte(text[:min(len(text), 12)], ';')
		if end < 0 {
			return "", 0
		}
		if put := html.UnescapeString(text[:end+1]); put != text[:end+1] {
			return put, end + 1
		}
	case text[0] == '\\' && text[1] == 'x':
		return numbered(text, 2, 2, 16)
	case text[0] == '\\' && text[1] == 'u':
		return numbered(text, 2, 4, 16)
	case text[0] == '\\' && text[1] >= '0' && text[1] <= '3':
		return numbered(text, 1, 3, 8)
	case text[0] == '\\' && strings.IndexByte(`\"'/`, text[1]) >= 0:
		return text[1:2], 2
	}
	return "", 0
}

// numbered reads the character whose number has so many digits behind from.
func numbered(text string, from, digits, base int) (string, int) {
	if len(text) < from+digits {
		return "", 0
	}
	n, err := strconv.ParseUint(text[from:from+digits], base, 32)
	switch {
	case err != nil:
		return "", 0
	case digits < 4: // a byte
		return string([]byte{byte(n)}), from + digits
	}
	return string(utf8.AppendRune(nil, rune(n))), from + digits
}

// spaces is 1 for white space, else 0.
func spaces(c byte) int {
	if c == ' ' || c >= '\t' && c <= '\r' {
		return 1
	}
	return 0
}

// unhex returns the views of what runs of hexadecimal digits say, read from the first
// digit of a run and from the second.
func (v view) unhex() []view {
	var all []view
	for odd := range 2 {
		start, end := 0, 0 // of the run that is read
		at, same := v.rewrite(func(i int) (string, int) {
			if i >= end {
				start = i
				for end = i; end < len(v.text) && isHex(v.text[end]); {
					end++
				}
			}
			if end-start < 2*minAnywhere || i < start+odd || i+2 > end {
				return "", 0
			}
			return numbered(v.text[i:], 0, 2, 16)
		})
		if !same {
			all = append(all, at)
		}
	}
	return all
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}
