package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/stoker-project/stoker/test/cluster"
)

// start starts a cluster for one test and stops it afterwards.
func start(t *testing.T) *cluster.Cluster {
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

func TestControlPlane(t *testing.T) {
	c := start(t)
	t.Run("calls itself by the release that it is", func(t *testing.T) {
		info, err := c.Client().Discovery().ServerVersion()
		if err != nil {
			t.Fatal(err)
		}
		if got := info.GitVersion + " " + info.Major + "." + info.Minor; got != "v1.37.2 1.37" {
			t.Errorf("version is %q, want %q", got, "v1.37.2 1.37")
		}
	})
	t.Run("serves the kubeconfig's holder", func(t *testing.T) {
		client := clientFrom(t, c.KubeconfigPath)
		if _, err := client.CoreV1().Namespaces().Get(t.Context(), "kube-system", metav1.GetOptions{}); err != nil {
			t.Error(err)
		}
	})
	t.Run("schedules by GPUs", func(t *testing.T) { testSchedules(t, c) })
	t.Run("gives an agent what a pod on its node has", func(t *testing.T) { testAgentKubeconfig(t, c) })
	t.Run("is not disturbed by a second one", func(t *testing.T) { testSecond(t, c) })
}

func testSchedules(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	ctx := t.Context()
	for _, spec := range []cluster.NodeSpec{
		{Name: "cpu-only", Labels: map[string]string{"pool": "cpu"}},
		{Name: "two-gpus", Labels: map[string]string{"pool": "gpu"}, GPUs: 2},
	} {
		node, err := c.AddNode(ctx, spec)
		if err != nil {
			t.Fatal(err)
		}
		if node.Labels["pool"] != spec.Labels["pool"] || node.Labels[corev1.LabelHostname] != spec.Name {
			t.Errorf("labels of %s are %v", spec.Name, node.Labels)
		}
		gpus := node.Status.Allocatable["nvidia.com/gpu"]
		if gpus.Value() != int64(spec.GPUs) {
			t.Errorf("%s has %s GPUs to allocate, want %d", spec.Name, gpus.String(), spec.GPUs)
		}
	}
	if _, err := c.AddNode(ctx, cluster.NodeSpec{Name: "two-gpus"}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("adding a node twice gives %v, want AlreadyExists", err)
	}

	createGPUPod(t, c, "both", 2)
	var scheduled *corev1.Pod
	err := cluster.WaitFor(ctx, "the pod to be bound", func(ctx context.Context) (bool, error) {
		var err error
		scheduled, err = c.Client().CoreV1().Pods("default").Get(ctx, "both", metav1.GetOptions{})
		return err == nil && scheduled.Spec.NodeName != "", err
	})
	if err != nil {
		t.Fatal(err)
	}
	if scheduled.Spec.NodeName != "two-gpus" {
		t.Errorf("bound to %s, want two-gpus", scheduled.Spec.NodeName)
	}

	createGPUPod(t, c, "one-more", 1)
	err = cluster.WaitFor(ctx, "the pod to be unschedulable for want of a GPU", func(ctx context.Context) (bool, error) {
		pod, err := c.Client().CoreV1().Pods("default").Get(ctx, "one-more", metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		for _, condition := range pod.Status.Conditions {
			if condition.Type == corev1.PodScheduled && condition.Reason == corev1.PodReasonUnschedulable {
				return true, nil
			}
		}
		return false, fmt.Errorf("it is on node %q with conditions %v", pod.Spec.NodeName, pod.Status.Conditions)
	})
	if err != nil {
		t.Error(err)
	}
}

func createGPUPod(t *testing.T, c *cluster.Cluster, name string, gpus int64) {
	t.Helper()
	_, err := c.Client().CoreV1().Pods("default").Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "server", Image: "server",
			Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{
				"nvidia.com/gpu": *resource.NewQuantity(gpus, resource.DecimalSI),
			}},
		}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

func testAgentKubeconfig(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	ctx := t.Context()
	const namespace, account, node = "stoker-system", "stoker", "agent-node"
	if _, err := c.AddNode(ctx, cluster.NodeSpec{Name: node, GPUs: 1}); err != nil {
		t.Fatal(err)
	}
	createAccount(t, c, namespace, account)
	agent := cluster.AgentPod{Namespace: namespace, ServiceAccount: account, Node: node, Pod: "agent"}
	path, err := c.AgentKubeconfig(ctx, agent)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("a kubeconfig with a token has mode %s", info.Mode())
	}

	client := clientFrom(t, path)
	review, err := client.AuthenticationV1().SelfSubjectReviews().
		Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := review.Status.UserInfo.Username, "system:serviceaccount:"+namespace+":"+account; got != want {
		t.Errorf("the token's user is %q, want %q", got, want)
	}
	extra := review.Status.UserInfo.Extra["authentication.kubernetes.io/node-name"]
	if len(extra) != 1 || extra[0] != node {
		t.Errorf("the token's node is %v, want %s", extra, node)
	}
	if _, err := client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{}); err != nil {
		t.Errorf("what its role grants: %v", err)
	}
	if err := client.CoreV1().Nodes().Delete(ctx, node, metav1.DeleteOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("what no role grants gives %v, want Forbidden", err)
	}

	if again, err := c.AgentKubeconfig(ctx, agent); err != nil || again != path {
		t.Errorf("asking again gives %q, %v; want %q", again, err, path)
	}
	agent.Node = "another"
	if path, err := c.AgentKubeconfig(ctx, agent); err == nil {
		t.Errorf("a pod bound elsewhere gives %s, want an error", path)
	}
}

