package ordeal

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

// File is one file of a commit, as it was pushed.
type File struct {
	SHA256 string
	Size   int64
}

// smallFile is the size in bytes up to which downloads are not counted.
const smallFile = 512 << 10

// Source is the Hub stand-in, with what was pushed to it and a count of what it
// sent of each content.
type Source struct {
	Hub     *fetchertest.Hub
	Gate    *Gate // of the Hub itself
	CDNGate *Gate
	listing string // the Hub's address

	mu      sync.Mutex
	commits map[string]map[string]File // by commit and path
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

// Mark is how much had been sent at a moment.
type mark struct {
	at   time.Time
	sent int64
}

// NewSource serves a Hub that sends so many bytes a second, until the test ends. It listens on loopback.
func NewSource(t *testing.T, rate int64) *Source {
	t.Helper()
	return NewSourceAt(t, "127.0.0.1", rate)
}

// NewSourceAt is NewSource on free ports of an address of this machine.
func NewSourceAt(t *testing.T, address string, rate int64) *Source {
	t.Helper()
	const buffer = 64 << 10 // what was sent and what the agent has differ by little
	s := &Source{
		Gate: NewGate(newListener(t, address), buffer), CDNGate: NewGate(newListener(t, address), buffer),
		commits: map[string]map[string]File{}, repos: map[string]string{}, heads: map[string]string{}, traffic: map[string]*traffic{},
	}
	s.listing = "http://" + s.Gate.Addr().String()
	s.Hub = fetchertest.NewHub(fetchertest.HubOptions{
		BytesPerSecond: rate, CDNAuthority: s.CDNGate.Addr().String(),
		Quota: fetchertest.Quota{API: 1 << 30, Resolves: 1 << 30},
	})
	s.serve(t, s.Gate, s.Hub.HubHandler())
	s.serve(t, s.CDNGate, s.Hub.CDNHandler())
	return s
}

// URL is the Hub's address.
func (s *Source) URL() string { return s.listing }

func (s *Source) serve(t *testing.T, g *Gate, handler http.Handler) {
	t.Helper()
	quiet := slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server := &http.Server{Handler: s.counted(handler), ReadHeaderTimeout: 30 * time.Second, ErrorLog: quiet}
	done := make(chan error, 1)
	go func() { done <- server.Serve(g) }()
	t.Cleanup(func() {
		g.Set(GateClosed)
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}

// Push commits a tree to a repository's main branch.
func (s *Source) Push(t *testing.T, repo string, tree fetchertest.Tree) string {
	t.Helper()
	commit, err := s.Hub.Push(context.WithoutCancel(t.Context()), repo, "main", tree)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]File{}
	for path, content := range tree {
		sum, err := content.SHA256()
		if err != nil {
			t.Fatal(err)
		}
		files[path] = File{SHA256: sum, Size: content.Size()}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commits[commit], s.repos[commit], s.heads[repo] = files, repo, commit
	for _, f := range files {
		if s.traffic[f.SHA256] == nil {
			c := &traffic{size: f.Size, may: f.Size}
			if s.spoils {
				c.may += f.Size
			}
			s.traffic[f.SHA256] = c
		}
	}
	return commit
}

// Head is the last commit of a repository.
func (s *Source) Head(repo string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.heads[repo]
}

// Files are what a commit holds.
func (s *Source) Files(commit string) map[string]File {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.commits[commit]
}

// Sent returns how many bytes were sent of a content.
func (s *Source) Sent(sha256 string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.traffic[sha256]; c != nil {
		return c.sent
	}
	return 0
}

// contentOf tells which content a request asks for; nil: none.
func (s *Source) contentOf(r *http.Request) *traffic {
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/"), "/")
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case parts[0] == "repos":
		return s.traffic[parts[len(parts)-1]]
	case len(parts) >= 5 && parts[2] == "resolve":
		return s.traffic[s.commits[parts[3]][strings.Join(parts[4:], "/")].SHA256]
	}
	return nil
}

// counted counts the bodies that handler sends.
func (s *Source) counted(handler http.Handler) http.Handler {
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
	source  *Source
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

// Inject puts a fault in force until healed.
func (s *Source) Inject(f fetchertest.Fault) {
	remove := s.Hub.Inject(f)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removes = append(s.removes, remove)
}

// Spoil sends one wrong byte, of whichever content is asked for: it may come once
// more, also if it is pushed only now.
func (s *Source) Spoil(at int64) {
	s.LostAll()
	s.mu.Lock()
	s.spoils = true
	s.mu.Unlock()
	s.Inject(fetchertest.Fault{Match: fetchertest.Match{Kind: fetchertest.KindCDN}, Times: 1, Effect: fetchertest.WrongByte(at)})
}

// Heal ends every fault of the source.
func (s *Source) Heal(rate int64) {
	s.mu.Lock()
	removes := s.removes
	s.removes, s.spoils = nil, false
	s.mu.Unlock()
	for _, remove := range removes {
		remove()
	}
	s.Hub.SetBytesPerSecond(rate)
	s.Gate.Set(GateOpen)
	s.CDNGate.Set(GateOpen)
}

// RepoOf is the repository that a commit was pushed to.
func (s *Source) RepoOf(commit string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.repos[commit]
}

// CommitsWith are the commits that hold a content.
func (s *Source) CommitsWith(sha256 string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for commit, files := range s.commits {
		for _, f := range files {
			if f.SHA256 == sha256 {
				out = append(out, commit)
				break
			}
		}
	}
	return out
}
