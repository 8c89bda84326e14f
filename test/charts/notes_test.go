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
		label        = "with one label; the API server adds the rest"
		old          = "is older than Kubernetes 1.36"
		model        = "models: [{source: 'hf://ORG/NAME'}]\n"
	)
	all := []string{noModels, noNamespaces, noRuntime, notRead, pod, label, old}
	for _, tc := range []struct {
		name, values string
		version      string
		want         []string
	}{
		{"defaults", "", kubernetesVersion, []string{noModels, noNamespaces, noRuntime}},
		{"only models", model, kubernetesVersion, []string{noNamespaces, noRuntime}},
		{"only namespaces", "namespaces: [serving]", kubernetesVersion, []string{noModels, noRuntime}},
		{"a runtime class", "runtimeClassName: nvidia", kubernetesVersion, []string{noModels, noNamespaces}},
		{"no GPUs", "gpus: none", kubernetesVersion, []string{noModels, noNamespaces, notRead}},
		{"everything", model + "namespaces: [serving]\nruntimeClassName: nvidia", kubernetesVersion, []string{label}},
		{"an older cluster", model + "namespaces: [serving]\nruntimeClassName: nvidia", "v1.35.9-gke.1", []string{pod, old}},
		{"switched off", model + "namespaces: [serving]\nruntimeClassName: nvidia\ninject: {enabled: false}", "v1.36.0", []string{pod}},
		{"an older cluster without models", "namespaces: [serving]", "v1.30.0", []string{noModels, noRuntime}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			notes, err := Release{Chart: Stoker, Name: "rel", Namespace: "gpu-system", Values: []byte(tc.values), KubeVersion: tc.version}.Notes()
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
