package secrets_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stoker-project/stoker/fetcher/secrets"
)

// The results of commands lose secrets, and nothing else.
func TestWriterOfResults(t *testing.T) {
	s := secrets.New()
	s.Add("a-credential/of\"somebody", "minio", "12345678")
	for _, c := range []struct {
		asJSON     bool
		text, want string
	}{
		{false, "dtype \"A-CREDENTIAL/of\"somebody\" is not known\n", "dtype \"(hidden)\" is not known\n"},
		{false, "model: minio\n", "model: minio\n"}, // too short to be told from a word
		{false, "https://host/?token=abcdefgh hf_abcdefghij\n", "https://host/?token=abcdefgh hf_abcdefghij\n"},
		{true, `{"a<b":"x","n":12345678,"s":["é\n12345678"]}`, `{"a<b":"x","n":12345678,"s":["é\n(hidden)"]}`},
		{true, `{"k a-credential/of\"somebody":"a\\\"b"}`, `{"k (hidden)":"a\\\"b"}`},
	} {
		var out strings.Builder
		n, err := s.Writer(&out, c.asJSON).Write([]byte(c.text))
		if err != nil || n != len(c.text) || out.String() != c.want {
			t.Errorf("%q becomes %q (%d, %v), want %q", c.text, out.String(), n, err, c.want)
		}
		if c.asJSON && !json.Valid([]byte(out.String())) {
			t.Errorf("%q is no JSON", out.String())
		}
	}
	var none *secrets.Set
	if got := none.Hide("12345678"); got != "12345678" {
		t.Errorf("without secrets, it becomes %q", got)
	}
}
