package agent

import (
	"context"
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stoker-project/stoker/agent/elect"
	"github.com/stoker-project/stoker/agent/kubeclient"
)

// VerifiedAnnotation is what agents on a read-only volume tell each other: which of
// its files were read and found right, and who reads which.
const VerifiedAnnotation = Domain + "/verified"

// leaseAPI is one Lease object as [elect.Lease]: get, create and update.
type leaseAPI struct {
	leases *kubeclient.Leases
	name   string
}

func (l leaseAPI) Get(ctx context.Context) (elect.Record, error) {
	got, err := l.leases.Get(ctx, l.name, metav1.GetOptions{})
	return l.record(got, err)
}

func (l leaseAPI) Create(ctx context.Context, r elect.Record) (elect.Record, error) {
	got, err := l.leases.Create(ctx, l.object(r), metav1.CreateOptions{})
	return l.record(got, err)
}

func (l leaseAPI) Update(ctx context.Context, r elect.Record) (elect.Record, error) {
	got, err := l.leases.Update(ctx, l.object(r), metav1.UpdateOptions{})
	return l.record(got, err)
}

func (l leaseAPI) object(r elect.Record) *coordinationv1.Lease {
	seconds := int32((r.Duration + time.Second - 1) / time.Second)
	acquired, renewed := metav1.NewMicroTime(r.Acquired), metav1.NewMicroTime(r.Renewed)
	return &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: l.name, ResourceVersion: r.Version},
		Spec: coordinationv1.LeaseSpec{
			HolderIdentity: &r.Holder, LeaseDurationSeconds: &seconds, AcquireTime: &acquired, RenewTime: &renewed,
			LeaseTransitions: &r.Transitions,
		},
	}
}

func (l leaseAPI) record(got *coordinationv1.Lease, err error) (elect.Record, error) {
	if err != nil {
		return elect.Record{}, l.explain(err)
	}
	r := elect.Record{Version: got.ResourceVersion}
	s := got.Spec
	if s.HolderIdentity != nil {
		r.Holder = *s.HolderIdentity
	}
	if s.LeaseDurationSeconds != nil {
		r.Duration = time.Duration(*s.LeaseDurationSeconds) * time.Second
	}
	if s.AcquireTime != nil {
		r.Acquired = s.AcquireTime.Time
	}
	if s.RenewTime != nil {
		r.Renewed = s.RenewTime.Time
	}
	if s.LeaseTransitions != nil {
		r.Transitions = *s.LeaseTransitions
	}
	return r, nil
}

func (l leaseAPI) explain(err error) error {
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("lease %s: %w", l.name, elect.ErrNotFound)
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
		return fmt.Errorf("lease %s: %w", l.name, elect.ErrConflict)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("lease %s: %w; the agent's account needs get, create and update on leases", l.name, err)
	}
	return fmt.Errorf("lease %s: %w", l.name, err)
}

// ledgerAPI keeps the ledger in an annotation of the Lease. One goroutine uses it.
type ledgerAPI struct {
	leaseAPI

	last *coordinationv1.Lease // as it was read; nil: there is none
}

func (l *ledgerAPI) get(ctx context.Context) (text, version string, err error) {
	l.last = nil
	got, err := l.leases.Get(ctx, l.name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return "", "", nil
	case err != nil:
		return "", "", l.explain(err)
	}
	l.last = got
	return got.Annotations[VerifiedAnnotation], got.ResourceVersion, nil
}

func (l *ledgerAPI) put(ctx context.Context, text, version string) error {
	var err error
	if version == "" {
		_, err = l.leases.Create(ctx, &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: l.name, Annotations: map[string]string{VerifiedAnnotation: text}},
		}, metav1.CreateOptions{})
	} else {
		next := l.last.DeepCopy()
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, VerifiedAnnotation, text)
		_, err = l.leases.Update(ctx, next, metav1.UpdateOptions{})
	}
	if err != nil {
		return l.explain(err)
	}
	return nil
}
