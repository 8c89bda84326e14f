package gitops

import (
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"github.com/stoker-project/stoker/test/charts"
)

// kustomized gives what kustomize builds of the objects, as `kubectl apply -k` and
// Flux's Kustomization do.
func kustomized(t *testing.T, objs []*unstructured.Unstructured) []string {
	t.Helper()
	var all []string
	for _, obj := range objs {
		text, err := yaml.Marshal(obj)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, string(text))
	}
	fs := filesys.MakeFsInMemory()
	for name, content := range map[string]string{"all.yaml": strings.Join(all, "---\n"), "kustomization.yaml": "resources: [all.yaml]\n"} {
		if err := fs.WriteFile("/app/"+name, []byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(fs, "/app")
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, r := range built.Resources() {
		keys = append(keys, r.GetKind()+" "+r.GetName())
	}
	slices.Sort(keys)
	return keys
}

// Kustomize, and with it Flux's Kustomization, applies everything that Helm would
// install and nothing that Helm would keep for the uninstallation.
func TestKustomizeLeavesHooksOut(t *testing.T) {
	r := charts.Release{Chart: charts.Stoker, Name: "rel", Namespace: "gpu-system", Values: []byte("namespaces: [serving]\n")}
	installed, err := r.Objects()
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, obj := range installed {
		want = append(want, obj.GetKind()+" "+obj.GetName())
	}
	slices.Sort(want)
	printed, err := r.Template()
	if err != nil {
		t.Fatal(err)
	}
	hooks, err := charts.PostDeleteHooks(r.Values, r.Name, r.Namespace)
	if err != nil {
		t.Fatal(err)
	}
	if len(printed) != len(want)+len(hooks) || len(hooks) == 0 {
		t.Fatalf("helm template prints %d objects: %d are installed, %d are hooks", len(printed), len(want), len(hooks))
	}
	if got := kustomized(t, printed); !slices.Equal(got, want) {
		t.Errorf("kustomize builds\n%q\nHelm installs\n%q", got, want)
	}
}
