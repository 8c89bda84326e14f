package sweep

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestParseRelease(t *testing.T) {
	for text, good := range map[string]bool{
		"stoker/stoker": true, "gpu-system/my.release": true, "a/b": true,
		"": false, "stoker": false, "/stoker": false, "stoker/": false, "a/b/c": false, "A/b": false, "a.b/c": false, "a/b c": false,
		"a/123456789012345678901234567890123456789012345678901234": false,
	} {
		got, err := ParseRelease(text)
		if (err == nil) != good || (good && got.String() != text) {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

func TestReleaseOfNode(t *testing.T) {
	for status, want := range map[string]string{
		`{"version":1,"release":"a/b"}`: "a/b", `{"version":1}`: "", "": "", "{": "", `{"release":7}`: "",
	} {
		n := nodeOf(&metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"stoker.dev/status": status}}})
		if n.Release != want {
			t.Errorf("%s: %q, want %q", status, n.Release, want)
		}
	}
}

// The labels of a DaemonSet may be a GitOps tool's; the annotation is the chart's.
func TestWhoseDaemonSet(t *testing.T) {
	deleted := metav1.Now()
	meta := func(annotation, chart, instance string) metav1.PartialObjectMetadata {
		m := metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: "ds", Annotations: map[string]string{}, Labels: map[string]string{chartLabel: chart, "app.kubernetes.io/instance": instance},
		}}
		if annotation != "" {
			m.Annotations["stoker.dev/release"] = annotation
		}
		return m
	}
	going := meta("ns/rel", "stoker-0.1.0", "rel")
	going.DeletionTimestamp = &deleted
	for name, tc := range map[string]struct {
		all         []metav1.PartialObjectMetadata
		own, going  bool
		others      bool
		releaseless bool // what names no release is removed
	}{
		"nothing":                       {releaseless: true},
		"its own":                       {all: []metav1.PartialObjectMetadata{meta("ns/rel", "stoker-0.1.0", "rel")}, own: true, releaseless: true},
		"its own, named by the app":     {all: []metav1.PartialObjectMetadata{meta("ns/rel", "stoker-0.1.0", "app")}, own: true, releaseless: true},
		"its own of an older chart":     {all: []metav1.PartialObjectMetadata{meta("", "stoker-0.1.0", "rel")}, own: true, releaseless: true},
		"its own, being deleted":        {all: []metav1.PartialObjectMetadata{going}, own: true, going: true, releaseless: true},
		"one going, one not":            {all: []metav1.PartialObjectMetadata{going, meta("ns/rel", "stoker-0.1.0", "rel")}, own: true, releaseless: true},
		"another release":               {all: []metav1.PartialObjectMetadata{meta("ns/other", "stoker-0.1.0", "other")}, others: true},
		"the same name elsewhere":       {all: []metav1.PartialObjectMetadata{meta("b/rel", "stoker-0.1.0", "rel")}, others: true},
		"another one of an older chart": {all: []metav1.PartialObjectMetadata{meta("", "stoker-0.0.9", "other")}, others: true},
		"another chart":                 {all: []metav1.PartialObjectMetadata{meta("", "cilium-1.19.0", "rel"), meta("", "stoker-tools-1.0.0", "rel")}, releaseless: true},
		"an annotation that names none": {all: []metav1.PartialObjectMetadata{meta("rel", "cilium-1.19.0", "rel")}, releaseless: true},
		"without labels but annotated":  {all: []metav1.PartialObjectMetadata{meta("ns/rel", "", "")}, own: true, releaseless: true},
		"its own and another release's": {all: []metav1.PartialObjectMetadata{meta("ns/rel", "stoker-0.1.0", "rel"), meta("b/x", "stoker-0.1.0", "x")}, own: true, others: true},
	} {
		var sets []daemonSet
		for i := range tc.all {
			if d, ok := daemonSetOf(&tc.all[i]); ok {
				sets = append(sets, d)
			}
		}
		own, others := split(sets, Release{Namespace: "ns", Name: "rel"})
		if (own != nil) != tc.own || others != tc.others || (own != nil && own.going != tc.going) {
			t.Errorf("%s: own is %+v, others is %v", name, own, others)
		}
		u := unlabel{release: "ns/rel", others: others}
		if u.mine(node{}) != tc.releaseless || !u.mine(node{Release: "ns/rel"}) || u.mine(node{Release: "b/x"}) {
			t.Errorf("%s: it would remove the wrong nodes' keys", name)
		}
	}
	if everybodys := (&unlabel{others: true}); !everybodys.mine(node{}) || !everybodys.mine(node{Release: "b/x"}) {
		t.Error("without a release, every node's keys are to go")
	}
}
