package store_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func ref(t *testing.T, path string) string {
	t.Helper()
	commit, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(commit)
}

// Two models may show different files of one repository: the view has them all.
func TestHubViewOfTwoModels(t *testing.T) {
	s := newStore(t)
	a, b := map[string]string{"config.json": "{}", "a": "1"}, map[string]string{"config.json": "{}", "b": "2"}
	both := map[string]string{"config.json": "{}", "a": "1", "b": "2"}
	publish(t, s, "a", repo+"@main", commitA, a)
	publish(t, s, "b", repo+"@"+commitA, commitA, b)
	checkFiles(t, hubDir(s, "snapshots/"+commitA), both)
	text, err := os.ReadFile(hubDir(s, "trees/"+commitA+".json"))
	must(t, err)
	var tree struct {
		FormatVersion int `json:"format_version"`
		Files         map[string]struct {
			Size   int64
			BlobID string `json:"blob_id"`
			SHA256 string `json:"lfs_sha256"`
		}
	}
	must(t, json.Unmarshal(text, &tree))
	if tree.FormatVersion != 1 || len(tree.Files) != 3 || tree.Files["a"].SHA256 != sumOf("1") || tree.Files["a"].Size != 1 || len(tree.Files["a"].BlobID) != 40 {
		t.Errorf("tree %s", text)
	}
	must(t, s.Remove(t.Context(), "a"))
	checkFiles(t, hubDir(s, "snapshots/"+commitA), b)
	if got := ref(t, hubDir(s, "refs/main")); got != commitA {
		t.Errorf("main is %q", got)
	}
	must(t, s.Remove(t.Context(), "b"))
	if exists(t, hubDir(s, "")) {
		t.Error("the view is still there")
	}
}

func TestHubRefs(t *testing.T) {
	s := newStore(t)
	files := map[string]string{"x": "1"}
	want := func(main, v1, pr string) {
		t.Helper()
		for path, commit := range map[string]string{"main": main, "v1": v1, "refs/pr/1": pr} {
			if got := ref(t, hubDir(s, "refs/"+path)); got != commit {
				t.Errorf("%s is %q, want %q", path, got, commit)
			}
		}
	}
	publish(t, s, "pinned", repo+"@"+commitA, commitA, files)
	want(commitA, "", "") // there was none
	publish(t, s, "tagged", repo+"@v1", commitB, files)
	want(commitA, commitB, "")
	publish(t, s, "main", repo, commitB, files) // no revision means main
	want(commitB, commitB, "")
	publish(t, s, "pinned", repo+"@"+commitA, commitA, files)
	want(commitB, commitB, "")
	publish(t, s, "pr", repo+"@refs/pr/1", commitA, files)
	want(commitB, commitB, commitA)
	must(t, s.Remove(t.Context(), "pinned"))
	want(commitB, commitB, commitA) // pr still has it
	must(t, s.Remove(t.Context(), "pr"))
	want(commitB, commitB, "")
}

// A repository's name alone must go on to work offline when the commit that main
// meant leaves: for a list that now names a commit, that is when the old one does.
func TestHubMainOutlivesItsCommit(t *testing.T) {
	s := newStore(t)
	files := map[string]string{"x": "1"}
	commitC := strings.Repeat("c", 40)
	want := func(commit string) {
		t.Helper()
		if got := ref(t, hubDir(s, "refs/main")); got != commit {
			t.Errorf("main is %q, want %q", got, commit)
		}
	}
	publish(t, s, "moving", repo+"@main", commitA, files)
	publish(t, s, "moving", repo+"@main", commitB, files)
	publish(t, s, "pinned", repo+"@"+commitC, commitC, files)
	want(commitB)
	must(t, os.Remove(filepath.Join(s.Dir(), "manifests/moving", commitB+".json")))
	gc(t, s, 0)
	want(commitA) // main meant it once
	must(t, s.Remove(t.Context(), "moving"))
	want(commitC)
	publish(t, s, "moving", repo+"@main", commitA, files)
	want(commitA)
}

// A branch v1 that became a folder of branches, and back.
func TestHubRefsThatConflict(t *testing.T) {
	s := newStore(t)
	files := map[string]string{"x": "1"}
	publish(t, s, "m", repo+"@v1", commitA, files)
	publish(t, s, "m", repo+"@v1/beta", commitB, files)
	if got := ref(t, hubDir(s, "refs/v1/beta")); got != commitB {
		t.Errorf("v1/beta is %q", got)
	}
	publish(t, s, "m", repo+"@v1", commitA, files)
	if got := ref(t, hubDir(s, "refs/v1")); got != commitA {
		t.Errorf("v1 is %q", got)
	}
}

// A repository that was renamed keeps its commits: the model moves along, and
// the old view goes.
func TestHubViewOfARenamedRepository(t *testing.T) {
	s := newStore(t)
	publish(t, s, "m", repo, commitA, tiny)
	publish(t, s, "m", "hf://acme/renamed", commitA, tiny)
	if exists(t, hubDir(s, "")) {
		t.Error("the old view is still there")
	}
	checkFiles(t, filepath.Join(s.Dir(), "hub/models--acme--renamed/snapshots", commitA), tiny)
}

func TestNoHubViewOfOtherSources(t *testing.T) {
	s := newStore(t)
	publish(t, s, "m", "s3://bucket/x", "r1", tiny)
	if entries, err := os.ReadDir(filepath.Join(s.Dir(), "hub")); err != nil || len(entries) > 0 {
		t.Errorf("%v, %v", entries, err)
	}
}
