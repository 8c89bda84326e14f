package charts

import (
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Helm assumes its own library's version where it is not told the cluster's.
func TestForcedInjection(t *testing.T) {
	for values, want := range map[string]bool{
		"namespaces: [serving]\n":                                        false,
		"namespaces: [serving]\ninject: {force: true}\n":                 true,
		"namespaces: [serving]\ninject: {force: true, enabled: false}\n": false,
		"inject: {force: true}\n":                                        false,
	} {
		objs, err := Release{Chart: Stoker, Name: "rel", Namespace: "gpu-system", Values: []byte(values), KubeVersion: "v1.35.0"}.Objects()
		if err != nil {
			t.Fatal(err)
		}
		got := slices.ContainsFunc(objs, func(o *unstructured.Unstructured) bool { return o.GetKind() == "MutatingAdmissionPolicy" })
		if got != want {
			t.Errorf("%s: the policy is rendered: %v", values, got)
		}
	}
}

// No two volumes have one name, whatever releases and namespaces are called.
func TestVolumeNamesDoNotCollide(t *testing.T) {
	const shared = "volume: {mode: shared, claimSize: 2Gi, shared: {source: {nfs: {server: nas.example, path: /models}}}}\n"
	owner := map[string]string{}
	for name, values := range map[string]string{
		"stoker":       shared + "namespaces: [a-b, b, store, stoker-store]",
		"stoker-a":     shared + "namespaces: [b, store, a-b]",
		"stoker-store": shared + "namespaces: [b, store]",
	} {
		for _, obj := range renderRelease(t, name, []byte(values)) {
			if obj.GetKind() != "PersistentVolume" {
				continue
			}
			if other := owner[obj.GetName()]; other != "" {
				t.Errorf("releases %s and %s have a volume %s", other, name, obj.GetName())
			}
			owner[obj.GetName()] = name
			if size, _, err := unstructured.NestedString(obj.Object, "spec", "capacity", "storage"); err != nil || size != "2Gi" {
				t.Errorf("volume %s has size %q, %v", obj.GetName(), size, err)
			}
		}
	}
	if len(owner) != 5+4+3 {
		t.Errorf("there are %d volumes: %v", len(owner), owner)
	}
}

func renderRelease(t *testing.T, name string, values []byte) []*unstructured.Unstructured {
	t.Helper()
	objs, err := Render(values, name, "gpu-system")
	if err != nil {
		t.Fatal(err)
	}
	return objs
}
