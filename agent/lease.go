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
	switch {
	case apierrors.IsNotFound(err):
		return elect.Record{}, fmt.Errorf("lease %s: %w", l.name, elect.ErrNotFound)
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
		return elect.Record{}, fmt.Errorf("lease %s: %w", l.name, elect.ErrConflict)
	case apierrors.IsForbidden(err):
		return elect.Record{}, fmt.Errorf("lease %s: %w; the agent's account needs get, create and update on leases", l.name, err)
	case err != nil:
		return elect.Record{}, fmt.Errorf("lease %s: %w", l.name, err)
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
