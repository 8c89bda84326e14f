package charts

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/stoker-project/stoker/test/cluster"
)

// platform is one that has a file of values in the chart.
type platform struct {
	name string
	// level is the Pod Security level that namespaces have there by themselves;
	// OpenShift's restricted-v2 forbids what restricted does.
	level string
	// labels and taint are a GPU node's.
	labels map[string]string
	taint  corev1.Taint
	// agent looks at what differs of the agent's pod.
	agent func(pod corev1.PodSpec) bool
	// user is the injected container's uid; 0: none.
	user int64
}

func platforms() []platform {
	gpu := corev1.Taint{Key: "nvidia.com/gpu", Value: "present", Effect: corev1.TaintEffectNoSchedule}
	sku := corev1.Taint{Key: "sku", Value: "gpu", Effect: corev1.TaintEffectNoSchedule}
	present := map[string]string{"nvidia.com/gpu.present": "true"}
	return []platform{
		{"openshift", "restricted", present, gpu, func(pod corev1.PodSpec) bool {
			selinux := pod.SecurityContext.SELinuxOptions
			return runtimeClass(pod) == "nvidia" && selinux != nil && selinux.Type == "spc_t" && selinux.Level == "s0" &&
				slices.Contains(pod.Containers[0].Args, "--selinux-label=system_u:object_r:container_ro_file_t:s0") && confined(pod)
		}, 0},
		{"gke", "privileged", map[string]string{"cloud.google.com/gke-accelerator": "nvidia-l4"}, gpu, func(pod corev1.PodSpec) bool {
			c := pod.Containers[0]
			return runtimeClass(pod) == "" && *c.SecurityContext.Privileged && *c.SecurityContext.ReadOnlyRootFilesystem &&
				hostPath(pod, "/usr/local/nvidia") == "/home/kubernetes/bin/nvidia" &&
				slices.Contains(c.Env, corev1.EnvVar{Name: "LD_LIBRARY_PATH", Value: "/usr/local/nvidia/lib64"})
		}, 65532},
		{"eks", "privileged", map[string]string{"karpenter.k8s.aws/instance-gpu-manufacturer": "nvidia"}, gpu, func(pod corev1.PodSpec) bool {
			return runtimeClass(pod) == "" && confined(pod)
		}, 65532},
		{"bottlerocket", "privileged", map[string]string{"eks.amazonaws.com/instance-gpu-manufacturer": "nvidia"}, gpu, func(pod corev1.PodSpec) bool {
			return hostPath(pod, "/var/run/nvidia-container-devices/all") == "/dev/null" && pod.SecurityContext.SELinuxOptions == nil && confined(pod)
		}, 65532},
		{"aks", "privileged", map[string]string{"kubernetes.azure.com/accelerator": "nvidia"}, sku, func(pod corev1.PodSpec) bool {
			return runtimeClass(pod) == "" && confined(pod)
		}, 65532},
		{"talos", "baseline", present, gpu, func(pod corev1.PodSpec) bool {
			return runtimeClass(pod) == "nvidia" && hostPath(pod, "/models") == "/var/mnt/stoker" && confined(pod)
		}, 65532},
		{"k3s", "privileged", present, gpu, func(pod corev1.PodSpec) bool {
			return runtimeClass(pod) == "nvidia" && hostPath(pod, "/models") == "/var/lib/stoker" && confined(pod)
		}, 65532},
	}
}

func runtimeClass(pod corev1.PodSpec) string {
	if pod.RuntimeClassName == nil {
		return ""
	}
	return *pod.RuntimeClassName
}

// confined says whether the agent is as it is by default: no privilege, no
// capability.
func confined(pod corev1.PodSpec) bool {
	sc := pod.Containers[0].SecurityContext
	return sc.Privileged == nil && !*sc.AllowPrivilegeEscalation && *sc.ReadOnlyRootFilesystem && slices.Equal(sc.Capabilities.Drop, []corev1.Capability{"ALL"})
}

// hostPath is what of the node the agent sees at a path, which it must not write
// unless it is the store.
func hostPath(pod corev1.PodSpec, at string) string {
	for _, m := range pod.Containers[0].VolumeMounts {
		for _, v := range pod.Volumes {
			if m.MountPath == at && v.Name == m.Name && v.HostPath != nil && (m.ReadOnly || at == "/models") {
				return v.HostPath.Path
			}
		}
	}
	return ""
}

