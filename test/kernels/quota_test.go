//go:build e2e && linux

package kernels_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stoker-project/stoker/test/machine"
)

const (
	// quotaDiskBytes is the size of the disk that a quota takes a part of.
	quotaDiskBytes = 512 << 20
	// weights are the files of a model, of weightBytes each.
	weights     = 24
	weightBytes = 1 << 20
	// tightBytes is a quota that is too small for the model, wideBytes one that has room for it.
	tightBytes = 16 << 20
	wideBytes  = 64 << 20
)

// quotaKind is a file system with project quotas.
type quotaKind struct {
	name string
	// mkfs makes it on /dev/ubda.
	mkfs string
	// setProject gives the directory $dir the project $id.
	setProject string
	// unprivileged runs a command without CAP_SYS_RESOURCE, with which ext4 ignores limits; XFS knows no such exception.
	unprivileged string
	// message is what a writer reads that has reached the limit.
	message string
}

func quotaKinds() []quotaKind {
	return []quotaKind{
		{
			name: "xfs", mkfs: "mkfs.xfs -q -f /dev/ubda", message: "no space left on device",
			setProject: `xfs_quota -x -c "project -s -p $dir $id" /mnt >/dev/null`,
		},
		{
			name: "ext4", mkfs: "mkfs.ext4 -q -F -m 0 -O project,quota /dev/ubda", message: "disk quota exceeded",
			setProject: "chattr -p $id +P $dir", unprivileged: "setpriv --bounding-set -sys_resource ",
		},
	}
}

// quota is a machine with a store on a file system on which the store's directory has a quota.
type quota struct {
	*testing.T
	quotaKind
	machine *machine.Machine
	// source is the model, as a machine names it; sums are the SHA-256 of its files by path.
	source string
	sums   map[string]string
	// dir is the store's directory, and id its project.
	dir string
	id  int
}

// A store whose directory has a project quota takes no more than that: a pull that needs more ends with 5 and publishes
// nothing, the store stays usable, and when the quota has been raised the next pull succeeds.
func TestProjectQuota(t *testing.T) {
	for i, kind := range quotaKinds() {
		t.Run(kind.name, func(t *testing.T) {
			q := newQuota(t, kind, i+1)
			q.Run("before a pull", func(t *testing.T) { q.in(t, 1).testBefore() })
			q.Run("during a pull", func(t *testing.T) { q.in(t, 2).testDuring() })
			q.Run("a full disk", func(t *testing.T) { q.in(t, 3).testFullDisk() })
		})
	}
}

func newQuota(t *testing.T, kind quotaKind, n int) *quota {
	t.Helper()
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, quotaDiskBytes); err != nil {
		t.Fatal(err)
	}
	q := &quota{T: t, quotaKind: kind, machine: boot(t, machine.Config{Name: kind.name, N: n, Disks: []string{disk}})}
	q.source, q.sums = newModel(t, kind.name)
	output(t, q.machine, kind.mkfs+" && mount -o prjquota /dev/ubda /mnt")
	return q
}

// in is the same machine with another directory and project, for a part of a test.
func (q *quota) in(t *testing.T, id int) *quota {
	t.Helper()
	other := *q
	other.T, other.id, other.dir = t, id, fmt.Sprintf("/mnt/project%d", id)
	output(t, q.machine, fmt.Sprintf("dir=%s id=%d; mkdir $dir; %s", other.dir, id, q.setProject))
	return &other
}

// newModel writes a model of many files, which machines have at the returned source.
func newModel(t *testing.T, name string) (source string, sums map[string]string) {
	t.Helper()
	dir := filepath.Join(programs, "models", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	sums = map[string]string{}
	random := rand.NewChaCha8([32]byte{1})
	for i := range weights {
		content := make([]byte, weightBytes)
		_, _ = random.Read(content) // it never fails
		file := fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, weights)
		if err := os.WriteFile(filepath.Join(dir, file), content, 0o600); err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(content)
		sums[file] = hex.EncodeToString(sum[:])
	}
	return "file://" + programDir + "/models/" + name, sums
}

