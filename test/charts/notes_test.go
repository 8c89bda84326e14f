package charts

import (
	"strings"
	"testing"
)

// The notes say what these values still lack, and nothing that they have.
func TestNotesFollowTheValues(t *testing.T) {
	const (
		noModels     = "No models are listed"
		noNamespaces = "No namespaces are listed"
		noRuntime    = "No runtimeClassName is set"
		notRead      = "GPUs are not read"
		pod          = "A pod that prefers nodes where"
		model        = "models: [{source: 'hf://ORG/NAME'}]\n"
	)
	all := []string{noModels, noNamespaces, noRuntime, notRead, pod}
	for _, tc := range []struct {
		name, values string
		want         []string
	}{
		{"defaults", "", []string{noModels, noNamespaces, noRuntime}},
		{"only models", model, []string{noNamespaces, noRuntime}},
		{"only namespaces", "namespaces: [serving]", []string{noModels, noRuntime}},
		{"a runtime class", "runtimeClassName: nvidia", []string{noModels, noNamespaces}},
		{"no GPUs", "gpus: none", []string{noModels, noNamespaces, notRead}},
		{"everything", model + "namespaces: [serving]\nruntimeClassName: nvidia", []string{pod}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			notes, err := Notes([]byte(tc.values), "rel", "gpu-system")
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, sentence := range all {
				if strings.Contains(notes, sentence) {
					got = append(got, sentence)
				}
			}
			if strings.Join(got, "\n") != strings.Join(tc.want, "\n") {
				t.Errorf("the notes say %q, want %q:\n%s", got, tc.want, notes)
			}
			if strings.Contains(notes, "\n\n\n") {
				t.Errorf("the notes have a hole:\n%s", notes)
			}
		})
	}
}