// The values of each platform, on the real API server with that platform's nodes
// and Pod Security level: agents run on its GPU nodes, and pods get what lets them
// read the store.
func TestPlatforms(t *testing.T) {
	all := platforms()
	files, err := filepath.Glob(filepath.Join(repositoryRoot(t), "charts", "stoker", "values", "*.yaml"))
	if err != nil || len(files) != len(all) {
		t.Fatalf("%d files of values, and %d platforms: %v", len(files), len(all), err)
	}
	page, err := os.ReadFile(filepath.Join(repositoryRoot(t), "docs", "platforms.md"))
	if err != nil {
		t.Fatal(err)
	}
	c := startCluster(t)
	class := &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "nvidia"}, Handler: "nvidia"}
	if _, err := c.Client().NodeV1().RuntimeClasses().Create(t.Context(), class, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		t.Run(p.name, func(t *testing.T) {
			if !strings.Contains(string(page), "values/"+p.name+".yaml") {
				t.Errorf("docs/platforms.md does not name values/%s.yaml", p.name)
			}
			testPlatform(t, c, p)
		})
	}
}

func testPlatform(t *testing.T, c *cluster.Cluster, p platform) {
	agents, serving := "agents-"+p.name, "serving-"+p.name
	createNamespaces(t, c.Client(), "privileged", agents)
	createNamespaces(t, c.Client(), p.level, serving)
	values := with(t, chartFile(t, Stoker, filepath.Join("values", p.name+".yaml")), func(all map[string]any) {
		all["namespaces"] = []any{serving}
	})
	objs, err := Render(values, p.name, agents)
	if err != nil {
		t.Fatal(err)
	}
	if err := Apply(t.Context(), c.RESTConfig(), objs); err != nil {
		t.Fatal(err)
	}
	node := cluster.NodeSpec{Name: p.name, Labels: p.labels, Taints: []corev1.Taint{p.taint}, GPUs: 1}
	if _, err := c.AddNode(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	var agent corev1.Pod
	err = cluster.WaitFor(t.Context(), "an agent on the node of "+p.name, func(ctx context.Context) (bool, error) {
		pods, err := c.Client().CoreV1().Pods(agents).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=stoker"})
		if err != nil {
			return false, err
		}
		at := slices.IndexFunc(pods.Items, func(pod corev1.Pod) bool { return pod.Spec.NodeName == p.name })
		if at >= 0 {
			agent = pods.Items[at]
		}
		return at >= 0, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !p.agent(agent.Spec) {
		t.Errorf("the agent's pod is %+v\n%+v", agent.Spec, agent.Spec.Containers[0].SecurityContext)
	}
	refused := p.level != "privileged"
	var ds appsv1.DaemonSet
	find(t, objs, "DaemonSet", agents+"/"+daemonSetName(p.name), &ds)
	pod := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "agent", Namespace: serving}, Spec: ds.Spec.Template.Spec}
	pod.Spec.ServiceAccountName = ""
	if err := tryPod(t.Context(), c.Client(), &pod); apierrors.IsForbidden(err) != refused {
		t.Errorf("an agent in a namespace as the platform makes them (%s) is answered with %v", p.level, err)
	}
	testInjected(t, c.Client(), p, serving)
}

// daemonSetName is how the chart names a release's DaemonSet.
func daemonSetName(release string) string { return release + "-stoker" }

// tryPod asks the API server for a pod, without making it.
func tryPod(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod) error {
	created, err := client.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if err == nil {
		pod.Spec = created.Spec
	}
	return err
}

// testInjected creates a pod that meets the restricted level by itself; what it
// gets must not change that.
func testInjected(t *testing.T, client kubernetes.Interface, p platform, namespace string) {
	t.Helper()
	yes, no := true, false
	template := corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "vllm", Namespace: namespace, Labels: map[string]string{"stoker.dev/model": "m"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "vllm", Image: "vllm", SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: &no, RunAsNonRoot: &yes, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		}}}},
	}
	var created corev1.Pod
	err := cluster.WaitFor(t.Context(), "the policy of "+p.name+" to be in force", func(ctx context.Context) (bool, error) {
		created = *template.DeepCopy()
		err := tryPod(ctx, client, &created)
		return err == nil && len(created.Spec.InitContainers) == 1, err
	})
	if err != nil {
		t.Fatal(err)
	}
	sc := created.Spec.InitContainers[0].SecurityContext
	if (sc.RunAsUser == nil) != (p.user == 0) || (sc.RunAsUser != nil && *sc.RunAsUser != p.user) || !*sc.RunAsNonRoot {
		t.Errorf("the injected container's context is %+v", sc)
	}
}
