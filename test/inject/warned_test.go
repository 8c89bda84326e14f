package inject

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/agent/inject"
	"github.com/stoker-project/stoker/test/cluster"
)

// warnings collects what the API server warns of.
type warnings struct {
	mu   sync.Mutex
	said []string
}

// HandleWarningHeader implements rest.WarningHandler.
func (w *warnings) HandleWarningHeader(_ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said = append(w.said, text)
}

// warned creates an object, without a trace, and returns what is warned of by the chart.
func (f *fixture) warned(ctx context.Context, resource schema.GroupVersionResource, namespace, text string) ([]string, error) {
	f.Helper()
	w := &warnings{}
	cfg := rest.CopyConfig(f.cluster.RESTConfig())
	cfg.WarningHandler = w
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
		return nil, err
	}
	_, err = client.Resource(resource).Namespace(namespace).Create(ctx, u, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.DeleteFunc(w.said, func(s string) bool { return !strings.Contains(s, "-inject-warn") }), err
}

var (
	podsResource = schema.GroupVersionResource{Version: "v1", Resource: "pods"}
	deployments  = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
	cronJobs     = schema.GroupVersionResource{Group: "batch", Version: "v1", Resource: "cronjobs"}
)

const (
	ownAtModels = "{volumes: [{name: own, emptyDir: {}}], containers: [{name: proxy, image: proxy}, {name: vllm, image: vllm, volumeMounts: [{name: own, mountPath: /models/}]}]}"
	ownAtPin    = "{volumes: [{name: own, emptyDir: {}}], containers: [{name: vllm, image: vllm, volumeMounts: [{name: own, mountPath: /stoker}]}]}"
	claimNamed  = "{volumes: [{name: weights, persistentVolumeClaim: {claimName: stoker-models}}], containers: [{name: vllm, image: vllm, volumeMounts: [{name: weights, mountPath: /models}]}]}"
	byHand      = "{volumes: [{name: disk, hostPath: {path: /var/lib/stoker}}, {name: pin, emptyDir: {}}], " +
		"initContainers: [{name: stoker-wait, image: wait, volumeMounts: [{name: disk, mountPath: /models}, {name: pin, mountPath: /stoker}]}], " +
		"containers: [{name: vllm, image: vllm, volumeMounts: [{name: disk, mountPath: /models}, {name: pin, mountPath: /stoker}]}]}"
	simple = "{containers: [{name: vllm, image: vllm}]}"
)

// ownAt is a pod's specification with a volume of its own.
func ownAt(path string) string { return strings.Replace(ownAtPin, "/stoker", path, 1) }

// adapters are annotations that name so many of them.
func adapters(n int) string { return "{stoker.dev/adapters: '" + strings.Repeat("sql,", n) + "'}" }

