package sweep

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// ErrNoNode is a node that was named and does not exist.
var ErrNoNode = errors.New("there is no such node")

const (
	// unlabelTries is how often a request is tried: for about a minute.
	unlabelTries = 8
	// progressEvery is how often it is said how far it is.
	progressEvery = 5 * time.Second
)

// Removed is what [Unlabel] did to one node.
type Removed struct {
	// Node is its name.
	Node string
	// Keys were removed: labels and annotations.
	Keys []string
	// Err says why not all are; nil if nothing of an agent's is left.
	Err error
}

// UnlabelOptions of [Unlabel]. All are required but Nodes and Release.
type UnlabelOptions struct {
	Kube *rest.Config
	// Nodes by name; empty: every node of the cluster.
	Nodes []string
	// Release leaves nodes alone on which agents of another release wrote, and, while
	// the cluster has agents of another one, nodes that name none. Zero: every node.
	Release Release
	Logger  *slog.Logger
}

// Unlabel removes every key that agents write from nodes, and nothing else.
// Doing it again changes nothing. It returns the nodes to which it did
// something, or tried to: a node that fails keeps no other from being done. The
// error is one of the whole: the nodes cannot be listed, one that was named
// does not exist ([ErrNoNode]), the agents of o.Release still run
// ([ErrReleaseThere]), ctx has ended.
func Unlabel(ctx context.Context, o UnlabelOptions) ([]Removed, error) {
	api, err := newNodesAPI(o.Kube)
	if err != nil {
		return nil, err
	}
	u := &unlabel{api: api, logger: o.Logger, told: time.Now()}
	if o.Release != (Release{}) {
		sets, err := newDaemonSetsAPI(o.Kube)
		if err != nil {
			return nil, err
		}
		if u.others, err = u.awaitGone(ctx, sets, o.Release); err != nil {
			return nil, err
		}
		u.release = o.Release.String()
	}
	if len(o.Nodes) == 0 {
		err = u.all(ctx)
	} else {
		err = u.named(ctx, o.Nodes)
	}
	if u.left > 0 {
		u.logger.Info("leave nodes to agents of other releases", "nodes", u.left)
	}
	return u.removed, err
}

type unlabel struct {
	api    nodesAPI
	logger *slog.Logger
	// release whose agents' keys go, NAMESPACE/NAME; empty: everybody's. others: the
	// cluster has agents of other releases.
	release string
	others  bool
	removed []Removed
	// looked at, and of these left to other releases.
	looked, left int
	told         time.Time
}

// mine reports whether the node's keys are to go. While other releases have agents,
// what names no release may be theirs.
func (u *unlabel) mine(n node) bool {
	return u.release == "" || n.Release == u.release || (n.Release == "" && !u.others)
}

// all goes through the nodes page by page. A list that has expired on the way
// begins anew: what is done is done.
func (u *unlabel) all(ctx context.Context) error {
	o := metav1.ListOptions{Limit: pageSize}
	for {
		var page *metav1.PartialObjectMetadataList
		err := u.retry(ctx, func(ctx context.Context) (err error) {
			page, err = u.api.nodes.List(ctx, o)
			return err
		})
		if apierrors.IsResourceExpired(err) && o.Continue != "" {
			o.Continue = ""
			continue
		}
		if err != nil {
			return explain("list nodes", err)
		}
		for i := range page.Items {
			if err := u.one(ctx, nodeOf(&page.Items[i])); err != nil {
				return err
			}
		}
		if o.Continue = page.Continue; o.Continue == "" {
			return nil
		}
	}
}

// named reads every node before the first is changed, so that a wrong name
// changes nothing.
func (u *unlabel) named(ctx context.Context, names []string) error {
	var nodes []node
	var errs []error
	for _, name := range names {
		var n node
		err := u.retry(ctx, func(ctx context.Context) (err error) {
			n, err = u.api.get(ctx, name)
			return err
		})
		if apierrors.IsNotFound(err) {
			err = fmt.Errorf("read node %s: %w", name, ErrNoNode)
		}
		nodes, errs = append(nodes, n), append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, n := range nodes {
		if err := u.one(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// one does one node until it says nothing any more. Its error ends everything.
func (u *unlabel) one(ctx context.Context, n node) error {
	if u.looked++; time.Since(u.told) >= progressEvery {
		u.told = time.Now()
		u.logger.Info("unlabel nodes", "looked_at", u.looked, "changed", len(u.removed))
	}
	if !n.says() {
		return nil
	}
	if !u.mine(n) {
		u.left++
		return nil
	}
	r := Removed{Node: n.Name}
	// An agent of another release may write between look and patch.
	pinned := u.release != ""
	// More than one round: a running agent may write while this works.
	for range unlabelTries {
		if !n.says() || !u.mine(n) || r.Err != nil {
			break
		}
		keys := n.keys()
		r.Err = u.retry(ctx, func(ctx context.Context) error {
			left, err := u.api.remove(ctx, n, pinned)
			if pinned && apierrors.IsConflict(err) {
				keys = nil
				left, err = u.api.find(ctx, n.Name)
			}
			if apierrors.IsNotFound(err) {
				n = node{} // it took its labels with it
				return nil
			}
			if err == nil {
				n = left
			}
			return err
		})
		if r.Err == nil {
			r.Keys = append(r.Keys, keys...)
		}
	}
	if r.Err == nil && n.says() && u.mine(n) {
		r.Err = fmt.Errorf("remove keys of node %s: an agent writes them again; stop it first", n.Name)
	}
	u.removed = append(u.removed, r)
	return ctx.Err()
}

// retry tries a request again while that may help.
func (u *unlabel) retry(ctx context.Context, request func(ctx context.Context) error) error {
	for try := 1; ; try++ {
		err := func() error {
			ctx, cancel := context.WithTimeout(ctx, callTimeout)
			defer cancel()
			return request(ctx)
		}()
		if err == nil || final(err) || try == unlabelTries || ctx.Err() != nil {
			return err
		}
		wait := 500 * time.Millisecond << try
		wait = min(wait/2+rand.N(wait/2+1), 20*time.Second)
		u.logger.Warn("try again", "retry_in", wait, "error", err)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return err
		case <-timer.C:
		}
	}
}

// final is an answer that another try would not change.
func final(err error) bool {
	return apierrors.IsNotFound(err) || apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) || apierrors.IsInvalid(err) ||
		apierrors.IsBadRequest(err) || apierrors.IsResourceExpired(err)
}
