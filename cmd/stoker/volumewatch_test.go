package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// watchedVolume is a watch over a volume that answers while up, of which there is
// one, is closed.
type watchedVolume struct {
	*volumeWatch

	up          chan chan struct{}
	interrupted chan struct{}
	began       time.Time

	mu   sync.Mutex
	told []string
}

// watchVolume watches a volume that answers at once, until it hangs.
func watchVolume() *watchedVolume {
	v := &watchedVolume{volumeWatch: newVolumeWatch(), up: make(chan chan struct{}, 1), interrupted: make(chan struct{}), began: time.Now()}
	v.mend(v.hang())
	v.ask = func() {
		up := <-v.up
		v.up <- up
		<-up
	}
	v.volume = func() string { return "the volume" }
	v.report = func(s volumeState, since time.Duration) {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.told = append(v.told, fmt.Sprintf("%s: state %d for %s", time.Since(v.began), s, since))
	}
	v.run(v.interrupted)
	return v
}

// hang has the volume answer nothing until it is mended.
func (v *watchedVolume) hang() chan struct{} {
	select {
	case <-v.up:
	default:
	}
	up := make(chan struct{})
	v.up <- up
	return up
}

func (v *watchedVolume) mend(up chan struct{}) { close(up) }

// expect holds what was told so far against this.
func (v *watchedVolume) expect(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	v.mu.Lock()
	defer v.mu.Unlock()
	if fmt.Sprint(v.told) != fmt.Sprint(want) {
		t.Errorf("told %q, want %q", v.told, want)
	}
}

// given says after what time the watch gave up; negative: it did not within d.
func (v *watchedVolume) given(d time.Duration) time.Duration {
	begin := time.Now()
	select {
	case <-v.givenUp:
		return time.Since(begin)
	case <-time.After(d):
		return -1
	}
}

func TestVolumeThatAnswersIsQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := watchVolume()
		time.Sleep(time.Hour)
		v.stop()
		v.expect(t)
	})
}

func TestVolumeOutageIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := watchVolume()
		time.Sleep(time.Minute + time.Second)
		up := v.hang()
		time.Sleep(time.Minute)
		v.expect(t, "1m7s: state 0 for 5s")
		v.mend(up)
		v.expect(t, "1m7s: state 0 for 5s", "2m1s: state 1 for 59s")
		up = v.hang()
		time.Sleep(time.Minute)
		v.mend(up)
		v.expect(t, "1m7s: state 0 for 5s", "2m1s: state 1 for 59s", "2m8s: state 0 for 5s", "3m1s: state 1 for 58s")
		v.stop()
	})
}

// A volume that is slow, but answers, is no outage.
func TestVolumeThatIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := watchVolume()
		for range 10 {
			up := v.hang()
			time.Sleep(volumeSilence - time.Millisecond)
			v.mend(up)
			time.Sleep(volumeAskEvery)
		}
		v.stop()
		v.expect(t)
	})
}

// Ending in good order may take any time where the volume answers.
func TestInterruptedOnVolumeThatAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := watchVolume()
		time.Sleep(time.Minute)
		close(v.interrupted)
		if after := v.given(time.Hour); after >= 0 {
			t.Errorf("given up after %s", after)
		}
		v.stop()
	})
}

func TestInterruptedOnVolumeThatHangs(t *testing.T) {
	for name, c := range map[string]struct{ hung, least, most time.Duration }{
		"and is known to":         {time.Minute, volumeLastWord, volumeLastWord},
		"as is found out":         {0, volumeGrace, volumeGrace + volumeAskEnding},
		"since a moment ago":      {volumeAskEvery + time.Second, volumeGrace, volumeGrace},
		"just before it was told": {volumeAskEvery + volumeSilence - 100*time.Millisecond, volumeGrace, volumeGrace},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := watchVolume()
				time.Sleep(time.Minute + time.Millisecond)
				up := v.hang()
				time.Sleep(c.hung)
				close(v.interrupted)
				if after := v.given(time.Minute); after < c.least || after > c.most {
					t.Errorf("given up after %s, want %s to %s", after, c.least, c.most)
				}
				v.stop()
				v.mend(up)
			})
		})
	}
}

// A volume that hangs in the middle of the ending is given up as well.
func TestVolumeThatHangsAfterInterruption(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := watchVolume()
		close(v.interrupted)
		time.Sleep(time.Minute)
		up := v.hang()
		if after := v.given(time.Minute); after < volumeGrace || after > volumeGrace+volumeAskEnding {
			t.Errorf("given up after %s", after)
		}
		v.stop()
		v.mend(up)
	})
}

func TestVolumePath(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "real", "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{"abs": filepath.Join(dir, "real"), "rel": "./real/../real", "real/up": "..", "loop": "loop", "gone": "nowhere/at/all"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{
		"":                 "",
		"real/sub":         "/real/sub",
		"real/none/at/all": "/real",
		"abs/sub":          "/real/sub",
		"rel/sub/none":     "/real/sub",
		"real/up/abs":      "/real",
		"loop/x":           "",
		"gone":             "",
	} {
		p := &volumePath{}
		if got := p.resolve(filepath.Join(dir, path)); got != dir+want {
			t.Errorf("%q is in %q, want %q", path, got, dir+want)
		}
	}
}
