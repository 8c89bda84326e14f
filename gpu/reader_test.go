package gpu

import (
	"context"
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// fakeBackend answers what its functions say; nil functions succeed.
type fakeBackend struct {
	openFunc    func() error
	devicesFunc func() ([]Device, error)
	closeFunc   func() error

	opens, closes int
}

func (f *fakeBackend) open() error {
	f.opens++
	if f.openFunc != nil {
		return f.openFunc()
	}
	return nil
}

func (f *fakeBackend) devices(context.Context) ([]Device, error) {
	if f.devicesFunc != nil {
		return f.devicesFunc()
	}
	return []Device{{UUID: "GPU-1", State: StateOK}}, nil
}

func (f *fakeBackend) close() error {
	f.closes++
	if f.closeFunc != nil {
		return f.closeFunc()
	}
	return nil
}

func TestDevicesOpensOnce(t *testing.T) {
	f := &fakeBackend{}
	r := newReader(f)
	for range 3 {
		list, err := r.Devices(t.Context())
		if err != nil || len(list) != 1 {
			t.Fatalf("Devices() = %v, %v; want one device", list, err)
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatalf("second Close: %v", err)
	}
	if f.opens != 1 || f.closes != 1 {
		t.Errorf("opened %d times, closed %d times; want once each", f.opens, f.closes)
	}
	if _, err := r.Devices(t.Context()); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Devices after Close: %v; want os.ErrClosed", err)
	}
}

// A synctest bubble ends only when every goroutine in it has ended, so these
// tests also prove that nothing leaks once the hung call comes back.

func TestHungCallIsToldAndForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		f := &fakeBackend{devicesFunc: func() ([]Device, error) { <-hang; return nil, nil }}
		r := newReader(f)

		start := time.Now()
		_, err := r.Devices(t.Context())
		if !errors.Is(err, ErrTimeout) || time.Since(start) != callLimit {
			t.Fatalf("first call: %v after %s; want ErrTimeout after %s", err, time.Since(start), callLimit)
		}
		start = time.Now()
		_, err = r.Devices(t.Context())
		if !errors.Is(err, ErrTimeout) || time.Since(start) != 0 {
			t.Fatalf("second call: %v after %s; want ErrTimeout at once", err, time.Since(start))
		}
		close(hang)
		synctest.Wait()
		if _, err = r.Devices(t.Context()); err != nil {
			t.Fatalf("after the hung call returned: %v", err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestDeadlineOfCallerBoundsTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		r := newReader(&fakeBackend{openFunc: func() error { <-hang; return nil }})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if _, err := r.Devices(ctx); !errors.Is(err, ErrTimeout) || time.Since(start) != time.Second {
			t.Fatalf("%v after %s; want ErrTimeout after 1s", err, time.Since(start))
		}
		close(hang)
		synctest.Wait()
	})
}

func TestCanceledCallerHoldsNothingAgainstTheDriver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := make(chan struct{})
		r := newReader(&fakeBackend{devicesFunc: func() ([]Device, error) { <-slow; return nil, nil }})
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, err := r.Devices(ctx); !errors.Is(err, context.Canceled) || errors.Is(err, ErrTimeout) {
			t.Fatalf("canceled call: %v; want context.Canceled alone", err)
		}
		// The next caller waits for the slow call instead of being refused.
		time.AfterFunc(time.Second, func() { close(slow) })
		if _, err := r.Devices(t.Context()); err != nil {
			t.Fatalf("call after a canceled one: %v", err)
		}
		// But not for longer than a call may take in all.
		slow = make(chan struct{})
		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, err := r.Devices(ctx); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if _, err := r.Devices(t.Context()); !errors.Is(err, ErrTimeout) {
			t.Fatalf("call behind a hung one: %v; want ErrTimeout", err)
		}
		start := time.Now()
		if _, err := r.Devices(t.Context()); !errors.Is(err, ErrTimeout) || time.Since(start) != 0 {
			t.Fatalf("%v after %s; want ErrTimeout at once", err, time.Since(start))
		}
		close(slow)
		synctest.Wait()
	})
}

func TestConcurrentCallersAllGetAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		running := 0
		r := newReader(&fakeBackend{devicesFunc: func() ([]Device, error) {
			running++ // the race detector proves that calls do not overlap
			defer func() { running-- }()
			time.Sleep(time.Second)
			return []Device{{}}, nil
		}})
		errs := make(chan error)
		for range 5 {
			go func() {
				_, err := r.Devices(t.Context())
				errs <- err
			}()
		}
		for range 5 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
	})
}

func TestCloseIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		f := &fakeBackend{devicesFunc: func() ([]Device, error) { <-hang; return nil, nil }}
		r := newReader(f)
		if _, err := r.Devices(t.Context()); !errors.Is(err, ErrTimeout) {
			t.Fatal(err)
		}
		start := time.Now()
		if err := r.Close(); !errors.Is(err, ErrTimeout) || time.Since(start) != closeLimit {
			t.Fatalf("Close: %v after %s; want ErrTimeout after %s", err, time.Since(start), closeLimit)
		}
		if f.closes != 0 {
			t.Fatal("library closed while a call was running")
		}
		close(hang)
		synctest.Wait()
		if f.closes != 1 {
			t.Errorf("library closed %d times after the hung call returned; want once", f.closes)
		}
	})
}

func TestCloseIsBoundedWhenShutdownHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		r := newReader(&fakeBackend{closeFunc: func() error { <-hang; return nil }})
		if _, err := r.Devices(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); !errors.Is(err, ErrTimeout) {
			t.Fatalf("Close: %v; want ErrTimeout", err)
		}
		close(hang)
	})
}

func TestFailedOpenIsTriedAgain(t *testing.T) {
	failure := ErrNoDriver
	f := &fakeBackend{openFunc: func() error { return failure }}
	r := newReader(f)
	for range 2 {
		if _, err := r.Devices(t.Context()); !errors.Is(err, ErrNoDriver) {
			t.Fatalf("%v; want ErrNoDriver", err)
		}
	}
	failure = nil // the driver was installed
	if _, err := r.Devices(t.Context()); err != nil {
		t.Fatal(err)
	}
	if f.opens != 3 || f.closes != 0 {
		t.Errorf("opened %d times, closed %d; want 3 and 0", f.opens, f.closes)
	}
}

func TestFailureOfTheLibraryOpensItAnew(t *testing.T) {
	for _, failure := range []error{errStale, ErrVersionMismatch, ErrLost, ErrNoDriver} {
		f := &fakeBackend{}
		f.devicesFunc = func() ([]Device, error) {
			if f.opens == 1 {
				return nil, failure
			}
			return []Device{{}}, nil
		}
		r := newReader(f)
		if _, err := r.Devices(t.Context()); !errors.Is(err, failure) {
			t.Fatalf("%v; want %v", err, failure)
		}
		if _, err := r.Devices(t.Context()); err != nil {
			t.Fatalf("after %v: %v", failure, err)
		}
		if f.opens != 2 || f.closes != 1 {
			t.Errorf("%v: opened %d times, closed %d; want 2 and 1", failure, f.opens, f.closes)
		}
	}
}

func TestLostDeviceOpensTheLibraryAnewOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeBackend{}
		f.devicesFunc = func() ([]Device, error) {
			if f.opens < 3 {
				return []Device{{State: StateOK}, {State: StateLost}}, nil
			}
			return []Device{{State: StateOK}, {State: StateOK}}, nil
		}
		r := newReader(f)
		for range 100 { // every 5 seconds, as the agent's loop does
			if _, err := r.Devices(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Second)
		}
		if f.opens != 3 {
			t.Errorf("library opened %d times; want 3: at first, and once a minute until the device is back", f.opens)
		}
	})
}
