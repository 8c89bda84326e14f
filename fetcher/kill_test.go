package fetcher_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stoker-project/stoker/fetcher"
	"github.com/stoker-project/stoker/fetcher/fetchertest"
	"github.com/stoker-project/stoker/fetcher/hf"
	"github.com/stoker-project/stoker/fetcher/httpsource"
	"github.com/stoker-project/stoker/fetcher/store"
)

// childEnv tells the test binary to be the process that is killed: it holds the
// store's directory and the Hub's address.
const childEnv = "STOKER_TEST_CHILD"

// pullAsChild pulls one model as `stoker pull` does and returns an exit code.
// A line on stdout says that the pull begins.
func pullAsChild() int {
	if err := limitFiles(os.Getenv(childFilesEnv)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	dir, endpoint, _ := strings.Cut(os.Getenv(childEnv), "|")
	s, err := store.Open(dir)
	if err == nil {
		f := fetcher.New(fetcher.Options{
			Store: s, Logger: slog.New(slog.DiscardHandler),
			Drivers: fetcher.Drivers{fetcher.SchemeHub: func(fetcher.Access) (fetcher.Driver, error) {
				return hf.New(hf.Options{Endpoint: endpoint, Transport: smallBuffers()})
			}},
		})
		fmt.Println("begin")
		_, err = f.Pull(context.Background(), request("tiny", "main"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// childFilesEnv is how long the child's files may become, in bytes.
const childFilesEnv = "STOKER_TEST_CHILD_FILES"

func limitFiles(bytes string) error {
	if bytes == "" {
		return nil
	}
	n, err := strconv.ParseUint(bytes, 10, 64)
	if err != nil {
		return err
	}
	signal.Ignore(syscall.SIGXFSZ) // so that write fails
	return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: n, Max: n})
}

// A write that fails after room was reserved for it ends the pull: it must not
// ask for the same bytes for ever.
func TestPullWhereWritingFails(t *testing.T) {
	e := newEnv(t, fetchertest.HubOptions{})
	e.push(repoID, bigTree(1, 700_000))
	t.Setenv(childFilesEnv, strconv.Itoa(600_000))
	child := e.startChild(t.Context())
	_ = child.Wait() // its exit code is asked for
	if child.ProcessState.ExitCode() != 1 {
		t.Errorf("the pull ends with %s", child.ProcessState)
	}
	if n := len(e.hub.Requests(fetchertest.Match{Kind: fetchertest.KindCDN, File: shard})); n != 1 {
		t.Errorf("%d requests for what cannot be written", n)
	}
	checkStore(t, e.dir)
}

// socketBuffer bounds what the kernel holds of a connection on either side, so
// that what was sent and what the child has read differ by little, however busy
// the machine is. The kernel doubles it.
const socketBuffer = 128 << 10

func smallBuffers() *http.Transport {
	transport := httpsource.NewTransport()
	dial := transport.DialContext
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if tcp, ok := conn.(*net.TCPConn); ok {
			err = tcp.SetReadBuffer(socketBuffer)
		}
		return conn, err
	}
	return transport
}

// countingCDN serves a Hub's CDN and tells, while bodies are under way, how
// many bytes were sent and how many bodies are open.
type countingCDN struct {
	handler atomic.Pointer[http.Handler]
	sent    atomic.Int64
	open    atomic.Int64
	all     atomic.Int64
}

func (c *countingCDN) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.all.Add(1)
	c.open.Add(1)
	defer c.open.Add(-1)
	(*c.handler.Load()).ServeHTTP(&countingWriter{w, c}, r)
}

type countingWriter struct {
	http.ResponseWriter
	c *countingCDN
}

// Write counts.
func (w *countingWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.c.sent.Add(int64(n))
	return n, err
}

// startChild runs the test binary as a pull and returns when the pull begins.
func (e *env) startChild(ctx context.Context) *exec.Cmd {
	e.t.Helper()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+e.dir+"|"+e.hub.URL())
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		e.t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "begin\n" {
		e.t.Fatalf("the child says %q, %v", line, err)
	}
	return cmd
}

// kill ends the child without any warning; it may have ended by itself.
func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Kill(); err != nil && !strings.Contains(err.Error(), "finished") {
		t.Fatal(err)
	}
	_ = cmd.Wait() // the exit status is that of the kill
}

// kept adds up what a killed pull left: by their journals, of the contents that
// come from the CDN.
func (e *env) kept() int64 {
	e.t.Helper()
	const small = 1000
	var n int64
	for _, path := range mustGlob(e.t, filepath.Join(e.dir, "blobs/sha256/*")) {
		info, err := os.Stat(path)
		if err != nil {
			e.t.Fatal(err)
		}
		if info.Size() > small {
			n += info.Size()
		}
	}
	for _, path := range mustGlob(e.t, filepath.Join(e.dir, "partial/*.json")) {
		if _, err := os.Stat(strings.TrimSuffix(path, ".json")); err != nil {
			continue // killed when the content had its final name already
		}
		if size, written := readJournal(e.t, path); size > small {
			n += written
		}
	}
	return n
}

// readJournal reads a transfer's journal: a first line with what was synced, and
// a line for each piece that was written since.
func readJournal(t *testing.T, path string) (size, written int64) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	var first struct {
		Size   int64
		Synced store.Spans
	}
	if err := json.Unmarshal([]byte(lines[0]), &first); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	for _, line := range lines[1:] {
		var numbers [4]uint64 // from, to, two checksums
		if json.Unmarshal([]byte(line), &numbers) != nil {
			break // cut by the kill
		}
		first.Synced = first.Synced.Add(store.Span{From: int64(numbers[0]), To: int64(numbers[1])})
	}
	return first.Size, first.Synced.Bytes()
}

