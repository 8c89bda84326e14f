package inject

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "rewrite golden files")

func options() Options {
	return Options{User: DefaultUser, Image: "stoker:1", PullPolicy: "IfNotPresent", CPU: "100m", Memory: "128Mi", WeightWarm: 100, WeightFits: 100, WeightRAM: 10, WeightIdle: 1, RequireFits: true}
}

func file(t *testing.T, in, format string) (string, Result) {
	t.Helper()
	var out bytes.Buffer
	r, err := File(&out, []byte(in), format, options())
	if err != nil {
		t.Fatalf("%v\n%s", err, in)
	}
	return out.String(), r
}

// Each file of testdata comes out as its golden file says, and what came out
// comes out again byte for byte.
func TestFiles(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("found %d files: %v", len(paths), err)
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			t.Parallel()
			in, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			out, found := file(t, string(in), YAML)
			goldenPath := strings.Replace(path, ".in.", ".out.", 1)
			if *update {
				if err := os.WriteFile(goldenPath, []byte(out), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(goldenPath)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), out); diff != "" {
				t.Errorf("%s (-want +got); go test -update rewrites it\n%s", goldenPath, diff)
			}
			again, second := file(t, out, YAML)
			if again != out || second.Injected != 0 || second.Pods != found.Pods {
				t.Errorf("the second time changes it: %+v\n%s", second, cmp.Diff(out, again))
			}
		})
	}
}

const template = `{metadata: {labels: {stoker.dev/model: m}}, spec: {containers: [{name: c, image: i}]}}`

// Every kind that has pods is known, and no other is touched.
func TestKinds(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{
		`{apiVersion: v1, kind: Pod, metadata: {labels: {stoker.dev/model: m}}, spec: {containers: [{name: c}]}}`:                                                              1,
		`{apiVersion: v1, kind: PodTemplate, template: ` + template + `}`:                                                                                                      1,
		`{apiVersion: v1, kind: ReplicationController, spec: {template: ` + template + `}}`:                                                                                    1,
		`{apiVersion: apps/v1, kind: Deployment, spec: {template: ` + template + `}}`:                                                                                          1,
		`{apiVersion: apps/v1, kind: StatefulSet, spec: {template: ` + template + `}}`:                                                                                         1,
		`{apiVersion: apps/v1, kind: DaemonSet, spec: {template: ` + template + `}}`:                                                                                           1,
		`{apiVersion: apps/v1, kind: ReplicaSet, spec: {template: ` + template + `}}`:                                                                                          1,
		`{apiVersion: batch/v1, kind: Job, spec: {template: ` + template + `}}`:                                                                                                1,
		`{apiVersion: batch/v1, kind: CronJob, spec: {jobTemplate: {spec: {template: ` + template + `}}}}`:                                                                     1,
		`{apiVersion: leaderworkerset.x-k8s.io/v1, kind: LeaderWorkerSet, spec: {leaderWorkerTemplate: {leaderTemplate: ` + template + `, workerTemplate: ` + template + `}}}`: 2,
		`{apiVersion: leaderworkerset.x-k8s.io/v1, kind: LeaderWorkerSet, spec: {leaderWorkerTemplate: {workerTemplate: ` + template + `}}}`:                                   1,
		`{apiVersion: v1, kind: List, items: [{apiVersion: apps/v1, kind: Deployment, spec: {template: ` + template + `}}, {apiVersion: v1, kind: ConfigMap}]}`:                1,
		`{apiVersion: apps/v1, kind: DeploymentList, items: [{spec: {template: ` + template + `}}, {spec: {template: ` + template + `}}]}`:                                     2,
		`{apiVersion: v1, kind: PodList, items: [{metadata: {labels: {stoker.dev/model: m}}, spec: {containers: []}}]}`:                                                        1,

		`{apiVersion: argoproj.io/v1alpha1, kind: Rollout, spec: {template: ` + template + `}}`:                                                                                                                1,
		`{apiVersion: argoproj.io/v1alpha1, kind: Rollout, spec: {workloadRef: {kind: Deployment, name: x}}}`:                                                                                                  0,
		`{apiVersion: serving.knative.dev/v1, kind: Service, spec: {template: ` + template + `}}`:                                                                                                              1,
		`{apiVersion: jobset.x-k8s.io/v1alpha2, kind: JobSet, spec: {replicatedJobs: [{name: a, template: {spec: {template: ` + template + `}}}, {name: b, template: {spec: {template: ` + template + `}}}]}}`: 2,
		`{apiVersion: ray.io/v1, kind: RayCluster, spec: {headGroupSpec: {template: ` + template + `}}}`:                                                                                                       1,
		`{apiVersion: ray.io/v1, kind: RayCluster, spec: {headGroupSpec: {template: ` + template + `}, workerGroupSpecs: [{template: ` + template + `}, {groupName: x}]}}`:                                     2,
		`{apiVersion: ray.io/v1, kind: RayService, spec: {rayClusterConfig: {headGroupSpec: {template: {}}, workerGroupSpecs: [{template: ` + template + `}]}}}`:                                               1,
		`{apiVersion: ray.io/v1, kind: RayJob, spec: {rayClusterSpec: {workerGroupSpecs: [{template: ` + template + `}]}}}`:                                                                                    1,
		`{apiVersion: example.com/v1, kind: Deployment, spec: {template: ` + template + `}}`:                                                                                                                   0,
		`{apiVersion: v1, kind: Service, spec: {selector: {stoker.dev/model: m}}}`:                                                                                                                             0,
		`{apiVersion: apps/v1, kind: Deployment}`: 0,
		`{apiVersion: apps/v1, kind: Deployment, metadata: {labels: {stoker.dev/model: m}}, spec: {template: {spec: {containers: []}}}}`: 0,
		`{apiVersion: v1, kind: List, items: [null, 3, text]}`:                                                                           0,
		`{apiVersion: v1, kind: List}`: 0,
		`{}`:                           0,
	} {
		out, r := file(t, text, YAML)
		if r.Injected != want || r.Pods != want || strings.Count(out, "name: "+Waiter) != want {
			t.Errorf("%s: %+v, want %d\n%s", text, r, want, out)
		}
		if want == 0 && out != text {
			t.Errorf("%s came out as %s", text, out)
		}
	}
}

