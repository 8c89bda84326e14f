package store

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPlanThatCannotBeWritten: a plan whose file reports an error is written into another
// one, with the lines that it had; one that cannot be replaced either is an error.
func TestPlanThatCannotBeWritten(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	g, err := s.Stage(t.Context(), "m", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	first, second := strings.Repeat("a", 64), strings.Repeat("b", 64)
	if err := g.Keep(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	unwritable := func() {
		t.Helper()
		f, err := os.Open(s.planPath("m"))
		if err != nil {
			t.Fatal(err)
		}
		_ = g.plan.Close()
		g.plan = f
	}
	unwritable()
	if err := g.Keep(t.Context(), second); err != nil {
		t.Error(err)
	}
	data, err := os.ReadFile(s.planPath("m"))
	if want := first + "\n" + second + "\n"; err != nil || string(data) != want {
		t.Errorf("the plan is %q, %v, want %q", data, err, want)
	}
	unwritable()
	pulls := filepath.Dir(s.planPath("m"))
	if err := errors.Join(os.RemoveAll(pulls), os.WriteFile(pulls, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if g.Keep(t.Context(), second) == nil {
		t.Error("a plan that is nowhere was kept")
	}
}
