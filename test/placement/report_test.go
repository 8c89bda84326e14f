package placement

import (
	"flag"
	"os"
	"strings"
	"testing"
)

// page is where what is measured stands.
const page = "../../docs/placement.md"

var update = flag.Bool("update", false, "write what is measured to docs/placement.md")

// report logs a measured text, and puts it between its marks on the page.
func report(tb testing.TB, name, text string) {
	tb.Helper()
	tb.Logf("%s\n%s", name, text)
	if !*update {
		return
	}
	data, err := os.ReadFile(page)
	if err != nil {
		tb.Fatal(err)
	}
	begin, end := "<!-- measured: "+name+" -->\n", "<!-- end of "+name+" -->"
	before, rest, found := strings.Cut(string(data), begin)
	_, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		tb.Fatalf("%s has no place for %s", page, name)
	}
	if err := os.WriteFile(page, []byte(before+begin+text+end+after), 0o644); err != nil {
		tb.Fatal(err)
	}
}
