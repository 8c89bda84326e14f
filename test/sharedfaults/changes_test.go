package sharedfaults

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/stoker-project/stoker/test/ordeal"
	"github.com/stoker-project/stoker/test/weakfs"
)

// judgedFolders are those whose names make promises, and the writers' own.
func judgedFolders() []string {
	return []string{"blobs", "manifests", "models", "hub", "agent/verified", "agent/leaving", epochs}
}

// epochs is the folder in which each writer has one of its own, through which
// everything comes and goes that makes a promise.
const epochs = "agent/epochs"

// terms are the writers' times, by what was changed.
type terms struct {
	mu    sync.Mutex
	began map[int]term
	// latest is the last one that has changed anything, by what.
	latest, number int
	by             weakfs.Change
	// changes counts what was changed, published what became visible.
	changes, published int
}

// term is one of them: by which mount it began, as the how manieth.
type term struct{ owner, rank int }

// ambush sends a signal to an agent right after the so manieth change that it makes:
// in the middle of a transfer's end, of publishing or of removing.
type ambush struct {
	mu     sync.Mutex
	mount  int
	after  int // 0: none
	signal func()
}

// set lies in wait for the agent of a mount; sprung is closed when it was hit.
func (a *ambush) set(mount, after int, signal func()) (sprung <-chan struct{}) {
	done := make(chan struct{})
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mount, a.after = mount, after
	a.signal = func() {
		signal()
		close(done)
	}
	return done
}

// lift ends it.
func (a *ambush) lift() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.after = 0
}

func (a *ambush) saw(mount int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.after == 0 || a.mount != mount {
		return
	}
	if a.after--; a.after == 0 {
		a.signal()
	}
}

// termOf is the number of the term in whose folder a path is; 0: none.
func termOf(path string) int {
	rest, ok := strings.CutPrefix(path, epochs+"/")
	if !ok {
		return 0
	}
	number, _, inside := strings.Cut(rest, "/")
	n, err := strconv.Atoi(number)
	if err != nil || !inside {
		return 0
	}
	return n
}

// promising says whether a path is where promises are.
func promising(path string) bool {
	return path != "" && path != "." && !strings.HasPrefix(path, epochs)
}

// beforeChange judges what an agent is about to change.
func (w *world) beforeChange(c weakfs.Change) {
	if (c.Op == "rename" || c.Op == "unlink" || c.Op == "rmdir") && promising(c.Path) {
		w.mayGo(c)
	}
	if parts := strings.Split(c.To, "/"); c.Op == "rename" && len(parts) == 3 && parts[0] == "blobs" {
		w.mustBe(c, parts[2])
	}
}

