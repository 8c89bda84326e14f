package secrets

import (
	"encoding/base64"
	"encoding/json"
	"html"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// formsOf returns how texts may show a secret, in lower case: as it is, in a URL,
// quoted, and within what is base64.
func formsOf(secret string) []string {
	quoted, inJSON := strconv.Quote(secret), secret
	if b, err := json.Marshal(secret); err == nil {
		inJSON = strings.Trim(string(b), `"`)
	}
	forms := []string{
		secret, url.QueryEscape(secret), url.PathEscape(secret), html.EscapeString(secret),
		quoted[1 : len(quoted)-1], inJSON,
	}
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		forms = append(forms, encoding.EncodeToString([]byte(secret)), encoding.WithPadding('=').EncodeToString([]byte(secret)))
		for lead := range 3 {
			if form := base64Core(encoding, secret, lead); len(form) >= minAnywhere {
				forms = append(forms, form)
			}
		}
	}
	for i := range forms {
		forms[i] = lowerASCII(forms[i])
	}
	slices.Sort(forms)
	return slices.Compact(forms)
}

// base64Core returns the characters that a secret alone decides in a base64 text
// where it begins lead bytes behind a multiple of three.
func base64Core(encoding *base64.Encoding, secret string, lead int) string {
	text := encoding.EncodeToString(append(make([]byte, lead), secret...))
	from := (lead*8 + 5) / 6
	to := (lead + len(secret)) * 8 / 6
	return text[min(from, to):to]
}