// Objects that name a model are reported where their kind is none whose pods are known.
func TestUnread(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{apiVersion: serving.kserve.io/v1beta1, kind: InferenceService, metadata: {name: a, labels: {stoker.dev/model: m}}, spec: {predictor: {}}}`:                  `InferenceService "a"`,
		`{apiVersion: serving.kserve.io/v1beta1, kind: InferenceService, metadata: {name: b}, spec: {predictor: {labels: {stoker.dev/model: m}}}}`:                    `InferenceService "b"`,
		`{apiVersion: example.com/v1, kind: Serving, metadata: {name: c}, spec: {groups: [{template: ` + template + `}]}}`:                                            `Serving "c"`,
		`{apiVersion: v1, kind: List, items: [{apiVersion: example.com/v1, kind: Serving, metadata: {name: d}, spec: {pod: ` + template + `}}]}`:                      `Serving "d"`,
		`{apiVersion: serving.kserve.io/v1beta1, kind: InferenceService, metadata: {name: e, labels: {app: x}}, spec: {predictor: {}}}`:                               "",
		`{apiVersion: v1, kind: Service, metadata: {labels: {stoker.dev/model: m}}, spec: {selector: {stoker.dev/model: m}}}`:                                         "",
		`{apiVersion: monitoring.coreos.com/v1, kind: PodMonitor, metadata: {labels: {stoker.dev/model: m}}, spec: {selector: {matchLabels: {stoker.dev/model: m}}}}`: "",
		`{apiVersion: apps/v1, kind: Deployment, metadata: {name: f}, spec: {template: ` + template + `}}`:                                                            "",
	} {
		_, r := file(t, text, YAML)
		if got := strings.Join(r.Unread, ", "); got != want {
			t.Errorf("%s\nreported is %q, want %q", text, got, want)
		}
	}
}

// A pod whose container has something of its own where Stoker's belongs is refused, and
// nothing of its file is written.
func TestTaken(t *testing.T) {
	t.Parallel()
	pod := func(mounts, volumes string) string {
		return "{apiVersion: v1, kind: Pod, metadata: {name: p, labels: {stoker.dev/model: m}}, spec: {volumes: [" + volumes + "], containers: [{name: a}, {name: c, volumeMounts: [" + mounts + "]}]}}"
	}
	const claim = "{name: w, persistentVolumeClaim: {claimName: stoker-models}}"
	for name, tc := range map[string]struct{ text, want string }{
		"models":            {pod("{name: own, mountPath: /models}", ""), `Pod "p": container "c" mounts its volume "own" at /models, where Stoker's belongs: mount it elsewhere, or call it stoker-models if it is the store`},
		"models with slash": {pod("{name: own, mountPath: /models/}", ""), `"own" at /models,`},
		"pin":               {pod("{name: own, mountPath: /stoker}", claim), `"own" at /stoker, where Stoker's belongs: mount it elsewhere`},
		"the claim at pin":  {pod("{name: w, mountPath: /stoker}", claim), `"w" at /stoker`},
		"both":              {pod("{name: own, mountPath: /models}, {name: own, mountPath: /stoker}", ""), `is the store; Pod "p": container "c" mounts its volume "own" at /stoker`},
		"below":             {pod("{name: own, mountPath: /models/hub}", ""), `"own" at /models/hub, where Stoker's belongs: mount it elsewhere, or`},
		"below the pin":     {pod("{name: own, mountPath: /stoker/model}", ""), `"own" at /stoker/model, where Stoker's belongs: mount it elsewhere`},
		"by a detour":       {pod("{name: own, mountPath: /models/../models}", ""), `"own" at /models,`},
		"two slashes":       {pod("{name: own, mountPath: //models}", ""), `"own" at /models,`},
		"relative":          {pod("{name: own, mountPath: ./models/x}", ""), `"own" at /models/x,`},
		"everywhere":        {pod("{name: w, mountPath: /}", claim), `"w" at /, where Stoker's belongs: mount it elsewhere`},
		"the claim below":   {pod("{name: w, mountPath: /models/hub, subPath: hub}", claim), ""},
		"beside":            {pod("{name: own, mountPath: /models2}, {name: own, mountPath: /var/models}, {name: own, mountPath: /models/../stoker2}", ""), ""},
		"no path":           {pod("{name: own}", ""), ""},
		"the claim":         {pod("{name: w, mountPath: /models}", claim), ""},
		"by name":           {pod("{name: stoker-models, mountPath: /models}, {name: stoker-pin, mountPath: /stoker}", ""), ""},
		"injected before":   {strings.Replace(pod("{name: own, mountPath: /models}", ""), "containers:", "initContainers: [{name: stoker-wait}], containers:", 1), ""},
		"names no model":    {strings.Replace(pod("{name: own, mountPath: /models}", ""), "stoker.dev/model", "x", 1), ""},
		"beside a good one": {pod("", "") + "\n---\n" + pod("{name: own, mountPath: /models}", ""), `container "c"`},
	} {
		var out bytes.Buffer
		_, err := File(&out, []byte(tc.text), YAML, options())
		if tc.want == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if !errors.Is(err, ErrTaken) || !strings.Contains(err.Error(), tc.want) || out.Len() > 0 {
			t.Errorf("%s: %v\nwant %s\nwritten: %s", name, err, tc.want, out.String())
		}
	}
}

