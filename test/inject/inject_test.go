package inject

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/stoker-project/stoker/agent/inject"
	"github.com/stoker-project/stoker/test/charts"
	"github.com/stoker-project/stoker/test/cluster"
)

// The namespaces of the tests: in the first ones the policy is in force.
const (
	with       = "with"
	restricted = "restricted"
	limited    = "limited"
	without    = "without"
	sparse     = "sparse"
	system     = "stoker-system"
)

// values of the chart, and the same as options; and those of a release that
// leaves out what can be left out.
const values = `
namespaces: [with, restricted, limited]
inject: {image: "registry.example:5000/team/wait:v1", cpu: 50m, memory: 64Mi, weights: {warm: 90, fits: 80, ram: 9, idle: 2}}
image: {pullPolicy: Always}
`

const sparseValues = `
namespaces: [sparse]
nonRootUser: 0
inject: {image: "wait:v1", weights: {warm: 1, fits: 0, ram: 0, idle: 0}, requireFits: false}
`

func options() inject.Options {
	return inject.Options{
		Image: "registry.example:5000/team/wait:v1", PullPolicy: "Always", CPU: "50m", Memory: "64Mi",
		WeightWarm: 90, WeightFits: 80, WeightRAM: 9, WeightIdle: 2, RequireFits: true, User: inject.DefaultUser,
	}
}

func sparseOptions() inject.Options {
	return inject.Options{Image: "wait:v1", PullPolicy: "IfNotPresent", CPU: "100m", Memory: "128Mi", WeightWarm: 1}
}

// fixture is a cluster with the chart.
type fixture struct {
	*testing.T
	cluster *cluster.Cluster
	client  kubernetes.Interface
}

func TestInject(t *testing.T) {
	c, err := cluster.Start(t.Context(), cluster.Options{Log: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	cfg := c.RESTConfig()
	cfg.WarningHandler = rest.NoWarnings{} // some shapes deserve one
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{T: t, cluster: c, client: client}
	f.namespaces()
	for release, text := range map[string]string{"rel": values, "rel-sparse": sparseValues} {
		objs, err := charts.Render([]byte(text), release, system)
		if err != nil {
			t.Fatal(err)
		}
		if err := charts.Apply(t.Context(), c.RESTConfig(), objs); err != nil {
			t.Fatal(err)
		}
	}
	f.waitForPolicy()
	for name, test := range map[string]func(*fixture){
		"the policy and stoker inject do the same":    (*fixture).testSame,
		"what was injected stays as it is":            (*fixture).testTwice,
		"restricted namespaces admit it":              (*fixture).testRestricted,
		"quotas and limit ranges admit it":            (*fixture).testLimited,
		"elsewhere nothing is added":                  (*fixture).testElsewhere,
		"pods of controllers get it once":             (*fixture).testControllers,
		"a guaranteed pod stays one":                  (*fixture).testGuaranteed,
		"a large pod is not too large":                (*fixture).testLarge,
		"a pod that exists is not touched":            (*fixture).testUpdate,
		"what is required is required of every term":  (*fixture).testRequiredTerms,
		"a cluster without agents still runs the pod": (*fixture).testScheduled,
		"what is not meant so is warned of":           (*fixture).testWarned,
		"service links are off unless kept":           (*fixture).testServiceLinks,
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			test(&fixture{T: t, cluster: c, client: client})
		})
	}
}

// Object by object: what the policy makes of a pod, and what becomes of the
// pod that stoker inject has written, are the same.
func (f *fixture) testSame() {
	for namespace, o := range map[string]inject.Options{with: options(), sparse: sparseOptions()} {
		f.checkSame(namespace, o)
	}
}

func (f *fixture) checkSame(namespace string, o inject.Options) {
	f.Helper()
	shapes := f.shapes()
	if len(shapes) < 25 {
		f.Fatalf("found only %d shapes", len(shapes))
	}
	unchanged := []string{"names-no-model", "no-labels", "adapters-of-no-model", "empty-model", "injected-before"}
	for name, text := range shapes {
		plain := f.decode(text)
		policy, err := f.dryRun(f.Context(), namespace, plain)
		if err != nil {
			f.Errorf("%s: by the policy: %v", name, err)
			continue
		}
		if strings.HasPrefix(name, "paths-taken") {
			continue // which stoker inject refuses: testWarned
		}
		file, err := f.dryRun(f.Context(), without, f.injected(text, o))
		if err != nil {
			f.Errorf("%s: by stoker inject: %v", name, err)
			continue
		}
		if diff := cmp.Diff(f.shown(policy), f.shown(file)); diff != "" {
			f.Errorf("%s in %s differs (-policy +stoker inject):\n%s", name, namespace, diff)
		}
		bare, err := f.dryRun(f.Context(), without, plain)
		if err != nil {
			f.Fatal(err)
		}
		if got, want := f.shown(policy) == f.shown(bare), slices.Contains(unchanged, name); got != want {
			f.Errorf("%s: unchanged is %t, want %t", name, got, want)
		}
		f.checkKept(name, bare, policy)
	}
}

