package agent

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/stoker-project/stoker/test/charts"
	"github.com/stoker-project/stoker/test/cluster"
	"github.com/stoker-project/stoker/test/hostile"
)

// longList are values of the chart with which a Node's annotation may have no room.
func longList(more string) []byte {
	var b strings.Builder
	b.WriteString("models:\n")
	for i := range 21 {
		fmt.Fprintf(&b, "- {name: m%d, source: 'hf://o/m%d'}\n", i, i)
	}
	return []byte(b.String() + more)
}

// testStatusLease upgrades the release to a list that is long: an agent may write the
// Lease of its own node then, whatever else RBAC gives it, and the volume's.
func testStatusLease(t *testing.T, c *cluster.Cluster, cfg *rest.Config) {
	const (
		leases   = "/apis/coordination.k8s.io/v1/namespaces/" + namespace + "/leases"
		own      = leases + "/" + account + "-status." + mine
		ownLease = "an agent may write the Lease of its own node only, the one that its pod's token names"
		onlyKeys = "an agent may give its Lease the label stoker.dev/status-of and the annotation stoker.dev/status, and nothing else that decides over it"
	)
	lease := func(name, metadata, holder string) string {
		return fmt.Sprintf(`{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{"name":%q%s},"spec":{"holderIdentity":%q}}`, name, metadata, holder)
	}
	status := func(node string) string { return account + "-status." + node }
	objs, err := charts.Render(longList("volume: {mode: shared, shared: {source: {nfs: {server: nas, path: /models}}}}"), release, namespace)
	if err != nil {
		t.Fatal(err)
	}
	if err := charts.Apply(t.Context(), c.RESTConfig(), objs); err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	err = cluster.WaitFor(t.Context(), "right and policy to be in force", func(ctx context.Context) (bool, error) {
		body := []byte(lease(status(notMine), "", mine))
		_, err := client.CoordinationV1().Leases(namespace).Patch(ctx, status(notMine), types.ApplyPatchType, body, metav1.PatchOptions{FieldManager: "hostile", DryRun: []string{metav1.DryRunAll}})
		if err != nil && strings.Contains(err.Error(), ownLease) {
			return true, nil
		}
		return false, err
	})
	if err != nil {
		t.Fatal(err)
	}
	said := `,"labels":{"stoker.dev/status-of":"node"},"annotations":{"stoker.dev/status":"x"}`
	hostile.Try(t, cfg, []hostile.Request{
		{Name: "make its own by apply", Method: http.MethodPatch, Path: own, Media: hostile.Apply, Body: lease(status(mine), said, mine)},
		{Name: "change its own by apply", Method: http.MethodPatch, Path: own, Media: hostile.Apply, Body: lease(status(mine), said, mine)},
		{Name: "make another node's", Method: http.MethodPatch, Path: leases + "/" + status(notMine), Media: hostile.Apply, Body: lease(status(notMine), said, notMine), Reason: ownLease},
		{Name: "make one of another name", Method: http.MethodPost, Path: leases, Body: lease("b", "", mine), Reason: ownLease},
		{Name: "change one of another name", Method: http.MethodPatch, Path: leases + "/a", Media: hostile.Merge, Body: `{"spec":{"holderIdentity":"mine"}}`, Reason: ownLease},
		{Name: "give its own to another", Method: http.MethodPatch, Path: own, Media: hostile.Merge, Body: `{"spec":{"holderIdentity":"not-mine"}}`, Reason: ownLease},
		{Name: "keep it from being deleted", Method: http.MethodPatch, Path: own, Media: hostile.Merge, Body: `{"metadata":{"finalizers":["example.com/stay"]}}`, Reason: onlyKeys},
		{
			Name: "give it an owner", Method: http.MethodPatch, Path: own, Media: hostile.Merge, Reason: onlyKeys,
			Body: `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"p","uid":"u"}]}}`,
		},
		{Name: "annotate it otherwise", Method: http.MethodPatch, Path: own, Media: hostile.Merge, Body: annotation("example.com/x", `"y"`), Reason: onlyKeys},
		{Name: "label it otherwise", Method: http.MethodPatch, Path: own, Media: hostile.Merge, Body: label("example.com/x", `"y"`), Reason: onlyKeys},
		{Name: "delete its own", Method: http.MethodDelete, Path: own, Reason: noRight},
		{Name: "in another namespace", Method: http.MethodPost, Path: "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", Body: lease(status(mine), "", mine), Reason: noRight},
		{Name: "make the volume's", Method: http.MethodPost, Path: leases, Body: lease(account+"-store", "", "mine_x")},
		{Name: "change the volume's", Method: http.MethodPatch, Path: leases + "/" + account + "-store", Media: hostile.Merge, Body: `{"spec":{"holderIdentity":"mine_y"}}`},
	})
	if _, err := c.Client().CoordinationV1().Leases(namespace).Get(t.Context(), status(notMine), metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("another node has a Lease: %v", err)
	}
}
