package secrets

import "regexp"

// pattern finds what looks like a secret, and says what is written in its place.
type pattern struct {
	find *regexp.Regexp
	put  string
}

// patterns are for secrets that nobody registered: what an operator wrote into the
// wrong field, and signed addresses in errors of libraries.
func patterns() []pattern {
	return []pattern{
		{hubToken, "hf_" + Hidden},
		{userInfo, "://" + Hidden + "@"},
		{loneUser, "${1}" + Hidden + "@"},
		{secretQuery, "${1}" + Hidden},
		{credentials, "$1 " + Hidden},
	}
}

var (
	hubToken    = regexp.MustCompile(`\bhf_[A-Za-z0-9]{6,}`)
	userInfo    = regexp.MustCompile(`://[^/@\s"]*:[^/@\s"]*@`)
	loneUser    = regexp.MustCompile(`(?i)((?:https?|socks5h?)://)[^/@\s"]+@`)
	secretQuery = regexp.MustCompile(`(?i)((?:signature|token|credential|secret|password|x-amz-[a-z-]+|x-goog-[a-z-]+)=)[^&\s"]+`)
	credentials = regexp.MustCompile(`(?i)\b(bearer|authorization:(?:\s+(?:bearer|basic|token|digest))?)\s+[^\s"]+`)
)

func hidePatterns(text string) string {
	for _, p := range patterns() {
		text = p.find.ReplaceAllString(text, p.put)
	}
	return text
}