// testBefore has a quota that is too small from the beginning: the admission reads it as the free space.
func (q *quota) testBefore() {
	q.limit(tightBytes)
	got := q.stoker(q.pull(""))
	if got.ExitCode != 5 {
		q.Errorf("a pull of more than the quota: exit code %d: %s", got.ExitCode, got.Output)
	}
	need, free := q.refusal(got.Output)
	if need != weights*weightBytes || free > tightBytes || free < tightBytes-1<<20 {
		q.Errorf("under a quota of %d bytes the pull needs %d bytes and %d are free", tightBytes, need, free)
	}
	q.checkUsable(0)
	q.limit(wideBytes)
	q.pullAgain()

	// A quota below what the store holds takes nothing away, and the model can be removed. A pull of what is there writes
	// its plan first, for which there is no room.
	q.limit(tightBytes)
	if got := q.stoker(q.pull("")); got.ExitCode != 0 && got.ExitCode != 5 {
		q.Errorf("a pull above the quota: exit code %d: %s", got.ExitCode, got.Output)
	}
	q.checkUsable(1)
	for _, args := range []string{"rm m", "gc --older-than 0s"} {
		if got := q.stoker(args); got.ExitCode != 0 {
			q.Errorf("%s above the quota: exit code %d: %s", args, got.ExitCode, got.Output)
		}
	}
	q.checkUsable(0)
	if used := q.used(); used > weightBytes {
		q.Errorf("%d bytes are used after the model was removed", used)
	}
}

// testDuring has somebody else take what the quota leaves, in the middle of a pull.
func (q *quota) testDuring() {
	q.limit(wideBytes)
	pull, err := q.machine.Start(q.Context(), q.command(q.pull("--jobs 2 --max-rate 4MB")))
	if err != nil {
		q.Fatal(err)
	}
	defer pull.Close()
	q.waitWritten(pull, weights*weightBytes/4)
	written := output(q.T, q.machine, fmt.Sprintf("%s dd if=/dev/zero of=%s/other bs=4k 2>&1; true", q.unprivileged, q.dir))
	if !strings.Contains(strings.ToLower(written), q.message) {
		q.Errorf("a writer that reaches the quota is told %q", written)
	}
	ctx, cancel := context.WithTimeout(q.Context(), 2*time.Minute)
	defer cancel()
	got, err := pull.Wait(ctx)
	if err != nil {
		q.Fatal(err)
	}
	q.Logf("exit code %d: %s", got.ExitCode, got.Output)
	if got.ExitCode != 5 || !strings.Contains(got.Output, q.message) {
		q.Errorf("a quota that is used up during a pull: exit code %d: %s", got.ExitCode, got.Output)
	}
	q.checkUsable(0)
	q.limit(2 * wideBytes)
	q.pullAgain()
}

// testFullDisk has a quota with room on a disk without: the disk counts.
func (q *quota) testFullDisk() {
	q.limit(4 * wideBytes)
	output(q.T, q.machine, fmt.Sprintf("fallocate -l $(($(stat -f -c '%%a*%%S' /mnt) - %d)) /mnt/fill", tightBytes))
	got := q.stoker(q.pull(""))
	q.Logf("exit code %d: %s", got.ExitCode, got.Output)
	if got.ExitCode != 5 {
		q.Errorf("a pull of more than the disk has: exit code %d: %s", got.ExitCode, got.Output)
	}
	q.checkUsable(0)
	output(q.T, q.machine, "rm /mnt/fill")
	q.pullAgain()
}

// limit sets the quota in bytes.
func (q *quota) limit(bytes int) {
	q.Helper()
	output(q.T, q.machine, fmt.Sprintf("xfs_quota -f -x -c 'limit -p bhard=%d %d' /mnt", bytes, q.id))
}

// pull is the command that pulls the model.
func (q *quota) pull(flags string) string {
	return "pull " + q.source + " --name m --progress none " + flags
}

