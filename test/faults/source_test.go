package faults

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher/fetchertest"
)

// file is one file of a commit, as it was pushed.
type file struct {
	sha256 string
	size   int64
}

// smallFile is the size in bytes up to which downloads are not counted.
const smallFile = 512 << 10

// source is the Hub stand-in, with what was pushed to it and a count of what it
// sent of each content.
type source struct {
	hub     *fetchertest.Hub
	gate    *gate // of the Hub itself
	cdnGate *gate
	listing string // the Hub's address

	mu      sync.Mutex
	commits map[string]map[string]file // by commit and path
	repos   map[string]string          // of each commit
	heads   map[string]string          // repository -> its last commit
	traffic map[string]*traffic        // by sha256
	removes []func()                   // of faults in force
	spoils  bool                       // some content is sent wrong, whichever is asked for next
}

// traffic is what was sent of one content.
type traffic struct {
	size  int64
	sent  int64
	open  int   // bodies under way
	may   int64 // what may have been sent by now
	marks []mark
}

// mark is how much had been sent at a moment.
type mark struct {
	at   time.Time
	sent int64
}

func newSource(t *testing.T, rate int64) *source {
	t.Helper()
	const buffer = 64 << 10 // what was sent and what the agent has differ by little
	s := &source{
		gate: newGate(newListener(t), buffer), cdnGate: newGate(newListener(t), buffer),
		commits: map[string]map[string]file{}, repos: map[string]string{}, heads: map[string]string{}, traffic: map[string]*traffic{},
	}
	s.listing = "http://" + s.gate.Addr().String()
	s.hub = fetchertest.NewHub(fetchertest.HubOptions{
		BytesPerSecond: rate, CDNAuthority: s.cdnGate.Addr().String(),
		Quota: fetchertest.Quota{API: 1 << 30, Resolves: 1 << 30},
	})
	s.serve(t, s.gate, s.hub.HubHandler())
	s.serve(t, s.cdnGate, s.hub.CDNHandler())
	return s
}

func (s *source) url() string { return s.listing }

func (s *source) serve(t *testing.T, g *gate, handler http.Handler) {
	t.Helper()
	quiet := slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server := &http.Server{Handler: s.counted(handler), ReadHeaderTimeout: 30 * time.Second, ErrorLog: quiet}
	done := make(chan error, 1)
	go func() { done <- server.Serve(g) }()
	t.Cleanup(func() {
		g.set(gateClosed)
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}

// push commits a tree to a repository's main branch.
func (s *source) push(t *testing.T, repo string, tree fetchertest.Tree) string {
	t.Helper()
	commit, err := s.hub.Push(context.WithoutCancel(t.Context()), repo, "main", tree)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]file{}
	for path, content := range tree {
		sum, err := content.SHA256()
		if err != nil {
			t.Fatal(err)
		}
		files[path] = file{sha256: sum, size: content.Size()}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commits[commit], s.repos[commit], s.heads[repo] = files, repo, commit
	for _, f := range files {
		if s.traffic[f.sha256] == nil {
			c := &traffic{size: f.size, may: f.size}
			if s.spoils {
				c.may += f.size
			}
			s.traffic[f.sha256] = c
		}
	}
	return commit
}

func (s *source) head(repo string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.heads[repo]
}

// files are what a commit holds.
func (s *source) files(commit string) map[string]file {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.commits[commit]
}

// contentOf tells which content a request asks for; nil: none.
func (s *source) contentOf(r *http.Request) *traffic {
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/"), "/")
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case parts[0] == "repos":
		return s.traffic[parts[len(parts)-1]]
	case len(parts) >= 5 && parts[2] == "resolve":
		return s.traffic[s.commits[parts[3]][strings.Join(parts[4:], "/")].sha256]
	}
	return nil
}

// counted counts the bodies that handler sends.
func (s *source) counted(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		content := s.contentOf(r)
		if content == nil {
			handler.ServeHTTP(rw, r)
			return
		}
		s.mu.Lock()
		content.open++
		s.mu.Unlock()
		defer func() {
			s.mu.Lock()
			content.open--
			s.mu.Unlock()
		}()
		handler.ServeHTTP(&countingWriter{ResponseWriter: rw, source: s, content: content}, r)
	})
}

type countingWriter struct {
	http.ResponseWriter
	source  *source
	content *traffic
	counts  bool
}

// WriteHeader counts only what is content: a redirect and an error are not.
func (c *countingWriter) WriteHeader(status int) {
	c.counts = status == http.StatusOK || status == http.StatusPartialContent
	c.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	if c.counts {
		c.source.mu.Lock()
		c.content.sent += int64(n)
		c.source.mu.Unlock()
	}
	return n, err
}

// Unwrap is for http.ResponseController.
func (c *countingWriter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// inject puts a fault in force until healed.
func (s *source) inject(f fetchertest.Fault) {
	remove := s.hub.Inject(f)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removes = append(s.removes, remove)
}

// spoil sends one wrong byte, of whichever content is asked for: it may come once
// more, also if it is pushed only now.
func (s *source) spoil(at int64) {
	s.lostAll()
	s.mu.Lock()
	s.spoils = true
	s.mu.Unlock()
	s.inject(fetchertest.Fault{Match: fetchertest.Match{Kind: fetchertest.KindCDN}, Times: 1, Effect: fetchertest.WrongByte(at)})
}

// heal ends every fault of the source.
func (s *source) heal(rate int64) {
	s.mu.Lock()
	removes := s.removes
	s.removes, s.spoils = nil, false
	s.mu.Unlock()
	for _, remove := range removes {
		remove()
	}
	s.hub.SetBytesPerSecond(rate)
	s.gate.set(gateOpen)
	s.cdnGate.set(gateOpen)
}

// repoOf is the repository that a commit was pushed to.
func (s *source) repoOf(commit string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.repos[commit]
}
