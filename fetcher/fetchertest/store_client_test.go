package fetchertest_test

import (
	"cmp"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/hf"
	"github.com/stoker-project/stoker/fetcher/store"
)

// readOnlyMount returns a command prefix that runs the rest with dir mounted
// read-only at mount, in a mount namespace of its own that ends with it.
func readOnlyMount(t *testing.T, dir, mount string) []string {
	t.Helper()
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		t.Skip("unshare is not installed: the store is not read through a read-only mount")
	}
	prefix := []string{unshare, "--mount"}
	if os.Geteuid() != 0 {
		prefix = append(prefix, "--map-root-user")
	}
	prefix = append(prefix, "sh", "-c", `mount --bind "$1" "$2" && mount -o remount,bind,ro "$2" && shift 2 && exec "$@"`, "sh", dir, mount)
	if out, err := exec.CommandContext(t.Context(), prefix[0], append(prefix[1:], "true")...).CombinedOutput(); err != nil {
		t.Skipf("no mounts may be made here (%v: %s): the store is not read through a read-only mount; run as root", err, out)
	}
	return prefix
}

// pull brings a source of the Hub into a store by way of the real engine.
func pull(t *testing.T, hub *fetchertest.Hub, dir string, request fetcher.Request) fetcher.Result {
	t.Helper()
	s, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	driver, err := hf.New(hf.Options{Endpoint: hub.URL()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(driver.CloseIdleConnections)
	f := fetcher.New(fetcher.Options{
		Store: s, Logger: slog.New(slog.DiscardHandler),
		Drivers: fetcher.Drivers{fetcher.SchemeHub: func(fetcher.Access) (fetcher.Driver, error) { return driver, nil }},
	})
	result, err := f.Pull(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// What the Hub's own client finds in a store offline, through a read-only
// mount: everything that was pulled, by every way in which readers ask.
func TestRealClientReadsTheStoreOffline(t *testing.T) {
	for _, c := range []struct {
		name, repo, revision string
		include              []string
		wholeTree            bool
		client               string
	}{
		{name: "default choice of a branch", client: withClient},
		{name: "all files", include: []string{"*"}, wholeTree: true, client: withClient},
		{name: "a ref", revision: "refs/pr/1", client: withClient},
		{name: "a commit", revision: "commit", client: withClient},
		{name: "no organisation", repo: "gpt2", client: withClient},
		{name: "the client before 1.0", client: withModels},
	} {
		t.Run(c.name, func(t *testing.T) {
			hub, tree, _ := startHub(t, fetchertest.HubOptions{})
			p := newPythonOf(t, c.client, "http://127.0.0.1:9", "HF_HUB_OFFLINE=1")
			tree["additional_chat_templates/tool.jinja"] = fetchertest.Bytes([]byte("{{ tools }}"))
			tree["empty.txt"] = fetchertest.Bytes(nil)
			id := cmp.Or(c.repo, repoID)
			commit, err := hub.Push(t.Context(), id, "main", tree)
			if err != nil {
				t.Fatal(err)
			}
			if err := hub.SetRef(id, "refs/pr/1", commit); err != nil {
				t.Fatal(err)
			}
			src := fetcher.Source{Scheme: fetcher.SchemeHub, Path: id, Revision: c.revision}
			if c.revision == "commit" {
				src.Revision = commit
			}
			dir, mount := t.TempDir(), t.TempDir()
			result := pull(t, hub, dir, fetcher.Request{Name: "tiny-llama", Source: src, Include: c.include})
			if result.Revision != commit {
				t.Fatalf("pulled %s, want %s", result.Revision, commit)
			}
			hub.ResetLog()

			p.env = append(p.env, "HF_HUB_CACHE="+filepath.Join(mount, "hub"))
			branch := c.revision
			if branch == "" || branch == "commit" {
				branch = "main"
			}
			command := append(readOnlyMount(t, dir, mount), p.interpreter, filepath.Join("testdata", "offline.py"),
				id, commit, branch, "config.json", "additional_chat_templates/tool.jinja", "original/consolidated.00.pth")
			var got map[string]string
			decode(t, p.run(t, command[0], command[1:]...), &got)

			snapshot := filepath.Join(mount, "hub", "models--"+strings.ReplaceAll(id, "/", "--"), "snapshots", commit)
			files := chosen(t, tree, c.include)
			if diff := gocmp.Diff(wantOffline(snapshot, len(files), c.wholeTree), got); diff != "" {
				t.Errorf("what the client finds (-want +got):\n%s", diff)
			}
			checkTree(t, strings.Replace(snapshot, mount, dir, 1), files)
			if r := hub.Requests(fetchertest.Match{}); len(r) > 0 {
				t.Errorf("an offline reader asked the Hub: %+v", r)
			}
		})
	}
}

// chosen is the part of a tree that a pull takes.
func chosen(t *testing.T, tree fetchertest.Tree, include []string) fetchertest.Tree {
	t.Helper()
	var files []fetcher.File
	for path := range tree {
		files = append(files, fetcher.File{Path: path})
	}
	selected, err := fetcher.Select(files, fetcher.Choice{Include: include}, nil)
	if err != nil {
		t.Fatal(err)
	}
	part := fetchertest.Tree{}
	for _, f := range selected {
		part[f.Path] = tree[f.Path]
	}
	return part
}

// wantOffline is what testdata/offline.py finds in a good store.
func wantOffline(snapshot string, files int, wholeTree bool) map[string]string {
	config := filepath.Join(snapshot, "config.json")
	nested := filepath.Join(snapshot, "additional_chat_templates", "tool.jinja")
	leftOut := "LocalEntryNotFoundError"
	if wholeTree {
		leftOut = filepath.Join(snapshot, "original", "consolidated.00.pth")
	}
	return map[string]string{
		"snapshot": snapshot, "snapshot_local_only": snapshot, "snapshot_commit": snapshot, "snapshot_branch": snapshot,
		"snapshot_weights": snapshot, "snapshot_ignoring": snapshot, "snapshot_no_such_branch": "LocalEntryNotFoundError",
		"file": config, "file_commit": config, "file_branch": config, "file_local_only": config,
		"file_nested": nested, "file_subfolder": nested, "file_left_out": leftOut, "file_no_such": "LocalEntryNotFoundError",
		"try_load": config, "try_load_commit": config, "scan": strconv.Itoa(files), "write": "Read-only file system",
	}
}