func newKillEnv(t *testing.T, rate int64) (*env, *countingCDN) {
	t.Helper()
	cdn := new(countingCDN)
	server := httptest.NewUnstartedServer(cdn)
	server.Config.ConnState = func(conn net.Conn, state http.ConnState) {
		if tcp, ok := conn.(*net.TCPConn); ok && state == http.StateNew {
			if err := tcp.SetWriteBuffer(socketBuffer); err != nil {
				t.Error(err)
			}
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	e := newEnv(t, fetchertest.HubOptions{BytesPerSecond: rate, CDNAuthority: strings.TrimPrefix(server.URL, "http://")})
	handler := e.hub.CDNHandler()
	cdn.handler.Store(&handler)
	return e, cdn
}

// seed makes the random moments of this run; STOKER_TEST_SEED repeats one.
func seed(t *testing.T) *rand.Rand {
	t.Helper()
	n := uint64(time.Now().UnixNano())
	if s := os.Getenv("STOKER_TEST_SEED"); s != "" {
		var err error
		if n, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("STOKER_TEST_SEED=%d", n)
	return rand.New(rand.NewPCG(n, n))
}

// kill -9 at any moment of a transfer costs at most 2 MiB a connection, and
// never publishes what is not right.
func TestKillWhileTransferring(t *testing.T) {
	const lossPerConnection = 2 << 20
	for name, c := range map[string]struct {
		tree    fetchertest.Tree
		weights int64
		rate    int64
	}{
		"two files": {bigTree(1, 8<<20), 12 << 20, 24 << 20},
		// Longer than the first range.
		"one file over many connections": {fetchertest.Tree{
			"config.json": fetchertest.Bytes([]byte("{}")), "model.safetensors": fetchertest.Bytes(random(1, 100<<20)),
		}, 100 << 20, 96 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			e, cdn := newKillEnv(t, c.rate)
			r := seed(t)
			commit := e.push(repoID, c.tree)
			var lost int64
			for round := 0; e.kept() < c.weights; round++ {
				if round > 100 {
					t.Fatalf("after %d kills only %d bytes are here", round, e.kept())
				}
				before, connections := cdn.sent.Load(), cdn.all.Load()
				stopAt := before + min(1+r.Int64N(c.weights/4), c.weights-e.kept())
				pause := time.Duration(r.Int64N(int64(3 * time.Millisecond)))
				child := e.startChild(t.Context())
				waitFor(t.Context(), t, "bytes", func() bool { return cdn.sent.Load() >= stopAt })
				<-time.After(pause)
				kill(t, child)
				waitFor(t.Context(), t, "the connections to end", func() bool { return cdn.open.Load() == 0 })

				now := cdn.sent.Load() - e.kept()
				if allowed := lossPerConnection * (cdn.all.Load() - connections); now-lost > allowed {
					t.Errorf("kill %d lost %d bytes on %d connections, at most %d may be", round, now-lost, cdn.all.Load()-connections, allowed)
				}
				lost = now
				checkStore(t, e.dir)
			}
			res := e.mustPull(request("tiny", "main"))
			if got := checkStore(t, e.dir); !got["tiny@"+commit] {
				t.Errorf("published %v", got)
			}
			checkModel(t, res.Path, c.tree)
			if sent := cdn.sent.Load(); sent != c.weights+lost {
				t.Errorf("the CDN sent %d bytes, of which %d were lost to kills; the weights have %d", sent, lost, c.weights)
			}
			t.Logf("%d of %d bytes came twice", lost, c.weights)
		})
	}
}

// kill -9 around publishing: whatever is published is right, before and after
// another pull and a collection.
func TestKillWhilePublishing(t *testing.T) {
	e, _ := newKillEnv(t, 24<<20)
	r := seed(t)
	tree := bigTree(1, 100_000)
	commit := e.push(repoID, tree)
	begin := time.Now()
	e.mustPull(request("tiny", "main"))
	usual := time.Since(begin)
	published := map[string]bool{"tiny@" + commit: true}
	interrupted := 0
	for round := range 15 {
		tree["config.json"] = fetchertest.Bytes(fmt.Appendf(nil, `{"round": %d}`, round))
		commit := e.push(repoID, tree)
		child := e.startChild(t.Context())
		<-time.After(time.Duration(r.Int64N(int64(usual))))
		kill(t, child)
		got := checkStore(t, e.dir)
		for revision := range published {
			if !got[revision] {
				t.Errorf("round %d took %s away", round, revision)
			}
		}
		if !got["tiny@"+commit] {
			interrupted++
		}
		switch round % 3 {
		case 0: // the next pull finds the leftovers
			e.mustPull(request("tiny", "main"))
		case 1: // a collection does
			if _, err := e.store().GC(t.Context(), 0); err != nil {
				t.Error(err)
			}
			for _, m := range mustPublished(t, e.store()) {
				if target, err := os.Readlink(filepath.Join(e.dir, "models", m.Name, "current")); err != nil || target != m.Revision {
					t.Errorf("after a collection current is %q, %v; published is %s", target, err, m.Revision)
				}
			}
		}
		published = checkStore(t, e.dir)
	}
	e.mustPull(request("tiny", "main"))
	checkStore(t, e.dir)
	if temps := mustGlob(t, filepath.Join(e.dir, "partial/*")); len(temps) > 0 {
		if _, err := e.store().GC(t.Context(), 0); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d of 15 pulls were interrupted", interrupted)
}

func mustPublished(t *testing.T, s *store.Store) []store.Manifest {
	t.Helper()
	all, err := s.Published()
	if err != nil {
		t.Fatal(err)
	}
	return all
}