// Values of labels and annotations that YAML reads as no string are named, with what to
// write. The API server refuses such a pod without the key.
func TestNotStrings(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		"labels: {stoker.dev/model: m}, annotations: {stoker.dev/placement: true}":               {`Pod "p": annotation stoker.dev/placement is true, which is no string; write "prefer" or "require"`},
		"labels: {stoker.dev/model: m}, annotations: {stoker.dev/fits: yes}":                     {`annotation stoker.dev/fits is true, which is no string; write "require", or leave it out`},
		"labels: {stoker.dev/model: m}, annotations: {stoker.dev/service-links: false}":          {`stoker.dev/service-links is false, which is no string; write "keep", or leave it out`},
		"labels: {stoker.dev/model: m}, annotations: {stoker.dev/adapters: [a, b]}":              {`stoker.dev/adapters is ["a","b"], which is no string; write names with commas between them: "a,b"`},
		"labels: {stoker.dev/model: m, tier: 1}, annotations: {auto: true, none: , text: 'yes'}": {`annotation auto is true, which is no string; put it in quotes`, `label tier is 1, which is no string; put it in quotes`},
		"labels: {stoker.dev/model: 123}":                                                        {`label stoker.dev/model is 123, which is no string; put it in quotes`},
		"labels: {stoker.dev/model: m}, annotations: {stoker.dev/placement: prefer}":             nil,
		"labels: {stoker.dev/model: }, annotations: {auto: true}":                                nil,
		"labels: {app: 1}": nil,
	} {
		_, r := file(t, "{apiVersion: v1, kind: Pod, metadata: {name: p, "+text+"}, spec: {containers: [{name: c}]}}", YAML)
		if len(r.NotStrings) != len(want) {
			t.Errorf("%s: %q, want %d", text, r.NotStrings, len(want))
			continue
		}
		for i := range want {
			if !strings.Contains(r.NotStrings[i], want[i]) {
				t.Errorf("%s: %q, want %q", text, r.NotStrings[i], want[i])
			}
		}
	}
}

