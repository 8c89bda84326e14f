package charts

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"github.com/stoker-project/stoker/test/cluster"
)

// releaseNamespace is where the tests install the chart.
const releaseNamespace = "gpu-system"

// startCluster starts a control plane for one test.
func startCluster(t *testing.T) *cluster.Cluster {
	t.Helper()
	c, err := cluster.Start(t.Context(), cluster.Options{Log: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// createNamespaces makes namespaces, at a Pod Security level if one is given.
func createNamespaces(t *testing.T, client kubernetes.Interface, level string, names ...string) {
	t.Helper()
	for _, name := range names {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if level != "" {
			ns.Labels = map[string]string{"pod-security.kubernetes.io/enforce": level}
		}
		if _, err := client.CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

// The API server itself takes every object, with no field that it does not
// know, and its controllers do with them what the chart promises.
func TestApply(t *testing.T) {
	c := startCluster(t)
	client := c.Client()
	createNamespaces(t, client, "privileged", releaseNamespace)
	applyCRDs(t, c)
	createNamespaces(t, client, "restricted", "team-a", "team-b", "team-c", "team-d")

	defaults, err := Render(nil, "plain", releaseNamespace)
	if err != nil {
		t.Fatal(err)
	}
	full, err := Render(fullValues(t), "rel", releaseNamespace)
	if err != nil {
		t.Fatal(err)
	}
	disks, err := Render([]byte("{namespaces: [team-c], store: {hostPath: /mnt/nvme0/stoker}}"), "disks", releaseNamespace)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := Render(readOnlyValues(t), "sealed", releaseNamespace)
	if err != nil {
		t.Fatal(err)
	}
	for _, objs := range [][]*unstructured.Unstructured{defaults, full, disks, sealed} {
		if err := Apply(t.Context(), c.RESTConfig(), objs); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("claims bind to their volumes", func(t *testing.T) { testClaimsBind(t, client) })
	t.Run("the Job that fills a volume gets its pod", func(t *testing.T) { testPopulateRuns(t, client, populateJob(t, sealed).Name) })
	t.Run("a second apply changes nothing", func(t *testing.T) { testApplyAgain(t, c, full) })
	t.Run("unknown fields are errors", func(t *testing.T) { testStrict(t, c, defaults) })
	t.Run("GPU nodes get an agent, others do not", func(t *testing.T) { testAgentPods(t, c) })
	t.Run("the account may do what the agent needs, and no more", func(t *testing.T) { testAccess(t, client) })
	t.Run("restricted pods may mount the claim", func(t *testing.T) { testRestrictedPod(t, client) })
}

func testClaimsBind(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	volume := func(namespace, claim, name string) *corev1.PersistentVolume {
		t.Helper()
		waitBound(t, client, namespace, claim, name)
		pv, err := client.CoreV1().PersistentVolumes().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if pv.Status.Phase != corev1.VolumeBound || pv.Spec.ClaimRef.Namespace != namespace {
			t.Errorf("volume of %s is %s, claimed by %s", namespace, pv.Status.Phase, pv.Spec.ClaimRef.Namespace)
		}
		return pv
	}
	if pv := volume("team-c", "stoker-models", "disks-stoker.team-c"); pv.Spec.HostPath == nil || pv.Spec.HostPath.Path != "/mnt/nvme0/stoker" {
		t.Errorf("the volume of each node's disk is %+v", pv.Spec.PersistentVolumeSource)
	}
	for _, ns := range []string{"team-a", "team-b"} {
		pv := volume(ns, "stoker-models", "rel-warm."+ns)
		if pv.Spec.NFS == nil || !pv.Spec.NFS.ReadOnly || pv.Spec.NFS.Server != "nas.example" || pv.Spec.AccessModes[0] != corev1.ReadOnlyMany || len(pv.Spec.MountOptions) != 1 {
			t.Errorf("the shared volume of %s is %+v", ns, pv.Spec)
		}
	}
	for ns, claim := range map[string][2]string{"team-d": {"stoker-models", "sealed-stoker.team-d"}, releaseNamespace: {"sealed-stoker-store", "sealed-stoker-store"}} {
		pv := volume(ns, claim[0], claim[1])
		if pv.Spec.CSI == nil || !pv.Spec.CSI.ReadOnly || pv.Spec.AccessModes[0] != corev1.ReadOnlyMany {
			t.Errorf("the read-only volume of %s is %+v", ns, pv.Spec)
		}
	}
	if pv := volume(releaseNamespace, "rel-warm-store", "rel-warm-store"); pv.Spec.NFS == nil || pv.Spec.NFS.ReadOnly || pv.Spec.AccessModes[0] != corev1.ReadWriteMany {
		t.Errorf("the agents' volume is %+v", pv.Spec)
	}
}

// testPopulateRuns lets the real Job controller make the pod.
func testPopulateRuns(t *testing.T, client kubernetes.Interface, name string) {
	t.Helper()
	err := cluster.WaitFor(t.Context(), "the pod of the Job "+name, func(ctx context.Context) (bool, error) {
		pods, err := client.CoreV1().Pods(releaseNamespace).List(ctx, metav1.ListOptions{LabelSelector: "batch.kubernetes.io/job-name=" + name})
		return err == nil && len(pods.Items) == 1, err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// waitBound waits until the real controller-manager has bound the claim.
func waitBound(t *testing.T, client kubernetes.Interface, namespace, name, volume string) *corev1.PersistentVolumeClaim {
	t.Helper()
	var claim *corev1.PersistentVolumeClaim
	err := cluster.WaitFor(t.Context(), "the claim of "+namespace+" to be bound", func(ctx context.Context) (bool, error) {
		var err error
		claim, err = client.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, name, metav1.GetOptions{})
		return err == nil && claim.Status.Phase == corev1.ClaimBound, err
	})
	if err != nil {
		t.Fatal(err)
	}
	if claim.Spec.VolumeName != volume {
		t.Errorf("the claim of %s is bound to %s", namespace, claim.Spec.VolumeName)
	}
	return claim
}

// An upgrade applies the same volumes again: their claims must stay bound, and
// agents must not be replaced.
func testApplyAgain(t *testing.T, c *cluster.Cluster, objs []*unstructured.Unstructured) {
	t.Helper()
	client := c.Client()
	before, err := client.AppsV1().DaemonSets(releaseNamespace).Get(t.Context(), "rel-warm", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	bound, err := client.CoreV1().PersistentVolumes().Get(t.Context(), "rel-warm.team-a", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := Apply(t.Context(), c.RESTConfig(), objs); err != nil {
		t.Fatal(err)
	}
	after, err := client.AppsV1().DaemonSets(releaseNamespace).Get(t.Context(), "rel-warm", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if before.Generation != after.Generation {
		t.Errorf("the DaemonSet's generation went from %d to %d", before.Generation, after.Generation)
	}
	volume, err := client.CoreV1().PersistentVolumes().Get(t.Context(), "rel-warm.team-a", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if volume.Spec.ClaimRef.UID == "" || volume.Spec.ClaimRef.UID != bound.Spec.ClaimRef.UID {
		t.Errorf("the volume's claim went from %q to %q", bound.Spec.ClaimRef.UID, volume.Spec.ClaimRef.UID)
	}
	if claim := waitBound(t, client, "team-a", "stoker-models", "rel-warm.team-a"); claim.UID != volume.Spec.ClaimRef.UID {
		t.Errorf("the claim is %s, the volume names %s", claim.UID, volume.Spec.ClaimRef.UID)
	}
}

func testStrict(t *testing.T, c *cluster.Cluster, objs []*unstructured.Unstructured) {
	t.Helper()
	for _, obj := range objs {
		if obj.GetKind() != "DaemonSet" {
			continue
		}
		bad := obj.DeepCopy()
		if err := unstructured.SetNestedField(bad.Object, "x", "spec", "template", "spec", "nodeSelectors"); err != nil {
			t.Fatal(err)
		}
		err := Apply(t.Context(), c.RESTConfig(), []*unstructured.Unstructured{bad})
		if err == nil || !strings.Contains(err.Error(), "nodeSelectors") || !strings.Contains(err.Error(), "gpu-system/plain-stoker") {
			t.Errorf("an unknown field was answered with %v", err)
		}
	}
}

// testAgentPods lets the real DaemonSet controller and the real scheduler
// place the agents of the default values.
func testAgentPods(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	client := c.Client()
	// The usual taint of GPU node pools, which keeps other pods away.
	taint := corev1.Taint{Key: "nvidia.com/gpu", Value: "present", Effect: corev1.TaintEffectNoSchedule}
	for _, node := range []cluster.NodeSpec{
		{Name: "gpu-node", Labels: map[string]string{"nvidia.com/gpu.present": "true"}, Taints: []corev1.Taint{taint}, GPUs: 8},
		{Name: "cpu-node"},
	} {
		if _, err := c.AddNode(t.Context(), node); err != nil {
			t.Fatal(err)
		}
	}
	err := cluster.WaitFor(t.Context(), "an agent on gpu-node", func(ctx context.Context) (bool, error) {
		pods, err := client.CoreV1().Pods(releaseNamespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/instance=plain,app.kubernetes.io/name=stoker"})
		if err != nil {
			return false, err
		}
		return len(pods.Items) == 1 && pods.Items[0].Spec.NodeName == "gpu-node", nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var ds *appsv1.DaemonSet
	err = cluster.WaitFor(t.Context(), "the DaemonSet's status", func(ctx context.Context) (bool, error) {
		var err error
		ds, err = client.AppsV1().DaemonSets(releaseNamespace).Get(ctx, "plain-stoker", metav1.GetOptions{})
		return err == nil && ds.Status.ObservedGeneration == ds.Generation && ds.Status.DesiredNumberScheduled == 1, err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// testAccess asks the API server's own authorizer, for each account of the
// chart, in the namespace of events about nodes, in the release's and in
// another one.
func testAccess(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	for account, grants := range map[string][]grant{
		"plain-stoker":         agentGrants(releaseNamespace, "default"),
		"stoker-agent":         agentGrants(releaseNamespace, "full"),
		"sealed-stoker":        agentGrants(releaseNamespace, "readonly"),
		"plain-stoker-sweeper": sweeperGrants(releaseNamespace),
		"plain-stoker-unlabel": nil, // its rights come and go with the uninstallation
	} {
		t.Run(account, func(t *testing.T) { testAccountAccess(t, client, account, grants) })
	}
}

func testAccountAccess(t *testing.T, client kubernetes.Interface, account string, grants []grant) {
	t.Helper()
	namespaces := []string{metav1.NamespaceDefault, releaseNamespace, "team-a"}
	allowed := map[authorizationv1.ResourceAttributes]bool{}
	for _, g := range grants {
		for _, rule := range g.rules {
			if len(rule.ResourceNames) > 0 {
				continue // an SCC, which this API server does not have, or asked for without a name below
			}
			for _, verb := range rule.Verbs {
				for _, ns := range namespaces {
					if g.namespace == "" || g.namespace == ns {
						allowed[authorizationv1.ResourceAttributes{Verb: verb, Group: rule.APIGroups[0], Resource: rule.Resources[0], Namespace: ns}] = true
					}
				}
			}
		}
	}
	asked, granted := 0, 0
	for resource, group := range map[string]string{
		"nodes": "", "pods": "", "secrets": "", "configmaps": "", "persistentvolumes": "", "serviceaccounts": "", "events": "events.k8s.io", "leases": "coordination.k8s.io",
		"validatingadmissionpolicies": "admissionregistration.k8s.io", "clusterroles": "rbac.authorization.k8s.io", "daemonsets": "apps",
	} {
		for _, verb := range []string{"get", "list", "watch", "create", "update", "patch", "delete"} {
			for _, ns := range namespaces {
				attributes := authorizationv1.ResourceAttributes{Verb: verb, Group: group, Resource: resource, Namespace: ns}
				review, err := client.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authorizationv1.SubjectAccessReview{
					Spec: authorizationv1.SubjectAccessReviewSpec{
						User:               "system:serviceaccount:" + releaseNamespace + ":" + account,
						Groups:             []string{"system:serviceaccounts", "system:authenticated"},
						ResourceAttributes: &attributes,
					},
				}, metav1.CreateOptions{})
				if err != nil {
					t.Fatal(err)
				}
				asked++
				if review.Status.Allowed {
					granted++
				}
				if review.Status.Allowed != allowed[attributes] {
					t.Errorf("%s %s in %s: allowed is %v, want %v", verb, resource, ns, review.Status.Allowed, allowed[attributes])
				}
			}
		}
	}
	if granted != len(allowed) {
		t.Errorf("of %d questions %d were granted, want %d", asked, granted, len(allowed))
	}
}

// testRestrictedPod creates the pod that the notes show, in a namespace where
// hostPath is forbidden.
func testRestrictedPod(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	byHand, err := Release{Chart: Stoker, Name: "rel", Namespace: releaseNamespace, Values: fullValues(t), KubeVersion: "v1.35.0"}.Notes()
	if err != nil {
		t.Fatal(err)
	}
	byLabel, err := Release{Chart: Stoker, Name: "rel", Namespace: releaseNamespace, Values: fullValues(t)}.Notes()
	if err != nil {
		t.Fatal(err)
	}
	_, hand, _ := strings.Cut(byHand, "in namespace team-a:\n")
	_, label, _ := strings.Cut(byLabel, "the API server adds the rest:\n")
	label, _, _ = strings.Cut(label, "What is added:")
	for name, snippet := range map[string]string{"by-hand": hand, "by-label": label} {
		var pod corev1.Pod
		if err := yaml.UnmarshalStrict([]byte(snippet), &pod); err != nil || len(pod.Spec.Containers) != 1 {
			t.Fatalf("the pod in the notes is no pod: %v\n%s", err, snippet)
		}
		pod.Name = name
		// What the snippet leaves to the reader: the image, and the level's own demands on it.
		none, yes := false, true
		pod.Spec.Containers[0].Image = "vllm"
		pod.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{
			AllowPrivilegeEscalation: &none, RunAsNonRoot: &yes, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		}
		var created *corev1.Pod
		err := cluster.WaitFor(t.Context(), "the policy to be in force", func(ctx context.Context) (bool, error) {
			created, err = client.CoreV1().Pods(pod.Namespace).Create(ctx, &pod, metav1.CreateOptions{
				FieldValidation: metav1.FieldValidationStrict, DryRun: []string{metav1.DryRunAll},
			})
			return err == nil && len(created.Spec.InitContainers) == 1, err
		})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(created.Spec.Volumes, func(v corev1.Volume) bool {
			return v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ReadOnly && v.PersistentVolumeClaim.ClaimName == "stoker-models"
		}) {
			t.Errorf("%s: the pod's volumes are %+v", name, created.Spec.Volumes)
		}
	}
}
