package charts

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
	chartutil "helm.sh/helm/v4/pkg/chart/v2/util"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

// renderAll renders or ends the test.
func renderAll(t *testing.T, values []byte) []*unstructured.Unstructured {
	t.Helper()
	objs, err := Render(values, "rel", "gpu-system")
	if err != nil {
		t.Fatal(err)
	}
	return objs
}

// find gives the object of that kind and key, converted to its type.
func find(t *testing.T, objs []*unstructured.Unstructured, kind, key string, into any) {
	t.Helper()
	for _, obj := range objs {
		if obj.GetKind() == kind && objectKey(obj) == key {
			content, err := yaml.Marshal(obj.Object)
			if err != nil {
				t.Fatal(err)
			}
			if err := yaml.UnmarshalStrict(content, into); err != nil {
				t.Fatalf("%s %s: %v", kind, key, err)
			}
			return
		}
	}
	t.Fatalf("no %s %s among the rendered objects", kind, key)
}

// renderHooks renders what uninstalling creates, or ends the test.
func renderHooks(t *testing.T, values []byte) []*unstructured.Unstructured {
	t.Helper()
	objs, err := PostDeleteHooks(values, "rel", "gpu-system")
	if err != nil {
		t.Fatal(err)
	}
	return objs
}

// manifest writes objects as one text.
func manifest(t *testing.T, objs []*unstructured.Unstructured) string {
	t.Helper()
	var b strings.Builder
	for _, obj := range objs {
		content, err := yaml.Marshal(obj.Object)
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString("---\n")
		b.Write(content)
	}
	return b.String()
}

func TestGolden(t *testing.T) {
	for _, i := range bothCharts(t) {
		for name, values := range map[string][]byte{"default": i.least, "full": i.full} {
			name = i.golden + name
			t.Run(name, func(t *testing.T) {
				objs, err := i.release(values).Objects()
				if err != nil {
					t.Fatal(err)
				}
				checkGolden(t, filepath.Join("golden", name+".yaml"), manifest(t, objs))
				notes, err := i.release(values).Notes()
				if err != nil {
					t.Fatal(err)
				}
				checkGolden(t, filepath.Join("golden", name+"-notes.txt"), notes)
				if i.chart == Stoker {
					checkGolden(t, filepath.Join("golden", name+"-hooks.yaml"), manifest(t, renderHooks(t, values)))
				}
			})
		}
	}
}

// Each object decodes into its Go type with no unknown and no doubled field,
// from the very text that Helm would send.
func TestRenderedManifestsDecodeStrictly(t *testing.T) {
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	for name, values := range map[string][]byte{"default": nil, "full": fullValues(t)} {
		files, err := Release{Chart: Stoker, Name: "rel", Namespace: "gpu-system", Values: values}.files()
		if err != nil {
			t.Fatal(err)
		}
		decoded := 0
		for file, content := range files {
			if file == notesFile {
				continue
			}
			for doc := range strings.SplitSeq(content, "\n---") {
				if strings.TrimSpace(doc) == "" || strings.TrimSpace(doc) == "---" {
					continue
				}
				if strings.Contains(doc, "apiVersion: monitoring.coreos.com/") {
					decoded++ // whose fields TestApply checks
					continue
				}
				if _, _, err := decoder.Decode([]byte(doc), nil, nil); err != nil {
					t.Errorf("%s values, %s: %v", name, file, err)
				}
				decoded++
			}
		}
		if want := len(renderAll(t, values)) + len(renderHooks(t, values)); decoded != want {
			t.Errorf("%s values: decoded %d documents, Render and PostDeleteHooks give %d objects", name, decoded, want)
		}
	}
}

func TestHelmLintIsClean(t *testing.T) {
	for _, i := range bothCharts(t) {
		dir, err := Dir(i.chart)
		if err != nil {
			t.Fatal(err)
		}
		for name, values := range map[string][]byte{"default": i.least, "full": i.full} {
			read, err := common.ReadValues(values)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range lint.RunAll(dir, read, "gpu-system").Messages {
				// An icon is advice for catalogues; the charts have none.
				if m.Severity > support.InfoSev || !strings.Contains(m.Err.Error(), "icon") {
					t.Errorf("%s, %s values: %v", i.chart, name, m)
				}
			}
		}
	}
}

func TestKubeVersion(t *testing.T) {
	for _, i := range bothCharts(t) {
		t.Run(i.chart, func(t *testing.T) { testKubeVersion(t, i.chart) })
	}
}

func testKubeVersion(t *testing.T, chart string) {
	c, err := load(chart)
	if err != nil {
		t.Fatal(err)
	}
	for version, want := range map[string]bool{
		"v1.29.9":            false,
		"v1.30.0":            true,
		"v1.30.4-eks-a737":   true,
		"v1.33.4-gke.124500": true,
		"v1.37.2":            true,
	} {
		if got := chartutil.IsCompatibleRange(c.Metadata.KubeVersion, version); got != want {
			t.Errorf("kubeVersion %q admits %s: %v, want %v", c.Metadata.KubeVersion, version, got, want)
		}
	}
}