// Documents in which nothing changes keep every byte.
func TestOthersKeepEveryByte(t *testing.T) {
	t.Parallel()
	const kept = "# a comment\n---   \n# another\nkind:   Service\nspec: {a: 0x10, b: 1e3, c: yes, d: !!str 1, e: &x [1], f: *x}\n"
	const kept2 = "---\napiVersion: v1\nkind: ConfigMap\ndata:\n  x: |\n    text\n    --- no marker\n    ---no marker either\n...\n"
	pod := "--- {apiVersion: v1, kind: Pod, metadata: {labels: {stoker.dev/model: m}}, spec: {containers: [{name: c}]}}\n"
	out, r := file(t, kept+pod+kept2+"---\n---\n", YAML)
	if !strings.HasPrefix(out, kept) || !strings.HasSuffix(out, kept2+"---\n---\n") || r.Injected != 1 {
		t.Errorf("%+v\n%s", r, out)
	}
	if again, _ := file(t, out, YAML); again != out {
		t.Errorf("the second time changes it\n%s", cmp.Diff(out, again))
	}
	for _, text := range []string{"", "\n", "# only a comment", "%YAML 1.1\n---\nkind: Service\n", "kind: Service\r\n---\r\nkind: Secret\r\n"} {
		if out, _ := file(t, text, YAML); out != text {
			t.Errorf("%q came out as %q", text, out)
		}
	}
}

// Values keep their kind: whole numbers, and texts that look like something else.
func TestValuesKeepTheirKind(t *testing.T) {
	t.Parallel()
	const spec = `{terminationGracePeriodSeconds: 9007199254740993, a: 0.5, b: "1", c: "yes", d: "null", e: 012, f: true, g: null, h: "2020-01-01", containers: []}`
	out, _ := file(t, `{apiVersion: v1, kind: Pod, metadata: {labels: {stoker.dev/model: "123"}}, spec: `+spec+`}`, YAML)
	var got struct {
		Metadata struct{ Labels map[string]any }
		Spec     map[string]any
	}
	asJSON, err := yaml.YAMLToJSON([]byte(out))
	if err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(bytes.NewReader(asJSON))
	dec.UseNumber()
	if err := dec.Decode(&got); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]any{
		"terminationGracePeriodSeconds": json.Number("9007199254740993"), "a": json.Number("0.5"), "b": "1", "c": "yes", "d": "null",
		"e": json.Number("10"), "f": true, "g": nil, "h": "2020-01-01",
	} {
		if got.Spec[key] != want {
			t.Errorf("%s is %#v, want %#v", key, got.Spec[key], want)
		}
	}
	if got.Metadata.Labels["stoker.dev/model"] != "123" {
		t.Errorf("the label is %#v", got.Metadata.Labels)
	}
}

