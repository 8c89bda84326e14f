package main

import (
	"context"
	"fmt"
	"sort"
	"text/tabwriter"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/test/cluster"
)

const replicas = 4

// vllm is a Deployment as a platform team would write it: one label names the
// model; the annotation asks for nodes that are warm and where a replica can
// start now, and for no others. The chart's admission policy adds the rest.
const vllm = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: vllm, namespace: serving}
spec:
  replicas: 4
  selector: {matchLabels: {app: vllm}}
  template:
    metadata:
      labels: {app: vllm, stoker.dev/model: llama-demo}
      annotations: {stoker.dev/placement: require}
    spec:
      tolerations: [{key: nvidia.com/gpu, operator: Exists}]
      containers:
      - name: vllm
        image: vllm/vllm-openai
        command: [vllm, serve]
        args: [/stoker/model, --served-model-name=stoker-demo/llama-demo]
        resources: {limits: {nvidia.com/gpu: "1"}}
`

// deploy creates the Deployment and shows where the scheduler bound its pods.
func (d *demo) deploy(ctx context.Context) error {
	d.say("a Deployment of %d vLLM-shaped pods, one GPU each, with one label and one annotation", replicas)
	fmt.Fprint(d.out, "    labels: {stoker.dev/model: llama-demo}, annotations: {stoker.dev/placement: require}\n\n")
	var dep appsv1.Deployment
	if err := yaml.UnmarshalStrict([]byte(vllm), &dep); err != nil {
		return fmt.Errorf("read the Deployment: %w", err)
	}
	if _, err := d.cluster.Client().AppsV1().Deployments(servingNamespace).Create(ctx, &dep, metav1.CreateOptions{}); err != nil {
		return err
	}
	return d.showPlacement(ctx, replicas)
}

func (d *demo) scale(ctx context.Context, n int32) error {
	_, err := d.cluster.Client().AppsV1().Deployments(servingNamespace).UpdateScale(ctx, "vllm", &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{Name: "vllm", Namespace: servingNamespace}, Spec: autoscalingv1.ScaleSpec{Replicas: n},
	}, metav1.UpdateOptions{})
	return err
}

// showPlacement waits until n pods are bound, and says where and why. A pod on
// a node that is not warm or does not fit fails the demo.
func (d *demo) showPlacement(ctx context.Context, n int) error {
	var pods []corev1.Pod
	err := cluster.WaitFor(ctx, fmt.Sprintf("%d pods to be bound", n), func(ctx context.Context) (bool, error) {
		list, err := d.cluster.Client().CoreV1().Pods(servingNamespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		pods = nil
		for _, p := range list.Items {
			if p.Spec.NodeName != "" {
				pods = append(pods, p)
			}
		}
		return len(pods) == n, nil
	})
	if err != nil {
		return err
	}
	nodes, err := d.nodes(ctx)
	if err != nil {
		return err
	}
	count := map[string]int{}
	sort.Slice(pods, func(i, j int) bool { return pods[i].Name < pods[j].Name })
	if len(pods[0].Spec.InitContainers) == 0 || pods[0].Spec.Affinity == nil {
		return fmt.Errorf("the admission policy added nothing to pod %s", pods[0].Name)
	}
	for _, p := range pods {
		count[p.Spec.NodeName]++
		fmt.Fprintf(d.out, "    %s -> %s\n", p.Name, p.Spec.NodeName)
	}
	tw := tabwriter.NewWriter(d.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "\n    NODE\tPODS\tWHY")
	for _, v := range nodes {
		warm, fits := v.node.Labels[agent.WarmPrefix+bigModel], v.node.Labels[agent.FitsPrefix+bigModel]
		why := "warm and fits"
		switch {
		case atoi(fits) == 0 && fits != "":
			why = "fits=0: a replica could not start there, so not allowed"
		case fits == "":
			why = "not warm, so not allowed"
		}
		fmt.Fprintf(tw, "    %s\t%d\t%s\n", v.node.Name, count[v.node.Name], why)
		if count[v.node.Name] > 0 && (warm == "" || (fits != "" && atoi(fits) == 0 && count[v.node.Name] == n)) {
			return fmt.Errorf("a pod was bound to %s, which says warm=%q fits=%q", v.node.Name, warm, fits)
		}
	}
	if d.agents["gpu-1"] == nil {
		fmt.Fprintln(tw, "\n    gpu-1 has no agent any longer; what its labels say is still true, and they are still there.")
	}
	return tw.Flush()
}
