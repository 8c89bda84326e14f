package secrets_test

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher/secrets"
)

// each writes every byte of a secret by format.
func each(format, secret string) string {
	var b strings.Builder
	for _, c := range []byte(secret) {
		fmt.Fprintf(&b, format, c)
	}
	return b.String()
}

// encoded are the ways in which a server may repeat a secret, character by character.
func encoded(secret string) map[string]string {
	return map[string]string{
		"percent": each("%%%02X", secret), "percent, lower case": each("%%%02x", secret), "percent twice": each("%%25%02X", secret),
		"JSON": each(`\u%04x`, secret), "JSON in JSON": each(`\\u%04x`, secret), "source": each(`\x%02x`, secret), "octal": each(`\%03o`, secret),
		"HTML": each("&#%d;", secret), "HTML, hexadecimal": each("&#x%x;", secret), "HTML, zeros": each("&#%05d;", secret),
		"hexadecimal": hex.EncodeToString([]byte(secret)), "HEX": strings.ToUpper(hex.EncodeToString([]byte(secret))),
		"hexadecimal behind a digit": "a" + hex.EncodeToString([]byte(secret)) + "b", "bytes": each("%02x ", secret),
		"hexadecimal, percent": each("%%%02x", hex.EncodeToString([]byte(secret))),
		"percent, one":         fmt.Sprintf("%%%02X", secret[0]) + secret[1:],
	}
}

// samples are values as sources give them out, and one that a person made up.
var samples = []string{
	"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", "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "d41d8cd98f00b204e9800998ecf8427e",
	token, "correct-horse-battery-staple",
}

// No encoding shows a secret, and no part of it comes through that would help anybody.
func TestEncodedAndPartial(t *testing.T) {
	for _, secret := range append([]string{"Tr0ub4dor", quoted}, samples...) {
		s := secrets.New()
		s.Add(secret)
		forms := encoded(secret)
		if len(secret) >= 16 {
			forms["less three"], forms["less its end"], forms["upper case, less three"] = secret[3:], secret[:len(secret)-3], strings.ToUpper(secret[3:])
			forms["cut by a space"], forms["cut by a line"] = secret[:5]+" "+secret[5:], secret[:9]+"\r\n\t"+secret[9:]
			forms["in pieces"] = secret[:12] + "..." + secret[len(secret)-12:]
			forms["less three, percent"] = each("%%%02x", secret[3:])
			forms["cut by spaces"] = strings.Join(strings.Split(secret, ""), " ")
		}
		for name, form := range forms {
			for _, text := range []string{form, "not to " + form + ", sorry", "x=" + form + "&y"} {
				got := s.Scrub(text)
				left := strings.NewReplacer(secrets.Hidden, "", "not to ", "", ", sorry", "", "x=", "", "&y", "", "...", "").Replace(got)
				if !strings.Contains(got, secrets.Hidden) || len(left) > 4 || s.Hide(text) == text || !s.Has(text) {
					t.Errorf("%s: %q becomes %q", name, text, got)
				}
			}
		}
	}
}

// Ordinary words stay, whatever secrets there are: those of this project's own texts.
func TestOrdinaryTextsStay(t *testing.T) {
	s := secrets.New()
	s.Add(samples...)
	s.Add("my-production-password-2024", "authentication: production")
	pages, err := filepath.Glob("../../*.md")
	if err != nil || len(pages) == 0 {
		t.Fatal(pages, err)
	}
	for _, page := range append(pages, "set.go", "views.go") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if got := s.Hide(line); got != line {
				t.Errorf("%s: %q becomes %q", page, line, got)
			}
		}
	}
	for _, line := range []string{
		"the production password of 2024 is another", "50% of d41d8c &c. \\users\\x &amp; &#32;", "a sha256 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
		"correct horse", "time=2024-01-01T00:00:00Z", "%E6%97%A5 \\u65e5 &#26085;",
	} {
		if got := s.Hide(line); got != line {
			t.Errorf("%q becomes %q", line, got)
		}
	}
}

// What a text makes of the search is bounded: it takes about twice as long for twice as
// much, and a view is made of no long text.
func TestLongTexts(t *testing.T) {
	s := secrets.New()
	s.Add(strings.Repeat("ab1", 1000), "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")
	began := time.Now()
	for _, text := range []string{
		strings.Repeat("ab1", 1<<18), strings.Repeat("%", 60<<10), strings.Repeat("&#", 30<<10), strings.Repeat("a1", 30<<10), strings.Repeat(`\u`, 30<<10), strings.Repeat(" ", 60<<10),
	} {
		s.Scrub(text)
	}
	if took := time.Since(began); took > 20*time.Second { // by the square of it, minutes
		t.Errorf("it took %s", took)
	}
}

// FuzzViews encodes and cuts a secret in any text: it does not come out.
func FuzzViews(f *testing.F) {
	f.Add("before", "after", uint8(3))
	f.Add("%", ";", uint8(0))
	f.Add("abc0", "0", uint8(9))
	f.Add(`\`, "%2", uint8(30))
	f.Fuzz(func(t *testing.T, before, after string, cut uint8) {
		const secret = "hf_QwErTyUiOpAsDfGhJkLzXcVbNm12345678"
		s := secrets.New()
		s.Add(secret)
		forms := encoded(secret)
		at := int(cut) % len(secret)
		forms["cut"], forms["rest"] = secret[:at]+" "+secret[at:], secret[at:]
		for name, form := range forms {
			if name == "rest" && len(form) < 11 {
				continue
			}
			text := before + " " + form + " " + after
			if got := s.Scrub(text); !strings.Contains(got, secrets.Hidden) || strings.Contains(got, form) {
				t.Errorf("%s: %q becomes %q", name, text, got)
			}
		}
	})
}
