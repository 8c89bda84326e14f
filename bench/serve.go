//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/stoker-project/stoker/fetcher/fetchertest"
)

// serveCommand makes this program the server that the contenders ask.
const serveCommand = "serve"

// modelID is the model's repository.
const modelID = "bench/model"

// served is what the server says of itself when it is ready, as a line of JSON.
type served struct {
	URL      string `json:"url"`
	Revision string `json:"revision"`
}

// serve serves the model in a directory as the Hub would until ctx ends: the
// Hub is the stand-in of fetchertest, which redirects large files to a CDN. The
// CDN is our own: it sends files by sendfile, so that it takes as little as
// possible of the CPU that it shares with the contenders.
func serve(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet(serveCommand, flag.ContinueOnError)
	dir := flags.String("model", "", "the model's directory")
	ip := flags.String("ip", "127.0.0.1", "listen on this address")
	congestion := flags.String("congestion", "", "TCP's congestion control of large files; default: the kernel's")
	if err := flags.Parse(args); err != nil {
		return err
	}
	tree, closers, err := openTree(*dir)
	defer func() {
		for _, c := range closers {
			_ = c.Close()
		}
	}()
	if err != nil {
		return fmt.Errorf("open the model: %w", err)
	}
	cdn, err := listen(ctx, *ip, *congestion)
	if err != nil {
		return fmt.Errorf("listen for the CDN: %w", err)
	}
	hub := fetchertest.NewHub(fetchertest.HubOptions{
		CDNAuthority:  cdn.Addr().String(),
		Quota:         fetchertest.Quota{API: 1 << 30, Resolves: 1 << 30},
		SignatureLife: 24 * time.Hour,
	})
	if err := hub.Listen(ctx, net.JoinHostPort(*ip, "0"), net.JoinHostPort(*ip, "0")); err != nil {
		return errors.Join(err, cdn.Close())
	}
	revision, err := hub.Push(ctx, modelID, "main", tree)
	if err != nil {
		return errors.Join(err, cdn.Close())
	}
	byDigest := map[string]string{}
	for name, content := range tree {
		sum, err := content.SHA256()
		if err != nil {
			return errors.Join(err, cdn.Close())
		}
		byDigest[sum] = filepath.Join(*dir, filepath.FromSlash(name))
	}
	if err := json.NewEncoder(out).Encode(served{hub.URL(), revision}); err != nil {
		return errors.Join(err, cdn.Close())
	}
	return serveBoth(ctx, hub, cdn, byDigest)
}

// listen opens a port for connections with a congestion control of their own.
func listen(ctx context.Context, ip, congestion string) (net.Listener, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		if congestion == "" {
			return nil
		}
		// Connections inherit it from the listener. Setting the namespace's default
		// instead is only allowed in the machine's own.
		var set error
		err := raw.Control(func(fd uintptr) {
			set = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, congestion)
		})
		return errors.Join(err, set)
	}}
	return config.Listen(ctx, "tcp", net.JoinHostPort(ip, "0"))
}

// serveBoth serves Hub and CDN until ctx ends.
func serveBoth(ctx context.Context, hub *fetchertest.Hub, cdn net.Listener, byDigest map[string]string) error {
	server := &http.Server{Handler: cdnHandler(byDigest), ReadHeaderTimeout: 10 * time.Second}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return hub.Serve(ctx) })
	group.Go(func() error {
		if err := server.Serve(cdn); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve the CDN: %w", err)
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		return server.Close()
	})
	return group.Wait()
}

// cdnHandler sends the file whose digest is the end of the path. It looks at no
// signature.
func cdnHandler(byDigest map[string]string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		digest := path.Base(r.URL.Path)
		f, err := os.Open(byDigest[digest])
		if err != nil {
			http.NotFound(w, r)
			return
		}
		defer f.Close()
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("ETag", `"`+digest+`"`)
		http.ServeContent(w, r, "", time.Time{}, f)
	})
}

// openTree opens every file below dir. The caller closes what it returns, also
// after an error.
func openTree(dir string) (fetchertest.Tree, []io.Closer, error) {
	tree := fetchertest.Tree{}
	var closers []io.Closer
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, closer, err := fetchertest.OnDisk(name)
		if err != nil {
			return err
		}
		closers = append(closers, closer)
		relative, err := filepath.Rel(dir, name)
		tree[filepath.ToSlash(relative)] = content
		return err
	})
	return tree, closers, err
}
