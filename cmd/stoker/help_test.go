package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// The help of every command is a golden file: what people read is reviewed
// like code.
func TestHelp(t *testing.T) {
	t.Setenv("STOKER_STORE", "")
	t.Setenv("NODE_NAME", "")
	t.Setenv("POD_NAMESPACE", "")
	var walk func(cmd *cobra.Command, path []string)
	walk = func(cmd *cobra.Command, path []string) {
		if cmd.Name() == "help" || cmd.Name() == "completion" {
			return
		}
		name := strings.Join(append([]string{"stoker"}, path...), "-")
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := call(t, append(path, "--help")...)
			if code != exitOK || stderr != "" {
				t.Fatalf("--help exits with %d and says %q", code, stderr)
			}
			golden(t, "help/"+name+".txt", stdout)
			checkHelp(t, cmd, stdout)
		})
		for _, sub := range cmd.Commands() {
			walk(sub, append(path, sub.Name()))
		}
	}
	c := &cli{stdout: &strings.Builder{}, stderr: &strings.Builder{}}
	walk(c.root(), nil)
}

// checkHelp holds a help text to what each must have.
func checkHelp(t *testing.T, cmd *cobra.Command, text string) {
	t.Helper()
	if cmd.Example == "" || cmd.Long == "" || cmd.Short == "" {
		t.Error("the command has no example, or no text")
	}
	if !strings.Contains(text, "Exit codes:") {
		t.Error("the exit codes are missing")
	}
	for line := range strings.Lines(cmd.Long + "\n" + cmd.Example) {
		if n := len([]rune(strings.TrimRight(line, "\n"))); n > 90 {
			t.Errorf("a line of the text has %d characters: %s", n, line)
		}
	}
}