// createAccount makes a ServiceAccount that may get Nodes.
func createAccount(t *testing.T, c *cluster.Cluster, namespace, name string) {
	t.Helper()
	ctx, client := t.Context(), c.Client()
	meta := metav1.ObjectMeta{Name: name}
	_, err := client.CoreV1().Namespaces().
		Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().ServiceAccounts(namespace).
		Create(ctx, &corev1.ServiceAccount{ObjectMeta: meta}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{
		ObjectMeta: meta,
		Rules:      []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"nodes"}}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: meta,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: name}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func testSecond(t *testing.T, first *cluster.Cluster) {
	t.Helper()
	ctx := t.Context()
	second := start(t)
	if first.RESTConfig().Host == second.RESTConfig().Host {
		t.Fatalf("both are at %s", first.RESTConfig().Host)
	}
	if _, err := second.AddNode(ctx, cluster.NodeSpec{Name: "only-in-the-second"}); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Client().CoreV1().Nodes().Get(ctx, "only-in-the-second", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the first one's answer about the second one's node is %v, want NotFound", err)
	}
	// Each trusts its own keys only.
	config := second.RESTConfig()
	config.Host = first.RESTConfig().Host
	config.CAData = first.RESTConfig().CAData
	foreign, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := foreign.CoreV1().Nodes().List(ctx, metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("the second one's administrator gets %v from the first, want Unauthorized", err)
	}
}

func TestStartSaysWhyNot(t *testing.T) {
	// A program that stands where the control plane should and fails at once.
	binary := filepath.Join(t.TempDir(), "broken")
	if err := os.WriteFile(binary, []byte("#!/bin/sh\necho \"$1: no disk today\" >&2\nexit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c, err := cluster.Start(t.Context(), cluster.Options{Binary: binary, Dir: dir})
	if err == nil {
		t.Fatal(errors.Join(errors.New("it started"), c.Stop()))
	}
	for _, want := range []string{"etcd", "no disk today", "exit status 3", filepath.Join(dir, "logs", "etcd.log")} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q:\n%v", want, err)
		}
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		t.Error("a directory that was given is gone")
	}
}

func clientFrom(t *testing.T, kubeconfig string) *kubernetes.Clientset {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func TestStartTriesOtherPorts(t *testing.T) {
	// It notes the flags of each attempt and ends as a component does whose port was taken.
	dir := t.TempDir()
	attempts, binary := filepath.Join(dir, "attempts"), filepath.Join(dir, "unlucky")
	script := "#!/bin/sh\necho \"$@\" >> " + attempts + "\necho 'listen tcp: bind: address already in use' >&2\nexit 1\n"
	if err := os.WriteFile(binary, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	c, err := cluster.Start(t.Context(), cluster.Options{Binary: binary, Dir: filepath.Join(dir, "cluster")})
	if err == nil {
		t.Fatal(errors.Join(errors.New("it started"), c.Stop()))
	}
	if want := "address already in use"; !strings.Contains(err.Error(), want) {
		t.Errorf("the error does not say %q: %v", want, err)
	}
	content, err := os.ReadFile(attempts)
	if err != nil {
		t.Fatal(err)
	}
	calls := strings.Split(strings.TrimSpace(string(content)), "\n")
	different := map[string]bool{}
	for _, call := range calls {
		different[call] = true
	}
	if len(calls) != 5 || len(different) < 2 {
		t.Errorf("%d attempts with %d sets of ports, want 5 with several:\n%s", len(calls), len(different), content)
	}
}