func TestJSON(t *testing.T) {
	t.Parallel()
	const pod = "{apiVersion: v1, kind: Pod, metadata: {labels: {stoker.dev/model: m}}, spec: {containers: [{name: c}]}}"
	for text, kind := range map[string]string{pod: "Pod", pod + "\n---\n{kind: Service}": "List", "": "List"} {
		out, _ := file(t, text, JSON)
		var got struct{ Kind string }
		if err := json.Unmarshal([]byte(out), &got); err != nil || got.Kind != kind {
			t.Errorf("%q: kind %q, %v", text, got.Kind, err)
		}
		if again, r := file(t, out, JSON); again != out || r.Injected != 0 {
			t.Errorf("the second time changes %s", out)
		}
	}
}

func TestBadDocuments(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"kind: Pod\n---\n{":              "document 2: ",
		"kind: Pod\nkind: Service":       "already",
		"- a":                            "it is no object",
		"text":                           "it is no object",
		"a: {{ .Values.x }}":             "document 1: ",
		"kind: Pod\n---\nkind: x\n\t- y": "document 2: ",
	} {
		var out bytes.Buffer
		_, err := File(&out, []byte(text), YAML, options())
		if !errors.Is(err, ErrDocument) || !strings.Contains(err.Error(), want) || out.Len() > 0 {
			t.Errorf("%q: %v\n%s", text, err, out.String())
		}
	}
}

// What is no pod by its shape is left to the API server, which says so better.
func TestStrangeShapes(t *testing.T) {
	t.Parallel()
	for _, spec := range []string{
		"null", "[]", "text", "{}", "{containers: null}", "{containers: {a: b}}", "{containers: [null, text, {}]}",
		"{containers: [{env: {a: b}, volumeMounts: text}], volumes: {}, initContainers: text, affinity: []}",
		"{affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [null, {matchExpressions: text}]}}}}",
	} {
		text := "{apiVersion: v1, kind: Pod, metadata: {labels: {stoker.dev/model: m}, annotations: {stoker.dev/placement: require}}, spec: " + spec + "}"
		out, _ := file(t, text, YAML)
		if again, r := file(t, out, YAML); again != out || r.Injected != 0 {
			t.Errorf("%s: the second time changes it\n%s", spec, cmp.Diff(out, again))
		}
	}
}

func FuzzFile(f *testing.F) {
	f.Add([]byte("{apiVersion: v1, kind: Pod, metadata: {labels: {stoker.dev/model: m}}, spec: {containers: [{name: c}]}}\n---\na: b\n"))
	f.Add([]byte("--- {}\n%\n---\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		var once, twice bytes.Buffer
		if _, err := File(&once, in, YAML, options()); err != nil {
			return // refused, which is an answer
		}
		r, err := File(&twice, once.Bytes(), YAML, options())
		if err != nil || r.Injected != 0 || !bytes.Equal(once.Bytes(), twice.Bytes()) {
			t.Errorf("%q, then %q: %v", once.String(), twice.String(), err)
		}
	})
}

// Without a user the namespace gives the uid, and it must still not be root's.
func TestUserLeftToTheNamespace(t *testing.T) {
	t.Parallel()
	o := options()
	o.User = 0
	context := mapOf(waiter("m", nil, o)["securityContext"])
	_, user := context["runAsUser"]
	_, group := context["runAsGroup"]
	if user || group || context["runAsNonRoot"] != true {
		t.Errorf("the init container's context is %v", context)
	}
}
