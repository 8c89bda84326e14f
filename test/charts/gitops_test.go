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
