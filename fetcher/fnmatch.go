package fetcher

// Match reports whether name matches pattern the way Python's
// fnmatch.fnmatchcase does, which is what the Hub's own client filters with:
// case matters, * crosses slashes, ** is only *, ? is any one character,
// [seq] and [!seq] are sets, and a bracket that is never closed is itself.
// Every pattern is valid.
func Match(pattern, name string) bool {
	return matchTokens(parsePattern(pattern), []rune(name))
}

// token is one element of a pattern: a star, or a test of one character.
type token struct {
	star bool
	test func(rune) bool
}

func parsePattern(pattern string) []token {
	p := []rune(pattern)
	var tokens []token
	for i := 0; i < len(p); {
		c := p[i]
		i++
		switch c {
		case '*':
			if len(tokens) == 0 || !tokens[len(tokens)-1].star {
				tokens = append(tokens, token{star: true})
			}
		case '?':
			tokens = append(tokens, token{test: func(rune) bool { return true }})
		case '[':
			end := closingBracket(p, i)
			if end < 0 {
				tokens = append(tokens, literal('['))
				continue
			}
			tokens = append(tokens, token{test: parseSet(p[i:end])})
			i = end + 1
		default:
			tokens = append(tokens, literal(c))
		}
	}
	return tokens
}

func literal(c rune) token {
	return token{test: func(r rune) bool { return r == c }}
}

// closingBracket finds the ] that ends a set beginning at i, or -1. A ] right
// after [ or [! belongs to the set.
func closingBracket(p []rune, i int) int {
	if i < len(p) && p[i] == '!' {
		i++
	}
	if i < len(p) && p[i] == ']' {
		i++
	}
	for ; i < len(p); i++ {
		if p[i] == ']' {
			return i
		}
	}
	return -1
}

type runeRange struct{ low, high rune }

// parseSet reads what stands between the brackets. A hyphen makes a range when
// it has a character on both sides; a range that goes backwards is empty, as
// in Python.
func parseSet(set []rune) func(rune) bool {
	negated := len(set) > 0 && set[0] == '!'
	if negated {
		set = set[1:]
	}
	var ranges []runeRange
	for i := 0; i < len(set); {
		if i+2 < len(set) && set[i+1] == '-' {
			ranges = append(ranges, runeRange{set[i], set[i+2]})
			i += 3
			continue
		}
		ranges = append(ranges, runeRange{set[i], set[i]})
		i++
	}
	return func(r rune) bool {
		for _, x := range ranges {
			if x.low <= r && r <= x.high {
				return !negated
			}
		}
		return negated
	}
}

// matchTokens is the usual two-pointer walk: on a mismatch the last star takes
// one character more. Its time is bounded by len(tokens) x len(name).
func matchTokens(tokens []token, name []rune) bool {
	t, n := 0, 0
	star, resume := -1, 0
	for n < len(name) {
		switch {
		case t < len(tokens) && tokens[t].star:
			star, resume = t, n
			t++
		case t < len(tokens) && tokens[t].test(name[n]):
			t++
			n++
		case star >= 0:
			resume++
			t, n = star+1, resume
		default:
			return false
		}
	}
	for t < len(tokens) && tokens[t].star {
		t++
	}
	return t == len(tokens)
}
