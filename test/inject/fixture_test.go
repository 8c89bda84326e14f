package inject

import (
	"bytes"
	"context"
	"os"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/stoker-project/stoker/agent/inject"
	"github.com/stoker-project/stoker/test/cluster"
)

func (f *fixture) namespaces() {
	f.Helper()
	for _, name := range []string{with, restricted, limited, without, sparse, system} {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if name == restricted {
			ns.Labels = map[string]string{"pod-security.kubernetes.io/enforce": "restricted"}
		}
		if _, err := f.client.CoreV1().Namespaces().Create(f.Context(), ns, metav1.CreateOptions{}); err != nil {
			f.Fatal(err)
		}
	}
	for _, name := range []string{with, restricted, limited, without, sparse} {
		err := cluster.WaitFor(f.Context(), "the default account of "+name, func(ctx context.Context) (bool, error) {
			_, err := f.client.CoreV1().ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return false, nil
			}
			return err == nil, err
		})
		if err != nil {
			f.Fatal(err)
		}
	}
}

// waitForPolicy waits until the API server has taken up the policy.
func (f *fixture) waitForPolicy() {
	f.Helper()
	for _, ns := range []string{with, restricted, limited, sparse} {
		err := cluster.WaitFor(f.Context(), "the policy to be in force in "+ns, func(ctx context.Context) (bool, error) {
			p, err := f.dryRun(ctx, ns, f.shape("restricted"))
			return err == nil && len(p.Spec.InitContainers) == 1, err
		})
		if err != nil {
			f.Fatal(err)
		}
	}
}

// shapes are the pods of testdata, as text, by name.
func (f *fixture) shapes() map[string]string {
	f.Helper()
	data, err := os.ReadFile("testdata/shapes.yaml")
	if err != nil {
		f.Fatal(err)
	}
	out := map[string]string{}
	for doc := range strings.SplitSeq(string(data), "\n---\n") {
		out[f.decode(doc).Name] = doc
	}
	return out
}

func (f *fixture) shape(name string) *corev1.Pod {
	f.Helper()
	text, ok := f.shapes()[name]
	if !ok {
		f.Fatalf("there is no shape %s", name)
	}
	return f.decode(text)
}

func (f *fixture) decode(text string) *corev1.Pod {
	f.Helper()
	var p corev1.Pod
	if err := yaml.UnmarshalStrict([]byte(text), &p); err != nil {
		f.Fatalf("%v\n%s", err, text)
	}
	return &p
}

// injected is the pod as `stoker inject` writes it.
func (f *fixture) injected(text string, o inject.Options) *corev1.Pod {
	f.Helper()
	var out bytes.Buffer
	if _, err := inject.File(&out, []byte(text), inject.YAML, o); err != nil {
		f.Fatal(err)
	}
	return f.decode(out.String())
}

// dryRun is what would come of creating a pod.
func (f *fixture) dryRun(ctx context.Context, namespace string, p *corev1.Pod) (*corev1.Pod, error) {
	return f.client.CoreV1().Pods(namespace).Create(ctx, p.DeepCopy(), metav1.CreateOptions{
		DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict,
	})
}

// The volume of an account's token has a name that ends by chance.
const tokenVolume = "kube-api-access-"

var tokenName = regexp.MustCompile(tokenVolume + `[a-z0-9]{5}`)

// shown is a pod as text, without what differs from one creation to the next.
// The API server adds the token before the policy comes, or after what a file
// has already: it is put last.
func (f *fixture) shown(p *corev1.Pod) string {
	f.Helper()
	p = p.DeepCopy()
	last := func(a, b string) int {
		return boolInt(strings.HasPrefix(a, tokenVolume)) - boolInt(strings.HasPrefix(b, tokenVolume))
	}
	slices.SortStableFunc(p.Spec.Volumes, func(a, b corev1.Volume) int { return last(a.Name, b.Name) })
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			slices.SortStableFunc(list[i].VolumeMounts, func(a, b corev1.VolumeMount) int { return last(a.Name, b.Name) })
		}
	}
	b, err := yaml.Marshal(map[string]any{"labels": p.Labels, "annotations": p.Annotations, "spec": p.Spec, "qos": p.Status.QOSClass})
	if err != nil {
		f.Fatal(err)
	}
	return tokenName.ReplaceAllString(string(b), "kube-api-access-x")
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}