// same takes nothing and something empty for the same, as the API does.
func same(a, b any) bool { return equality.Semantic.DeepEqual(a, b) }

// checkKept says whether everything that the pod had is still there.
func (f *fixture) checkKept(name string, before, after *corev1.Pod) {
	f.Helper()
	for i, c := range before.Spec.Containers {
		got := after.Spec.Containers[i]
		if got.Name != c.Name || len(got.Env) < len(c.Env) || !same(got.Env[:len(c.Env)], c.Env) || !same(got.Resources, c.Resources) ||
			!same(got.Args, c.Args) || !same(got.SecurityContext, c.SecurityContext) {
			f.Errorf("%s: container %s lost something: %+v", name, c.Name, got)
		}
	}
	added := len(after.Spec.InitContainers) - len(before.Spec.InitContainers)
	for i, c := range before.Spec.InitContainers {
		if !same(after.Spec.InitContainers[added+i].Env, c.Env) || after.Spec.InitContainers[added+i].Name != c.Name {
			f.Errorf("%s: init container %s lost something", name, c.Name)
		}
	}
	if added == 1 && after.Spec.InitContainers[0].Name != inject.Waiter {
		f.Errorf("%s: the first init container is %s", name, after.Spec.InitContainers[0].Name)
	}
	if a := before.Spec.Affinity; a != nil {
		if !same(a.PodAffinity, after.Spec.Affinity.PodAffinity) || !same(a.PodAntiAffinity, after.Spec.Affinity.PodAntiAffinity) {
			f.Errorf("%s: the affinity to pods changed", name)
		}
	}
}

// A file that stoker inject has written goes through the policy unchanged, and
// so does what the policy has made, when it is created again.
func (f *fixture) testTwice() {
	for name, text := range f.shapes() {
		if strings.HasPrefix(name, "paths-taken") {
			continue
		}
		written := f.injected(text, options())
		through, err := f.dryRun(f.Context(), with, written)
		if err != nil {
			f.Errorf("%s: %v", name, err)
			continue
		}
		beside, err := f.dryRun(f.Context(), without, written)
		if err != nil {
			f.Errorf("%s: %v", name, err)
			continue
		}
		if name == "empty-model" || written.Labels["stoker.dev/model"] == "" {
			continue
		}
		if diff := cmp.Diff(f.shown(beside), f.shown(through)); diff != "" {
			f.Errorf("%s: the policy changed what was injected:\n%s", name, diff)
		}
	}
}

func (f *fixture) testRestricted() {
	p, err := f.dryRun(f.Context(), restricted, f.shape("restricted"))
	if err != nil {
		f.Fatal(err)
	}
	if len(p.Spec.InitContainers) != 1 {
		f.Errorf("the pod was not injected: %+v", p.Spec.InitContainers)
	}
	if _, err := f.dryRun(f.Context(), restricted, f.shape("plain")); !apierrors.IsForbidden(err) {
		f.Errorf("a pod that is not restricted: %v", err)
	}
}

