package sweep

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/stoker-project/stoker/agent"
)

// ErrReleaseThere is a release whose agents still run.
var ErrReleaseThere = errors.New("the release is still there")

const (
	// releaseGone is how long a DaemonSet that is being deleted may take to go, as with
	// `helm uninstall --cascade foreground`.
	releaseGone = 2 * time.Minute
	// releasePoll is how often it is looked for meanwhile.
	releasePoll = time.Second
)

// Release names a Helm release.
type Release struct{ Namespace, Name string }

func (r Release) String() string { return r.Namespace + "/" + r.Name }

// maxReleaseName is Helm's own limit, in characters.
const maxReleaseName = 53

// ParseRelease reads NAMESPACE/NAME, as Helm names namespaces and releases.
func ParseRelease(text string) (Release, error) {
	namespace, name, found := strings.Cut(text, "/")
	if !found || len(validation.IsDNS1123Label(namespace)) > 0 || len(validation.IsDNS1123Subdomain(name)) > 0 || len(name) > maxReleaseName {
		return Release{}, fmt.Errorf("%q is not the name of a Helm release; write NAMESPACE/NAME", text)
	}
	return Release{Namespace: namespace, Name: name}, nil
}

// daemonSet is one whose pods are agents.
type daemonSet struct {
	namespace, name string
	release         Release
	// going: it is being deleted.
	going bool
}

// chartLabel is Helm's customary label of a chart, NAME-VERSION.
const chartLabel = "helm.sh/chart"

var stokerChart = regexp.MustCompile(`^stoker-[0-9]`)

// daemonSetOf reports whether m is a DaemonSet of Stoker's. Its annotation names the
// release whatever a GitOps tool did to its labels; charts before the annotation are
// known by their label.
func daemonSetOf(m *metav1.PartialObjectMetadata) (daemonSet, bool) {
	d := daemonSet{namespace: m.Namespace, name: m.Name, going: m.DeletionTimestamp != nil}
	if r, err := ParseRelease(m.Annotations[agent.ReleaseAnnotation]); err == nil {
		d.release = r
		return d, true
	}
	d.release = Release{Namespace: m.Namespace, Name: m.Labels["app.kubernetes.io/instance"]}
	return d, stokerChart.MatchString(m.Labels[chartLabel])
}

// daemonSetsAPI lists the metadata of DaemonSets of every namespace.
type daemonSetsAPI struct{ sets metadata.Getter }

func newDaemonSetsAPI(cfg *rest.Config) (daemonSetsAPI, error) {
	client, err := metadata.NewForConfig(cfg)
	if err != nil {
		return daemonSetsAPI{}, fmt.Errorf("make a client for DaemonSets: %w", err)
	}
	return daemonSetsAPI{sets: client.Resource(schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "daemonsets"})}, nil
}

// stokers lists the DaemonSets of Stoker's in the cluster.
func (a daemonSetsAPI) stokers(ctx context.Context) ([]daemonSet, error) {
	var out []daemonSet
	o := metav1.ListOptions{Limit: pageSize}
	for {
		page, err := a.sets.List(ctx, o)
		if err != nil {
			return nil, err
		}
		for i := range page.Items {
			if d, ok := daemonSetOf(&page.Items[i]); ok {
				out = append(out, d)
			}
		}
		if o.Continue = page.Continue; o.Continue == "" {
			return out, nil
		}
	}
}

// awaitGone returns whether the cluster has agents of releases other than r, once r
// has none. While its DaemonSet is there and nobody deletes it, the error is
// [ErrReleaseThere] at once.
func (u *unlabel) awaitGone(ctx context.Context, sets daemonSetsAPI, r Release) (others bool, err error) {
	deadline := time.Now().Add(releaseGone)
	for {
		var all []daemonSet
		err := u.retry(ctx, func(ctx context.Context) (err error) {
			all, err = sets.stokers(ctx)
			return err
		})
		if err != nil {
			return false, explain("list DaemonSets", err)
		}
		own, others := split(all, r)
		switch {
		case own == nil:
			return others, nil
		case !own.going || time.Now().After(deadline):
			return false, fmt.Errorf("remove what agents of release %s wrote: %w: DaemonSet %s of namespace %s; uninstall the release first",
				r, ErrReleaseThere, own.name, own.namespace)
		}
		u.logger.Info("wait for the agents' DaemonSet to be deleted", "namespace", own.namespace, "name", own.name)
		timer := time.NewTimer(releasePoll)
		select {
		case <-ctx.Done():
			timer.Stop()
			return false, ctx.Err()
		case <-timer.C:
		}
	}
}

// split tells r's own DaemonSet from those of others. One that nobody deletes comes
// first.
func split(all []daemonSet, r Release) (own *daemonSet, others bool) {
	for i, d := range all {
		switch {
		case d.release != r:
			others = true
		case own == nil || own.going:
			own = &all[i]
		}
	}
	return own, others
}
