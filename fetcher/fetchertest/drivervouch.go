package fetchertest

import (
	"context"
	"strings"

	"github.com/stoker-project/stoker/fetcher"
)

func vouches(f Fixture) bool {
	_, ok := f.Driver.(fetcher.Voucher)
	return ok
}

func (s *suite) vouch(ctx context.Context, obj fetcher.Object) error {
	v, ok := s.Driver.(fetcher.Voucher)
	if !ok {
		s.t.Fatal("the driver vouches for nothing")
	}
	_, err := v.Vouch(ctx, obj)
	return err
}

// What another content has must not vouch for the one that was listed.
func testVouchChanged(s *suite) {
	t := s.t
	obj := s.object(t, smallFile)
	s.Change(t, smallFile, []byte("other content"))
	err := s.vouch(t.Context(), obj)
	s.wantKind(t, err, fetcher.ErrRefused)
	if !strings.Contains(err.Error(), smallFile) {
		t.Errorf("the error does not name the file: %v", err)
	}
}

func testVouchEnded(s *suite) {
	t := s.t
	obj := s.object(t, smallFile)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.wantEnded(t, s.vouch(ctx, obj))
}