// mustBe demands that what gets a blob's name has its content.
func (w *world) mustBe(c weakfs.Change, sum string) {
	f, err := os.Open(filepath.Join(w.volume, c.Path))
	if errors.Is(err, os.ErrNotExist) {
		return // and so it fails
	}
	if err != nil {
		w.fail("read what is published: %v", err)
		return
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		w.fail("read what is published: %v", err)
		return
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != sum {
		w.fail("%s was to become %s, and its sha256 is %s", c.Path, c.To, got)
	}
}

// mayGo demands that no Node promises what an agent is about to take away.
func (w *world) mayGo(c weakfs.Change) {
	parts := strings.Split(c.Path, "/")
	name, commits := "", []string(nil)
	switch {
	case len(parts) == 3 && parts[0] == "blobs":
		w.source.Lost(parts[2])
		commits = w.source.CommitsWith(parts[2])
	case parts[0] == "manifests" && len(parts) == 2:
		name = parts[1]
	case parts[0] == "manifests" && len(parts) == 3 && strings.HasSuffix(parts[2], ".json"):
		name, commits = parts[1], []string{strings.TrimSuffix(parts[2], ".json")}
	case parts[0] == "models" && len(parts) == 2:
		name = parts[1]
	case parts[0] == "models" && len(parts) >= 3 && parts[2] != "current" && parts[len(parts)-1][0] != '.':
		name, commits = parts[1], []string{parts[2]}
	default:
		return
	}
	if _, err := os.Lstat(filepath.Join(w.volume, c.Path)); err != nil {
		return // it is not there
	}
	list, err := w.nodes(context.WithoutCancel(w.t.Context()))
	if err != nil {
		w.fail("read the Nodes: %v", err)
		return
	}
	for i := range list.Items {
		for model, revision := range ordeal.Promises(list.Items[i].Labels) {
			if name != "" && name != model || !meant(commits, revision) {
				continue
			}
			// What has just lost its manifest by the harness may go with what nothing
			// refers to.
			if e := w.excuseOf(model); name == "" && e.damaged && time.Since(e.at) < bound {
				continue
			}
			w.fail("the agent of %s takes %s away (%s to %s) while %s promises %s at %s", w.members[c.Mount].node, c.Path, c.Op, c.To, list.Items[i].Name, model, revision)
		}
	}
}

// meant says whether a label's revision is one of the commits; all are without any.
func meant(commits []string, revision string) bool {
	for _, c := range commits {
		if strings.HasPrefix(c, revision) && revision != "" {
			return true
		}
	}
	return len(commits) == 0
}

// afterChange judges who changed something: what makes or ends a promise comes and
// goes through the folder of a term, which is one agent's, and when a later term has
// changed anything, no earlier one does any more.
func (w *world) afterChange(c weakfs.Change) {
	w.ambush.saw(c.Mount)
	w.terms.mu.Lock()
	defer w.terms.mu.Unlock()
	node := w.members[c.Mount].node
	if c.Op == "mkdir" && filepath.Dir(c.Path) == epochs {
		n, err := strconv.Atoi(filepath.Base(c.Path))
		w.must("read a term", err)
		if _, again := w.terms.began[n]; again {
			w.fail("term %d began twice", n)
		}
		w.terms.began[n] = term{owner: c.Mount, rank: len(w.terms.began) + 1}
		w.note("term %d of %s", n, node)
		return
	}
	through := max(termOf(c.Path), termOf(c.To))
	if !promising(c.Path) && !promising(c.To) {
		return // within the folders of terms
	}
	if through == 0 {
		if c.Op != "mkdir" && c.Op != "rmdir" {
			w.fail("the agent of %s changes %s beside the fence: %s %s", node, c.Path, c.Op, c.To)
		}
		return
	}
	now := w.terms.began[through]
	if now.owner != c.Mount || now.rank == 0 {
		w.fail("the agent of %s changes %s in the term %d of %s", node, c.Path, through, w.members[now.owner].node)
	}
	if now.rank < w.terms.latest {
		w.fail("the agent of %s changes %s (%s to %s) in its term %d, after %+v in term %d", node, c.Path, c.Op, c.To, through, w.terms.by, w.terms.number)
	}
	if now.rank > w.terms.latest {
		w.terms.latest, w.terms.number, w.terms.by = now.rank, through, c
	}
	w.terms.changes++
	if c.Op == "rename" && strings.HasPrefix(c.To, "manifests/") && strings.HasSuffix(c.To, ".json") {
		w.terms.published++
		w.mustBeThere(c)
	}
}

// mustBeThere demands that what was published is completely there.
func (w *world) mustBeThere(c weakfs.Change) {
	path := filepath.Join(w.volume, c.To)
	name := modelOf(path)
	if err := w.reader.Check(path, w.source); err != nil && !w.excuseOf(name).damaged {
		w.fail("%s published what is not there: %v", w.members[c.Mount].node, err)
	}
	w.note("%s published %s", w.members[c.Mount].node, strings.TrimPrefix(c.To, "manifests/"))
}

// modelOf is the model of a manifest's path.
func modelOf(manifest string) string { return filepath.Base(filepath.Dir(manifest)) }
