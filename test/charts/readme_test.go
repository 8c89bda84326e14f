package charts

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stoker-project/stoker/agent"
)

// The values that the README shows are installed as they stand there: the
// chart takes them, and the agent takes what comes of them.
func TestReadmeValues(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join(repositoryRoot(t), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?s)cat > values\.yaml <<'EOF'\n(.*?)\nEOF`).FindSubmatch(readme)
	if found == nil {
		t.Fatal("the README shows no values.yaml")
	}
	objs, err := Render(found[1], "stoker", "stoker-system")
	if err != nil {
		t.Fatal(err)
	}
	text, err := AgentConfig(objs)
	if err != nil {
		t.Fatal(err)
	}
	config, err := agent.ParseConfig(text)
	if err != nil {
		t.Fatal(err)
	}
	if len(config.Models) != 2 {
		t.Errorf("%d models, the README lists 2", len(config.Models))
	}
}
