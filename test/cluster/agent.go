package cluster

import (
	"context"
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// agentTokenSeconds is how long an agent's token is valid: as long as a demo that is left running for a day.
const agentTokenSeconds int64 = 24 * 60 * 60

// AgentPod says whose place an agent process takes: that of a pod of a ServiceAccount on a Node.
type AgentPod struct {
	Namespace, ServiceAccount, Node, Pod string
}

// AgentKubeconfig writes a kubeconfig with which a process is to the API server what the container of a pod would be:
// the ServiceAccount, with its RBAC and no more, and with the Node's name in its token, where admission policies read
// it (authentication.kubernetes.io/node-name). A pod that exists, such as one of the chart's DaemonSet, must be bound
// to that Node already and run under that account; one that does not is created there. The token is valid for 24
// hours, until the pod is deleted, or until Stop.
func (c *Cluster) AgentKubeconfig(ctx context.Context, agent AgentPod) (string, error) {
	path, err := c.agentKubeconfig(ctx, agent)
	if err != nil {
		return "", fmt.Errorf("make a kubeconfig for pod %s/%s on node %s: %w", agent.Namespace, agent.Pod, agent.Node, err)
	}
	return path, nil
}

func (c *Cluster) agentKubeconfig(ctx context.Context, agent AgentPod) (string, error) {
	pod, err := c.agentPod(ctx, agent)
	if err != nil {
		return "", err
	}
	seconds := agentTokenSeconds
	request, err := c.client.CoreV1().ServiceAccounts(agent.Namespace).CreateToken(ctx, agent.ServiceAccount,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
			ExpirationSeconds: &seconds,
			BoundObjectRef: &authenticationv1.BoundObjectReference{
				APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID,
			},
		}}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("request a token of service account %s: %w", agent.ServiceAccount, err)
	}
	path := c.layout.kubeconfig(agent.Namespace + "_" + agent.Pod)
	user := &clientcmdapi.AuthInfo{Token: request.Status.Token}
	if err := writeKubeconfig(path, c.config.Host, c.ca, user); err != nil {
		return "", err
	}
	return path, nil
}

// agentPod returns the pod, created if need be. Naming the Node in the spec binds it without the scheduler, as static
// pods are bound, so that this works for a Node that is full or tainted.
func (c *Cluster) agentPod(ctx context.Context, agent AgentPod) (*corev1.Pod, error) {
	pods := c.client.CoreV1().Pods(agent.Namespace)
	pod, err := pods.Get(ctx, agent.Pod, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		no, yes := false, true
		pod, err = pods.Create(ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: agent.Pod, Namespace: agent.Namespace},
			Spec: corev1.PodSpec{
				NodeName:           agent.Node,
				ServiceAccountName: agent.ServiceAccount,
				// As the strictest pod security level wants it: nothing of it ever runs, and namespaces may enforce one.
				SecurityContext: &corev1.PodSecurityContext{
					RunAsNonRoot:   &yes,
					SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
				},
				Containers: []corev1.Container{{
					Name: "agent", Image: "stands-for-a-process-outside",
					SecurityContext: &corev1.SecurityContext{
						AllowPrivilegeEscalation: &no,
						Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
					},
				}},
			},
		}, metav1.CreateOptions{})
	}
	if err != nil {
		return nil, err
	}
	if pod.Spec.NodeName != agent.Node || pod.Spec.ServiceAccountName != agent.ServiceAccount {
		return nil, fmt.Errorf("it is there as service account %q on node %q, not as %q on %q",
			pod.Spec.ServiceAccountName, pod.Spec.NodeName, agent.ServiceAccount, agent.Node)
	}
	return pod, nil
}