// Each pod is admitted as before, and whoever creates it, or the controller of such
// pods, is warned. stoker inject refuses a path that is taken.
func (f *fixture) testWarned() {
	err := cluster.WaitFor(f.Context(), "the warnings to be in force", func(ctx context.Context) (bool, error) {
		said, err := f.warned(ctx, podsResource, with, warnedPod("llama", "{stoker.dev/placement: Require}", simple))
		return len(said) > 0, err
	})
	if err != nil {
		f.Fatal(err)
	}
	for name, row := range map[string]struct {
		model, annotations, spec string
		want                     []string
		taken                    bool
	}{
		"nothing odd":                 {"llama", "{stoker.dev/placement: require, stoker.dev/fits: require, stoker.dev/service-links: keep}", simple, nil, false},
		"preferred":                   {"llama", "{stoker.dev/placement: prefer}", simple, nil, false},
		"no annotations":              {"llama", "{}", simple, nil, false},
		"names no model":              {"", "{stoker.dev/placement: Require}", ownAtModels, nil, false},
		"capital":                     {"llama", "{stoker.dev/placement: Require}", simple, []string{"stoker.dev/placement Require is taken for prefer; use prefer or require"}, false},
		"past tense":                  {"llama", "{stoker.dev/placement: required}", simple, []string{"stoker.dev/placement required is taken"}, false},
		"true":                        {"llama", `{stoker.dev/placement: "true"}`, simple, []string{"stoker.dev/placement true is taken"}, false},
		"on several lines":            {"llama", `{stoker.dev/placement: "a\nb"}`, simple, []string{"stoker.dev/placement is taken for prefer"}, false},
		"fits":                        {"llama", `{stoker.dev/fits: "yes"}`, simple, []string{"stoker.dev/fits yes is ignored; use require, or leave it out"}, false},
		"service links":               {"llama", `{stoker.dev/service-links: "true"}`, simple, []string{"stoker.dev/service-links true is ignored; use keep"}, false},
		"adapters":                    {"llama", `{stoker.dev/adapters: "sql, chat.v2,"}`, simple, nil, false},
		"no adapters' names":          {"llama", "{stoker.dev/adapters: 'Sql,chat,-b'}", simple, []string{"no model can be called Sql, -b (annotation stoker.dev/adapters)"}, false},
		"no model's name":             {"Llama_3", "{}", simple, []string{"no model can be called Llama_3"}, false},
		"own volume at /models":       {"llama", "{}", ownAtModels, []string{"is mounted at or below /models, where Stoker's belongs, by vllm, which finds no model: mount it elsewhere"}, true},
		"own volume at /stoker":       {"llama", "{}", ownAtPin, []string{"is mounted at or below /stoker, where Stoker's belongs, by vllm"}, true},
		"own volume below /models":    {"llama", "{}", ownAt("/models/hub"), []string{"is mounted at or below /models, where Stoker's belongs, by vllm"}, true},
		"own volume below /stoker":    {"llama", "{}", ownAt("/stoker/model"), []string{"is mounted at or below /stoker, where Stoker's belongs, by vllm"}, true},
		"with two slashes":            {"llama", "{}", ownAt("//models"), []string{"is mounted at or below /models"}, true},
		"with dots":                   {"llama", "{}", ownAt("./stoker/./x"), []string{"is mounted at or below /stoker"}, true},
		"at the root":                 {"llama", "{}", ownAt("/"), []string{"is mounted at /, where Stoker's /models and /stoker belong, by vllm"}, true},
		"beside them":                 {"llama", "{}", ownAt("/models2"), nil, false},
		"in another directory":        {"llama", "{}", ownAt("/var/models"), nil, false},
		"64 adapters":                 {"llama", adapters(agent.MaxAdapters), simple, nil, false},
		"65 adapters":                 {"llama", adapters(agent.MaxAdapters + 1), simple, []string{"stoker.dev/adapters names 65 adapters, and the init container will refuse more than 64; name fewer"}, false},
		"the claim, called otherwise": {"llama", "{}", claimNamed, nil, false},
		"by hand":                     {"llama", "{}", byHand, nil, false},
		"several at once":             {"llama", "{stoker.dev/placement: x, stoker.dev/fits: often}", ownAtModels, []string{"placement x", "fits often", "below /models"}, true},
	} {
		pod := warnedPod(row.model, row.annotations, row.spec)
		template := strings.TrimPrefix(pod, "apiVersion: v1\nkind: Pod\n")
		indented := strings.ReplaceAll(template, "\n", "\n      ")
		for kind, c := range map[string]struct {
			resource schema.GroupVersionResource
			text     string
		}{
			"pod":        {podsResource, pod},
			"deployment": {deployments, "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\nspec:\n  selector: {matchLabels: {app: x}}\n  template:\n      " + indented},
			"cron job": {cronJobs, "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: x}\nspec:\n  schedule: '0 0 * * *'\n  jobTemplate:\n   spec:\n    template:\n      " +
				strings.Replace(indented, "spec: {", "spec: {restartPolicy: Never, ", 1)},
		} {
			said, err := f.warned(f.Context(), c.resource, with, c.text)
			if err != nil {
				f.Errorf("%s, %s: %v\n%s", name, kind, err, c.text)
				continue
			}
			if len(said) != len(row.want) {
				f.Errorf("%s, %s: %d warnings, want %d: %q", name, kind, len(said), len(row.want), said)
				continue
			}
			for i, want := range row.want {
				if !strings.Contains(said[i], want) {
					f.Errorf("%s, %s: warned of %q, want %q", name, kind, said[i], want)
				}
			}
			if said, err := f.warned(f.Context(), c.resource, without, c.text); err != nil || len(said) > 0 {
				f.Errorf("%s, %s: in another namespace: %q, %v", name, kind, said, err)
			}
		}
		if err := f.writeInjected(pod); errors.Is(err, inject.ErrTaken) != row.taken {
			f.Errorf("%s: stoker inject: %v", name, err)
		}
	}
	// Of a large pod the expressions cost more, which the API server bounds.
	var many strings.Builder
	for i := range 40 {
		fmt.Fprintf(&many, "{name: c%d, image: x, volumeMounts: [", i)
		for j := range 20 {
			fmt.Fprintf(&many, "{name: own, mountPath: /data/%d}, ", j)
		}
		many.WriteString("{name: own, mountPath: /models}]}, ")
	}
	large := warnedPod("llama", "{}", "{volumes: [{name: own, emptyDir: {}}], containers: ["+many.String()+"]}")
	if said, err := f.warned(f.Context(), podsResource, with, large); err != nil || len(said) != 1 || !strings.Contains(said[0], "c0, c1, c2") {
		f.Errorf("of a large pod: %q, %v", said, err)
	}
	// It is admitted, half, as it was.
	p, err := f.dryRun(f.Context(), with, f.shape("paths-taken"))
	if err != nil || len(p.Spec.InitContainers) != 1 {
		f.Errorf("a pod with a volume of its own at /models: %v, %+v", err, p)
	}
	f.checkTypes("rel-stoker-inject-warn")
}