// Before 1.36 the policy's kind does not exist, and neither it nor what warns beside it is rendered.
func TestPolicyNeedsItsVersion(t *testing.T) {
	const spaces = "namespaces: [serving]\n"
	for _, tc := range []struct {
		version, values string
		want            bool
	}{
		{"v1.30.0", spaces, false},
		{"v1.35.9", spaces, false},
		{"v1.36.0-alpha.1", spaces, true},
		{"v1.36.0", spaces, true},
		{"v1.36.2-gke.1042000", spaces, true},
		{"v1.37.1", spaces, true},
		{"v1.37.1", spaces + "inject: {enabled: false}", false},
		{"v1.37.1", "", false},
	} {
		objs, err := Release{Chart: Stoker, Name: "rel", Namespace: "gpu-system", Values: []byte(tc.values), KubeVersion: tc.version}.Objects()
		if err != nil {
			t.Fatal(err)
		}
		var kinds []string
		for _, obj := range objs {
			if strings.Contains(obj.GetName(), "-inject") {
				kinds = append(kinds, obj.GetKind())
			}
		}
		slices.Sort(kinds)
		want := []string{"MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
		if !tc.want {
			want = nil
		}
		if !slices.Equal(kinds, want) {
			t.Errorf("%s with %q: %q, want %q", tc.version, tc.values, kinds, want)
		}
	}
}

// What makes the agent safe to run as root is not left to the golden files,
// which -update would rewrite.
func TestAgentPodIsConfined(t *testing.T) {
	for name, values := range map[string][]byte{"default": nil, "full": fullValues(t)} {
		t.Run(name, func(t *testing.T) {
			pod := agentPod(t, values)
			c := pod.Containers[0]
			sc := c.SecurityContext
			if len(pod.Containers) != 1 || len(pod.InitContainers) != 0 {
				t.Errorf("want exactly one container, got %d and %d init containers", len(pod.Containers), len(pod.InitContainers))
			}
			if pod.HostNetwork || pod.HostPID || pod.HostIPC {
				t.Error("the pod shares a namespace of the host")
			}
			if *pod.SecurityContext.RunAsUser != 0 || pod.SecurityContext.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
				t.Errorf("want uid 0 and seccomp RuntimeDefault, got %+v", pod.SecurityContext)
			}
			if *sc.AllowPrivilegeEscalation || !*sc.ReadOnlyRootFilesystem || sc.Privileged != nil {
				t.Errorf("want no escalation, a read-only root file system and no privilege, got %+v", sc)
			}
			if len(sc.Capabilities.Add) != 0 || len(sc.Capabilities.Drop) != 1 || sc.Capabilities.Drop[0] != "ALL" {
				t.Errorf("want all capabilities dropped and none added, got %+v", sc.Capabilities)
			}
			hostPaths, want := 0, 1
			if name == "full" {
				want = 0 // its store is on a volume that nodes share
			}
			for _, v := range pod.Volumes {
				if v.HostPath != nil {
					hostPaths++
				}
			}
			if hostPaths != want {
				t.Errorf("want %d hostPath, the store, got %d", want, hostPaths)
			}
			for _, m := range c.VolumeMounts {
				if m.Name != "store" && !m.ReadOnly {
					t.Errorf("mount %s of %s is writable", m.MountPath, m.Name)
				}
				if m.MountPath == "/etc/stoker" && m.SubPath != "" {
					t.Error("the configuration is mounted by subPath and would never change")
				}
			}
			for resource := range c.Resources.Limits {
				if strings.HasPrefix(string(resource), "nvidia.com/") {
					t.Errorf("the agent takes %s from replicas", resource)
				}
			}
		})
	}
}

// A changed model list must reach agents through the mounted file, not by
// replacing them.
func TestModelListDoesNotTouchTheDaemonSet(t *testing.T) {
	var before, after appsv1.DaemonSet
	find(t, renderAll(t, nil), "DaemonSet", "gpu-system/rel-stoker", &before)
	changed := []byte("models: [{source: 'hf://Qwen/Qwen2.5-7B-Instruct'}]\nagent: {store: {quota: 1Ti}}\nnamespaces: [a]\n")
	find(t, renderAll(t, changed), "DaemonSet", "gpu-system/rel-stoker", &after)
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("the DaemonSet changed with models, agent settings or namespaces:\n%s", diff)
	}
}

// agentPod gives the pod template of the rendered DaemonSet.
func agentPod(t *testing.T, values []byte) corev1.PodSpec {
	t.Helper()
	for _, obj := range renderAll(t, values) {
		if obj.GetKind() == "DaemonSet" {
			var ds appsv1.DaemonSet
			find(t, []*unstructured.Unstructured{obj}, "DaemonSet", objectKey(obj), &ds)
			return ds.Spec.Template.Spec
		}
	}
	t.Fatal("no DaemonSet rendered")
	return corev1.PodSpec{}
}
