package fetchertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher"
)

func testOpenOffsets(s *suite) {
	t := s.t
	l := s.list(t)
	for _, f := range l.Files {
		want := s.files[f.Path]
		for _, offset := range []int64{0, 1, f.Size / 2, f.Size - 1, f.Size} {
			if offset < 0 || offset > f.Size {
				continue
			}
			body := s.open(t.Context(), t, fetcher.Object{Source: s.Source, Revision: l.Revision, File: f}, offset)
			got, err := io.ReadAll(body)
			if err != nil {
				t.Errorf("%s at %d: %v", f.Path, offset, err)
			}
			if !bytes.Equal(got, want[offset:]) {
				t.Errorf("%s at %d: %d bytes that differ from the %d wanted", f.Path, offset, len(got), len(want[offset:]))
			}
			if n, err := body.Read(make([]byte, 8)); n != 0 || !errors.Is(err, io.EOF) {
				t.Errorf("%s at %d: %d bytes and %v after the end", f.Path, offset, n, err)
			}
			if err := body.Close(); err != nil {
				t.Errorf("%s: close: %v", f.Path, err)
			}
		}
	}
}

func testOpenOutside(s *suite) {
	t := s.t
	obj := s.object(t, smallFile)
	for _, offset := range []int64{-1, obj.File.Size + 1} {
		body, err := s.Driver.Open(t.Context(), obj, offset)
		if err == nil {
			_ = body.Close()
			t.Errorf("offset %d of %d bytes is no error", offset, obj.File.Size)
		}
	}
}

func testOpenMissing(s *suite) {
	t := s.t
	obj := s.object(t, smallFile)
	obj.File.Path = "not-there.json"
	_, err := s.Driver.Open(t.Context(), obj, 0)
	s.wantKind(t, err, fetcher.ErrRefused)
	if !strings.Contains(err.Error(), "not-there.json") {
		t.Errorf("the error does not name the file: %v", err)
	}
}

func testOpenConcurrent(s *suite) {
	t := s.t
	obj := s.object(t, bigFile)
	want := s.files[bigFile]
	next := make(chan int64, 16)
	for i := range int64(16) {
		next <- i * obj.File.Size / 16
	}
	inParallel(t, 16, func() error {
		offset := <-next
		body, err := s.Driver.Open(t.Context(), obj, offset)
		if err != nil {
			return err
		}
		defer body.Close()
		got, err := io.ReadAll(body)
		if err == nil && !bytes.Equal(got, want[offset:]) {
			err = fmt.Errorf("%d wrong bytes at %d", len(got), offset)
		}
		return err
	})
}

func testOpenEnded(s *suite) {
	t := s.t
	obj := s.object(t, bigFile)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Driver.Open(ctx, obj, 0)
	s.wantEnded(t, err)
}

func testCloseEarly(s *suite) {
	t := s.t
	body := s.open(t.Context(), t, s.object(t, bigFile), 0)
	if _, err := io.ReadFull(body, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	if err := body.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

func testReadEnded(s *suite) {
	t := s.t
	obj := s.object(t, bigFile)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	body := s.open(ctx, t, obj, 0)
	defer body.Close()
	if _, err := io.ReadFull(body, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	cancel()
	_, err := io.Copy(io.Discard, body) // also if all had arrived
	s.wantEnded(t, err)
}

func testReadCut(s *suite) {
	t := s.t
	for _, n := range []int64{0, 1, 600_000} {
		obj := s.object(t, bigFile)
		s.Cut(t, bigFile, n)
		body, err := s.Driver.Open(t.Context(), obj, 0)
		var got []byte
		if err == nil {
			got, err = io.ReadAll(body)
			_ = body.Close()
		}
		s.wantKind(t, err, fetcher.ErrTransient)
		if int64(len(got)) > n || !bytes.Equal(got, s.files[bigFile][:len(got)]) {
			t.Errorf("%d bytes that were never sent", len(got))
		}
	}
}

func testReadStall(s *suite) {
	t := s.t
	obj := s.object(t, bigFile)
	s.Stall(t, bigFile, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	body := s.open(ctx, t, obj, 0)
	defer body.Close()
	if _, err := io.ReadFull(body, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := body.Read(make([]byte, 1))
		ended <- err
	}()
	cancel()
	select {
	case err := <-ended:
		s.wantEnded(t, err)
	case <-time.After(deadline):
		t.Fatal("Read goes on though its context has ended")
	}
}

func testReadChanged(s *suite) {
	t := s.t
	obj := s.object(t, bigFile)
	body := s.open(t.Context(), t, obj, 0)
	defer body.Close()
	if _, err := io.ReadFull(body, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	s.Change(t, bigFile, bytes.Repeat([]byte{1}, len(s.files[bigFile])+1))
	if !s.ChangedWhileReading {
		rest, err := io.ReadAll(body)
		if err != nil || !bytes.Equal(rest, s.files[bigFile][100:]) {
			t.Errorf("the old revision does not stay readable: %v", err)
		}
		return
	}
	_, err := io.Copy(io.Discard, body)
	s.wantKind(t, err, fetcher.ErrRefused)
	if !strings.Contains(err.Error(), bigFile) {
		t.Errorf("the error does not name the file: %v", err)
	}
	_, err = s.Driver.Open(t.Context(), obj, 0)
	s.wantKind(t, err, fetcher.ErrRefused)
}

func testFailKinds(s *suite) {
	t := s.t
	for _, kind := range []error{fetcher.ErrTransient, fetcher.ErrRefused, fetcher.ErrThrottled} {
		t.Run(kind.Error(), func(t *testing.T) {
			obj := s.object(t, bigFile)
			s.Fail(t, bigFile, kind)
			_, err := s.Driver.Open(t.Context(), obj, 0)
			s.wantKind(t, err, kind)
			var e *fetcher.Error
			if errors.As(err, &e) && errors.Is(kind, fetcher.ErrThrottled) && e.RetryAfter < time.Second {
				t.Errorf("throttled for %s, the source said more", e.RetryAfter)
			}
		})
	}
}
