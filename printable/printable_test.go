package printable

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

// hostile are texts, and how they are shown.
var hostile = map[string]string{
	"plain":                      "plain",
	"Größe 模型 🙂 e\u0301":         "Größe 模型 🙂 e\u0301",
	`a\b "c"`:                    `a\b "c"`,
	"\x1b]0;owned\a\x1b[2J":      `\x1b]0;owned\x07\x1b[2J`,
	"\u009b2J":                   `\u009b2J`, // the same in one character
	"\x9b2J":                     `\x9b2J`,   // and in one byte
	"a\r\nstoker: fine\tb":       `a\r\nstoker: fine\tb`,
	"\u202egnp.exe":              `\u202egnp.exe`,
	"\u2066a\u2069":              `\u2066a\u2069`,
	"a\u200bb\u200d\u2060\ufeff": `a\u200bb\u200d\u2060\ufeff`,
	"a\u00adb\u2028c\u2029":      `a\u00adb\u2028c\u2029`,
	"a\u00a0b\u3000":             `a\u00a0b\u3000`,
	"a\U000e0041":                `a\udb40\udc41`,
	"a\ufe0f\u034f\u3164\u2800":  `a\ufe0f\u034f\u3164\u2800`,
	"a\ue000\ufffd\uffff":        `a\ue000` + "\ufffd" + `\uffff`,
	"cut \xe2\x80":               `cut \xe2\x80`,
	"del \x7f":                   `del \u007f`,
}

func TestLine(t *testing.T) {
	for text, want := range hostile {
		if got := Line(text); got != want {
			t.Errorf("%q: %q; want %q", text, got, want)
		}
		if got := Line(want); got != want {
			t.Errorf("%q twice: %q", text, got)
		}
	}
}

func TestStrip(t *testing.T) {
	for text, want := range map[string]string{
		"plain \u00e9": "plain \u00e9", "a\u200bb\x1b[2J\ufffd\xff\n\ufe0fc": "ab[2Jc", "": "",
	} {
		if got := Strip(text); got != want {
			t.Errorf("%q: %q; want %q", text, got, want)
		}
	}
}

func TestShort(t *testing.T) {
	for _, tt := range []struct {
		text string
		n    int
		want string
	}{
		{"abcdef", 6, "abcdef"},
		{"abcdefg", 6, "abc..."},
		{"ab\x1bdefg", 6, `ab\...`},
		{strings.Repeat("é", 1<<20), 5, "éé..."},
	} {
		if got := Short(tt.text, tt.n); got != tt.want {
			t.Errorf("%.20q at %d: %q; want %q", tt.text, tt.n, got, tt.want)
		}
	}
}

// Whatever the pieces in which a text is written, it comes out as one.
func TestWriter(t *testing.T) {
	for text, want := range hostile {
		want = strings.NewReplacer(`a\r\nstoker: fine\tb`, "a\\r\nstoker: fine\tb").Replace(want)
		for size := 1; size <= len(text); size++ {
			var out bytes.Buffer
			w := NewWriter(&out)
			for rest := []byte(text); len(rest) > 0; {
				n, err := w.Write(rest[:min(size, len(rest))])
				if err != nil || n != min(size, len(rest)) {
					t.Fatalf("%q: %d, %v", text, n, err)
				}
				rest = rest[n:]
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if got := out.String(); got != want {
				t.Errorf("%q in pieces of %d: %q; want %q", text, size, got, want)
			}
		}
	}
}

// JSON means the same behind a Writer, and has nothing in it that steers.
func TestJSONStaysExact(t *testing.T) {
	for text := range hostile {
		text = strings.ToValidUTF8(text, "")
		var out bytes.Buffer
		enc := json.NewEncoder(NewWriter(&out))
		enc.SetEscapeHTML(false)
		if err := enc.Encode(map[string]string{text: text}); err != nil {
			t.Fatal(err)
		}
		var got map[string]string
		if err := json.Unmarshal(out.Bytes(), &got); err != nil || got[text] != text {
			t.Errorf("%q: %q, %v", text, out.String(), err)
		}
		if line := strings.TrimSuffix(out.String(), "\n"); Line(line) != line {
			t.Errorf("%q: %q", text, line)
		}
	}
}

func TestExact(t *testing.T) {
	var out bytes.Buffer
	if _, err := NewWriter(&out).Exact().Write([]byte("/a\u200db\x1b")); err != nil || out.String() != "/a\u200db\x1b" {
		t.Errorf("%q, %v", out.String(), err)
	}
}

// The first error is not lost, whoever ignores it.
func TestErrorsOfWriting(t *testing.T) {
	full := errors.New("full")
	for _, text := range []string{"plain", "\x1b"} {
		w := NewWriter(writeFunc(func([]byte) (int, error) { return 0, full }))
		if n, err := w.Write([]byte(text)); n != 0 || !errors.Is(err, full) {
			t.Errorf("%q: %d, %v", text, n, err)
		}
		if err := w.Close(); !errors.Is(err, full) {
			t.Errorf("%q: closed with %v", text, err)
		}
	}
	if err := NewWriter(&bytes.Buffer{}).Close(); err != nil {
		t.Error(err)
	}
}

type writeFunc func([]byte) (int, error)

func (f writeFunc) Write(p []byte) (int, error) { return f(p) }

func FuzzLine(f *testing.F) {
	for text := range hostile {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, s string) {
		line := Line(s)
		if !utf8.ValidString(line) || strings.ContainsFunc(line, func(r rune) bool { return !safe(r, 2) }) || Line(line) != line {
			t.Errorf("%q becomes %q", s, line)
		}
		var out bytes.Buffer
		w := NewWriter(&out)
		_, _ = w.Write([]byte(s)) // a buffer takes everything
		_ = w.Close()
		if got := strings.NewReplacer("\n", `\n`, "\t", `\t`).Replace(out.String()); got != line {
			t.Errorf("%q: %q is written, and %q is the line", s, got, line)
		}
		if short := Short(s, 20); utf8.RuneCountInString(short) > 20 {
			t.Errorf("%q is %q", s, short)
		}
	})
}
