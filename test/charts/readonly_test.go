package charts

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/stoker-project/stoker/agent"
)

// readOnlyValues are those of a volume that no agent writes. Others of the file of
// full values would contradict them.
func readOnlyValues(t *testing.T) []byte {
	t.Helper()
	return readFile(t, filepath.Join("testdata", "readonly-values.yaml"))
}

// with is the values with some changed.
func with(t *testing.T, values []byte, change func(map[string]any)) []byte {
	t.Helper()
	all := map[string]any{}
	if err := yaml.Unmarshal(values, &all); err != nil {
		t.Fatal(err)
	}
	change(all)
	out, err := yaml.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// unpopulated leaves the volume to be named when it has been made.
func unpopulated(t *testing.T) []byte {
	t.Helper()
	return with(t, readOnlyValues(t), func(v map[string]any) { v["volume"] = map[string]any{"mode": "readOnly"} })
}

// populateJob is the Job, and the only object of its kind.
func populateJob(t *testing.T, objs []*unstructured.Unstructured) batchv1.Job {
	t.Helper()
	var job batchv1.Job
	for _, obj := range objs {
		if obj.GetKind() == "Job" {
			find(t, objs, "Job", objectKey(obj), &job)
			return job
		}
	}
	t.Fatal("there is no Job")
	return job
}

func TestReadOnlyGolden(t *testing.T) {
	objs := renderAll(t, readOnlyValues(t))
	checkGolden(t, filepath.Join("golden", "readonly.yaml"), manifest(t, objs))
	for name, values := range map[string][]byte{"readonly": readOnlyValues(t), "unpopulated": unpopulated(t)} {
		notes, err := Release{Chart: Stoker, Name: "rel", Namespace: "gpu-system", Values: values}.Notes()
		if err != nil {
			t.Fatal(err)
		}
		checkGolden(t, filepath.Join("golden", name+"-notes.txt"), notes)
	}
}

// Nobody can write the volume: not by the volume, not by the claim, not by the mount.
func TestReadOnlyVolumeIsReadOnlyEverywhere(t *testing.T) {
	objs := renderAll(t, readOnlyValues(t))
	for _, name := range []string{"rel-stoker-store", "rel-stoker.team-d"} {
		var pv corev1.PersistentVolume
		find(t, objs, "PersistentVolume", name, &pv)
		if pv.Spec.CSI == nil || !pv.Spec.CSI.ReadOnly || pv.Spec.CSI.VolumeHandle != "zones/a/disks/models-1" || pv.Spec.CSI.FSType != "ext4" ||
			!slices.Equal(pv.Spec.AccessModes, []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany}) || !slices.Equal(pv.Spec.MountOptions, []string{"noload"}) {
			t.Errorf("%s is %+v", name, pv.Spec)
		}
	}
	pod := agentPod(t, readOnlyValues(t))
	for _, v := range pod.Volumes {
		if v.Name == "store" && (v.PersistentVolumeClaim == nil || !v.PersistentVolumeClaim.ReadOnly || v.PersistentVolumeClaim.ClaimName != "rel-stoker-store") {
			t.Errorf("agents mount %+v", v.VolumeSource)
		}
	}
	for _, m := range pod.Containers[0].VolumeMounts {
		if !m.ReadOnly {
			t.Errorf("the agent can write %s", m.MountPath)
		}
	}
	cfg := agentConfig(t, readOnlyValues(t))
	if v := cfg.Volume; v.Mode != agent.VolumeReadOnly || v.Namespace != "gpu-system" || v.Lease != "rel-stoker-store" {
		t.Errorf("the volume reached the agent as %+v", v)
	}
}