// checkTypes waits until the expressions of a policy were checked against every kind that
// it matches, and reports what was found.
func (f *fixture) checkTypes(policy string) {
	f.Helper()
	err := cluster.WaitFor(f.Context(), "the types of "+policy, func(ctx context.Context) (bool, error) {
		p, err := f.client.AdmissionregistrationV1().ValidatingAdmissionPolicies().Get(ctx, policy, metav1.GetOptions{})
		if err != nil || p.Status.TypeChecking == nil {
			return false, err
		}
		for _, w := range p.Status.TypeChecking.ExpressionWarnings {
			f.Errorf("%s: %s: %s", policy, w.FieldRef, w.Warning)
		}
		return true, nil
	})
	if err != nil {
		f.Fatal(err)
	}
}

func warnedPod(model, annotations, spec string) string {
	return "apiVersion: v1\nkind: Pod\nmetadata:\n  name: warned\n  labels: {app: x, stoker.dev/model: '" + model + "'}\n  annotations: " + annotations + "\nspec: " + spec
}

// writeInjected returns the error of stoker inject.
func (f *fixture) writeInjected(text string) error {
	var out bytes.Buffer
	_, err := inject.File(&out, []byte(text), inject.YAML, options())
	return err
}

// The API server makes true of what is left out before any policy sees the pod, so the
// policy turns explicit service links off as well. A manifest shows the difference.
func (f *fixture) testServiceLinks() {
	for name, row := range map[string]struct {
		annotations, spec string
		policy, file      bool
	}{
		"left out":     {"{}", simple, false, false},
		"off":          {"{}", "{enableServiceLinks: false, containers: [{name: vllm, image: vllm}]}", false, false},
		"on":           {"{}", "{enableServiceLinks: true, containers: [{name: vllm, image: vllm}]}", false, true},
		"kept":         {"{stoker.dev/service-links: keep}", simple, true, true},
		"kept and off": {"{stoker.dev/service-links: keep}", "{enableServiceLinks: false, containers: [{name: vllm, image: vllm}]}", false, false},
	} {
		text := warnedPod("llama", row.annotations, row.spec)
		for how, c := range map[string]struct {
			namespace string
			pod       *corev1.Pod
			want      bool
		}{
			"by the policy":    {with, f.decode(text), row.policy},
			"by stoker inject": {without, f.injected(text, options()), row.file},
			"by both":          {with, f.injected(text, options()), row.file}, // which the policy leaves alone
		} {
			p, err := f.dryRun(f.Context(), c.namespace, c.pod)
			if err != nil {
				f.Errorf("%s, %s: %v", name, how, err)
				continue
			}
			if got := p.Spec.EnableServiceLinks; got == nil || *got != c.want {
				f.Errorf("%s, %s: enableServiceLinks is %v, want %t", name, how, got, c.want)
			}
		}
	}
	p, err := f.dryRun(f.Context(), with, f.decode(warnedPod("", "{}", simple)))
	if err != nil || p.Spec.EnableServiceLinks == nil || !*p.Spec.EnableServiceLinks {
		f.Errorf("of a pod that names no model: %+v, %v", p, err)
	}
}