// Where each container must have requests and limits, and some proportion of
// the two, the init container has them itself.
func (f *fixture) testLimited() {
	ctx := f.Context()
	var quota corev1.ResourceQuota
	var limits corev1.LimitRange
	for text, into := range map[string]any{
		`{metadata: {name: q}, spec: {hard: {requests.cpu: "2", limits.cpu: "2", requests.memory: 8Gi, limits.memory: 8Gi, pods: "2"}}}`:                                              &quota,
		`{metadata: {name: l}, spec: {limits: [{type: Container, default: {cpu: 500m, memory: 1Gi}, min: {cpu: 10m, memory: 16Mi}, maxLimitRequestRatio: {cpu: "1", memory: "1"}}]}}`: &limits,
	} {
		if err := yaml.UnmarshalStrict([]byte(text), into); err != nil {
			f.Fatal(err)
		}
	}
	if _, err := f.client.CoreV1().ResourceQuotas(limited).Create(ctx, &quota, metav1.CreateOptions{}); err != nil {
		f.Fatal(err)
	}
	if _, err := f.client.CoreV1().LimitRanges(limited).Create(ctx, &limits, metav1.CreateOptions{}); err != nil {
		f.Fatal(err)
	}
	err := cluster.WaitFor(ctx, "the limits to be in force", func(ctx context.Context) (bool, error) {
		p, err := f.dryRun(ctx, limited, f.shape("plain"))
		return err == nil && !p.Spec.Containers[0].Resources.Limits.Cpu().IsZero(), err
	})
	if err != nil {
		f.Fatal(err)
	}
	p, err := f.client.CoreV1().Pods(limited).Create(ctx, f.shape("plain"), metav1.CreateOptions{})
	if err != nil {
		f.Fatal(err)
	}
	w := p.Spec.InitContainers[0]
	if w.Resources.Limits.Cpu().String() != "50m" || w.Resources.Requests.Cpu().String() != "50m" || w.Resources.Limits.Memory().String() != "64Mi" {
		f.Errorf("the init container has %+v", w.Resources)
	}
	if p.Status.QOSClass != corev1.PodQOSGuaranteed {
		f.Errorf("the pod is %s", p.Status.QOSClass)
	}
}

func (f *fixture) testElsewhere() {
	for name := range f.shapes() {
		p, err := f.dryRun(f.Context(), without, f.shape(name))
		if err != nil {
			f.Fatal(err)
		}
		if name != "injected-before" && slices.ContainsFunc(p.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == inject.Waiter }) {
			f.Errorf("%s was injected", name)
		}
	}
}

func (f *fixture) testGuaranteed() {
	p, err := f.dryRun(f.Context(), with, f.shape("guaranteed"))
	if err != nil {
		f.Fatal(err)
	}
	if p.Status.QOSClass != corev1.PodQOSGuaranteed {
		f.Errorf("the pod is %s", p.Status.QOSClass)
	}
}

// Labelling a pod that runs changes nothing about it.
func (f *fixture) testUpdate() {
	ctx, pods := f.Context(), f.client.CoreV1().Pods(with)
	p := f.shape("names-no-model")
	p.Name = "labelled-later"
	p, err := pods.Create(ctx, p, metav1.CreateOptions{})
	if err != nil {
		f.Fatal(err)
	}
	err = cluster.WaitFor(ctx, "the label to be written", func(ctx context.Context) (bool, error) {
		now, err := pods.Get(ctx, "labelled-later", metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		now.Labels["stoker.dev/model"] = "llama"
		p, err = pods.Update(ctx, now, metav1.UpdateOptions{})
		if apierrors.IsConflict(err) { // the scheduler writes to it as well
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		f.Fatal(err)
	}
	if len(p.Spec.InitContainers) > 0 || p.Spec.Affinity != nil {
		f.Errorf("the pod is %+v", p.Spec)
	}
}

func (f *fixture) testRequiredTerms() {
	p, err := f.dryRun(f.Context(), with, f.shape("own-requirements-and-required"))
	if err != nil {
		f.Fatal(err)
	}
	terms := p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	for i, term := range terms {
		var keys []string
		for _, e := range term.MatchExpressions {
			keys = append(keys, e.Key)
		}
		warm := slices.Contains(keys, "warm.stoker.dev/llama") && slices.Contains(keys, "fits.stoker.dev/llama")
		if empty := i == 2; warm == empty {
			f.Errorf("term %d has the keys %v", i, keys)
		}
	}
}

// What the expressions cost grows with the pod, and the API server bounds it.
func (f *fixture) testLarge() {
	p := f.shape("plain")
	one := p.Spec.Containers[0]
	for i := range 300 {
		one.Env = append(one.Env, corev1.EnvVar{Name: fmt.Sprintf("VARIABLE_%d", i), Value: "x"})
	}
	p.Spec.Containers = nil
	for i := range 40 {
		c := *one.DeepCopy()
		c.Name = fmt.Sprintf("c%d", i)
		p.Spec.Containers = append(p.Spec.Containers, c)
	}
	after, err := f.dryRun(f.Context(), with, p)
	if err != nil {
		f.Fatal(err)
	}
	for _, c := range after.Spec.Containers {
		if len(c.Env) != 303 {
			f.Errorf("%s has %d variables", c.Name, len(c.Env))
		}
	}
}