func TestPopulateJob(t *testing.T) {
	objs := renderAll(t, readOnlyValues(t))
	job := populateJob(t, objs)
	pod := job.Spec.Template.Spec
	if *pod.AutomountServiceAccountToken || pod.RestartPolicy != corev1.RestartPolicyNever || *job.Spec.BackoffLimit != 3 {
		t.Errorf("the Job's pod is %+v", pod)
	}
	if c := pod.Containers[0]; slices.Contains(c.Args, "--prune") || *c.SecurityContext.AllowPrivilegeEscalation || !*c.SecurityContext.ReadOnlyRootFilesystem || c.SecurityContext.Capabilities.Drop[0] != "ALL" {
		t.Errorf("its container is %+v", c)
	}
	var claim corev1.PersistentVolumeClaim
	find(t, objs, "PersistentVolumeClaim", "gpu-system/rel-stoker-populate", &claim)
	if claim.Annotations["helm.sh/resource-policy"] != "keep" || *claim.Spec.StorageClassName != "fast" || claim.Spec.AccessModes[0] != corev1.ReadWriteOnce {
		t.Errorf("its claim is %+v", claim)
	}
	if v := pod.Volumes[0]; v.PersistentVolumeClaim == nil || v.PersistentVolumeClaim.ClaimName != claim.Name || v.PersistentVolumeClaim.ReadOnly {
		t.Errorf("it fills %+v", v)
	}

	trusting := populateJob(t, renderAll(t, with(t, readOnlyValues(t), func(v map[string]any) { v["caBundle"] = map[string]any{"configMapName": "company-ca"} })))
	if c := trusting.Spec.Template.Spec.Containers[0]; len(c.Env) == 0 || c.Env[0].Name != "STOKER_CA_BUNDLE" ||
		!slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == c.Env[0].Value && m.Name == "ca-bundle" }) {
		t.Errorf("with a bundle, its container is %+v", c)
	}

	// Another list is another Job; what only agents have to know is not.
	for name, tc := range map[string]struct {
		change func(map[string]any)
		same   bool
	}{
		"list":    {func(v map[string]any) { v["models"] = []any{map[string]any{"source": "hf://a/b"}} }, false},
		"log":     {func(v map[string]any) { v["log"] = map[string]any{"verbose": true} }, false},
		"account": {func(v map[string]any) { v["serviceAccount"] = map[string]any{"name": "other"} }, false},
		"mount": {func(v map[string]any) {
			v["extraVolumes"] = []any{map[string]any{"name": "x", "emptyDir": map[string]any{}}}
		}, false},
		"secret":   {func(v map[string]any) { v["imagePullSecrets"] = []any{map[string]any{"name": "x"}} }, false},
		"image":    {func(v map[string]any) { v["image"] = map[string]any{"tag": "other"} }, false},
		"volume":   {func(v map[string]any) { v["volume"] = map[string]any{"mode": "readOnly"} }, true},
		"selector": {func(v map[string]any) { v["nodeSelector"] = map[string]any{"a": "b"} }, true},
		"its own":  {func(map[string]any) {}, true},
		"interval": {func(v map[string]any) { v["agent"] = map[string]any{"intervals": map[string]any{"verify": "1m"}} }, true},
	} {
		other := populateJob(t, renderAll(t, with(t, readOnlyValues(t), tc.change)))
		if same := other.Name == job.Name; same != tc.same {
			t.Errorf("with another %s the Job is %s, and was %s", name, other.Name, job.Name)
		}
	}
	if len(job.Name) > 63 || !strings.HasPrefix(job.Name, "rel-stoker-populate-") {
		t.Errorf("it is named %s", job.Name)
	}
	long := populateJob(t, renderAll(t, with(t, readOnlyValues(t), func(v map[string]any) { v["fullnameOverride"] = strings.Repeat("n", 63) })))
	if len(long.Name) > 63 {
		t.Errorf("the Job of a long release has a name of %d characters", len(long.Name))
	}
	given := with(t, readOnlyValues(t), func(v map[string]any) { v["populate"] = map[string]any{"enabled": true, "claim": "mine"} })
	if j := populateJob(t, renderAll(t, given)); j.Spec.Template.Spec.Volumes[0].PersistentVolumeClaim.ClaimName != "mine" {
		t.Error("it does not fill the claim that is named")
	}
	for _, obj := range renderAll(t, given) {
		if obj.GetKind() == "PersistentVolumeClaim" && strings.HasSuffix(obj.GetName(), "populate") {
			t.Error("a claim is made beside the one that is named")
		}
	}
}

func TestPopulatePrunes(t *testing.T) {
	job := populateJob(t, renderAll(t, with(t, unpopulated(t), func(v map[string]any) {
		v["populate"] = map[string]any{"enabled": true, "claim": "mine", "prune": true}
	})))
	if !slices.Contains(job.Spec.Template.Spec.Containers[0].Args, "--prune") {
		t.Error("it does not prune")
	}
}

// Before there is a volume, nothing is there that would wait for it.
func TestNothingMountsAVolumeThatIsStillToBePopulated(t *testing.T) {
	kinds := map[string]int{}
	for _, obj := range renderAll(t, unpopulated(t)) {
		kinds[obj.GetKind()]++
	}
	if kinds["DaemonSet"] != 0 || kinds["PersistentVolume"] != 0 || kinds["MutatingAdmissionPolicy"] != 0 || kinds["PersistentVolumeClaim"] != 1 || kinds["Job"] != 1 {
		t.Errorf("rendered are %v", kinds)
	}
}
