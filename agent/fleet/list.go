package fleet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/stoker-project/stoker/agent"
	"github.com/stoker-project/stoker/agent/kubeclient"
)

const (
	// page is how many Nodes one request asks for: with its status and 500 warm models a
	// Node has up to 350 KB.
	page = 100
	// patience is how long one request may take.
	patience = 30 * time.Second
	// listTries is how often a list begins anew whose pages have expired on the way,
	// which takes five minutes by default.
	listTries = 3
)

// List reads every Node, page by page, and keeps of each what want asks for. It needs the
// right to list nodes. With the right to list leases in the agents' namespace it also reads
// what had no room on Nodes; [Fleet.Incomplete] says why not. The error says what to do.
func List(ctx context.Context, cfg *rest.Config, want Want) (*Fleet, error) {
	cfg = patient(cfg)
	client, err := kubeclient.New(cfg)
	if err != nil {
		return nil, err
	}
	r, more := newReader(want), rests{client: client, all: true}
	err = inPages(metav1.ListOptions{Limit: page}, func(o metav1.ListOptions) (metav1.ListInterface, error) {
		l, err := client.Nodes().List(ctx, o)
		if err == nil {
			more.complete(ctx, l.Items)
			r.add(l.Items, time.Now())
		}
		return l, err
	}, func() { r = newReader(want) })
	if err != nil {
		return nil, explain(cfg.Host, err)
	}
	f := r.read(time.Now())
	f.Incomplete = more.err
	return f, nil
}

// ListOne reads one Node, to explain a model there or to show it alone; model may be
// empty. Where there is no such Node, or it knows no such model, it reads the names of all
// others as well, by which [Fleet.Only] and [Fleet.Explain] tell what is meant: of their
// Nodes the metadata only, page by page. It needs the right to list nodes, and that to get
// leases in the agents' namespace for what had no room on the Node. The error says what to
// do.
func ListOne(ctx context.Context, cfg *rest.Config, node, model string) (*Fleet, error) {
	cfg = patient(cfg)
	client, err := kubeclient.New(cfg)
	if err != nil {
		return nil, err
	}
	// By its name, so that the right to list suffices.
	l, err := client.Nodes().List(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", node).String()})
	if err != nil {
		return nil, explain(cfg.Host, err)
	}
	r, more, now := newReader(Want{Whole: true}), rests{client: client}, time.Now()
	more.complete(ctx, l.Items)
	r.add(l.Items, now)
	f := r.read(now)
	f.Incomplete = more.err
	if n, err := f.node(node); err == nil && (model == "" || n.model(model) != nil) {
		return f, nil
	}
	if err := f.listNames(ctx, cfg); err != nil {
		return nil, explain(cfg.Host, err)
	}
	return f, nil
}

// listNames reads the names of all nodes and of the models that they name.
func (f *Fleet) listNames(ctx context.Context, cfg *rest.Config) error {
	client, err := metadata.NewForConfig(cfg)
	if err != nil {
		return err
	}
	nodes := client.Resource(corev1.SchemeGroupVersion.WithResource("nodes"))
	return inPages(metav1.ListOptions{Limit: page}, func(o metav1.ListOptions) (metav1.ListInterface, error) {
		l, err := nodes.List(ctx, o)
		if err == nil {
			for i := range l.Items {
				m := &l.Items[i]
				f.addNames(m.Name, m.Labels, m.Annotations[agent.StatusAnnotation])
			}
		}
		return l, err
	}, func() { f.nodeNames, f.modelNames = nil, nil })
}

// patient is cfg with bounds for somebody who waits: one page is asked for after the
// other, and client-go's default of 5 requests a second would make that slow.
func patient(cfg *rest.Config) *rest.Config {
	cfg = rest.CopyConfig(cfg)
	cfg.Timeout, cfg.QPS, cfg.Burst = patience, 50, 100
	return cfg
}

// inPages calls list for one page after the other. Where the API server has forgotten the
// version that the first page had, it calls restart and begins anew.
func inPages(o metav1.ListOptions, list func(metav1.ListOptions) (metav1.ListInterface, error), restart func()) error {
	for try := 1; ; {
		l, err := list(o)
		if apierrors.IsResourceExpired(err) && o.Continue != "" && try < listTries {
			restart()
			o.Continue = ""
			try++
			continue
		}
		if err != nil {
			return err
		}
		if o.Continue = l.GetContinue(); o.Continue == "" {
			return nil
		}
	}
}

// explain says what an error of the API server means here.
func explain(host string, err error) error {
	var dns *net.DNSError
	var timeout net.Error
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case apierrors.IsForbidden(err):
		return fmt.Errorf("list nodes: %w; your account needs the right to list nodes", err)
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("list nodes: the API server at %s does not accept your credentials; log in again, or choose others with --kubeconfig or --context", host)
	case errors.As(err, &dns):
		return fmt.Errorf("reach the API server at %s: %w; check the address in your kubeconfig", host, unwrap(err))
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("reach the API server at %s: no answer within %s; check that it runs and that this machine can reach it", host, patience)
	case strings.Contains(err.Error(), "x509: "), strings.Contains(err.Error(), "tls: "):
		return fmt.Errorf("reach the API server at %s: %w; check the certificates in your kubeconfig", host, unwrap(err))
	}
	if _, ok := err.(apierrors.APIStatus); ok {
		return fmt.Errorf("list nodes: %w", err)
	}
	return fmt.Errorf("reach the API server at %s: %w; check that it runs and that this machine can reach it", host, unwrap(err))
}

// unwrap leaves the request's URL out, which says nothing to its reader.
func unwrap(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		if _, ok := err.(*net.OpError); ok { //nolint:errorlint // this very error of the chain
			return err
		}
		err = inner
	}
}