// command is the command line of the program with the store.
func (q *quota) command(args string) string {
	return q.unprivileged + programDir + "/stoker " + args + " --store " + q.dir + "/store"
}

// stoker runs the program, which must end within two minutes.
func (q *quota) stoker(args string) machine.Result {
	q.Helper()
	ctx, cancel := context.WithTimeout(q.Context(), 2*time.Minute)
	defer cancel()
	result, err := q.machine.Run(ctx, q.command(args))
	if err != nil {
		q.Fatal(err)
	}
	return result
}

// refusal returns the figures of an admission that was refused.
func (q *quota) refusal(text string) (need, free int) {
	q.Helper()
	figures := regexp.MustCompile(`(\d+) bytes are needed, (\d+) are free`).FindStringSubmatch(text)
	if figures == nil {
		q.Fatalf("this names no bytes: %s", text)
	}
	q.Logf("%s", text)
	need, err := strconv.Atoi(figures[1])
	if err != nil {
		q.Fatal(err)
	}
	if free, err = strconv.Atoi(figures[2]); err != nil {
		q.Fatal(err)
	}
	return need, free
}

// used returns the bytes that the store's files take.
func (q *quota) used() int64 {
	q.Helper()
	text := output(q.T, q.machine, fmt.Sprintf("du -s -B1 %s/store 2>/dev/null | cut -f1", q.dir))
	if text == "" { // no store yet, or a file went while du looked
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil {
		q.Fatal(err)
	}
	return n
}

// waitWritten waits until the store's files take so many bytes, for a minute at most.
func (q *quota) waitWritten(pull *machine.Process, bytes int64) {
	q.Helper()
	deadline := time.After(time.Minute)
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for q.used() < bytes {
		select {
		case <-pull.Done():
			q.Fatalf("the pull ended before it wrote %d bytes: %+v", bytes, pull.Result())
		case <-deadline:
			q.Fatalf("the pull did not write %d bytes: %s", bytes, pull.Result().Output)
		case <-ticker.C:
		}
	}
}

// checkUsable demands that ls, gc and verify succeed, and that the store has so many revisions with the model's bytes.
func (q *quota) checkUsable(revisions int) {
	q.Helper()
	for _, args := range []string{"ls", "gc", "verify"} {
		if got := q.stoker(args); got.ExitCode != 0 {
			q.Errorf("%s: exit code %d: %s", args, got.ExitCode, got.Output)
		}
	}
	manifests := strings.Fields(output(q.T, q.machine, fmt.Sprintf("find %s/store/manifests -name '*.json' 2>/dev/null; true", q.dir)))
	if len(manifests) != revisions {
		q.Errorf("%d revisions are published, want %d: %q", len(manifests), revisions, manifests)
	}
	// What is read comes from the disk.
	output(q.T, q.machine, "sync; echo 3 >/proc/sys/vm/drop_caches")
	for _, manifest := range manifests {
		revision := strings.TrimSuffix(filepath.Base(manifest), ".json")
		q.checkSums(output(q.T, q.machine, fmt.Sprintf("cd %s/store/models/m/%s && sha256sum *", q.dir, revision)))
	}
}

// checkSums compares what sha256sum wrote with the source.
func (q *quota) checkSums(text string) {
	q.Helper()
	sums := map[string]string{}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) != 2 {
			q.Fatalf("sha256sum wrote %q", line)
		}
		sums[fields[1]] = fields[0]
	}
	if !maps.Equal(sums, q.sums) {
		q.Errorf("published are other files than those of the source: %v, want %v", sums, q.sums)
	}
}

// pullAgain demands that the next pull publishes the model.
func (q *quota) pullAgain() {
	q.Helper()
	if got := q.stoker(q.pull("")); got.ExitCode != 0 {
		q.Errorf("the next pull: exit code %d: %s", got.ExitCode, got.Output)
	}
	q.checkUsable(1)
}
