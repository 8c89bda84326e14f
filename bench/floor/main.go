//go:build linux

// Command floor fetches files as plainly as it can be done, for the comparison
// in bench: one stream a file, several files at once, GET -> (sha256 ->) file
// through a buffer. It retries nothing, resumes nothing, and allocates ahead and
// syncs only if told to: what any fetcher that verifies must do, and no more.
//
// Standard input has a line a file: URL, path and sha256, separated by tabs.
//
// With arguments it is another floor: it runs them as a command beside SHA-256 of
// the same bytes, and standard input has files instead of URLs.
package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdin)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "floor:", err)
		os.Exit(1)
	}
}

// floor is what the flags say.
type floor struct {
	dir                       string
	verify, sync, preallocate bool
	buffer                    int
	client                    http.Client
}

func run(ctx context.Context, args []string, list io.Reader) error {
	var f floor
	flags := flag.NewFlagSet("floor", flag.ContinueOnError)
	flags.StringVar(&f.dir, "dir", ".", "write below this directory")
	flags.BoolVar(&f.verify, "verify", false, "compute sha256 in line and compare")
	flags.BoolVar(&f.sync, "sync", false, "fsync every file")
	flags.BoolVar(&f.preallocate, "preallocate", false, "allocate every file before it is written")
	flags.IntVar(&f.buffer, "buffer", 1<<20, "read and write so many bytes at once")
	streams := flags.Int("streams", 4, "fetch so many files at once")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return beside(ctx, flags.Args(), list)
	}
	if f.buffer < 1 || *streams < 1 {
		return fmt.Errorf("buffer %d and streams %d must be positive", f.buffer, *streams)
	}
	transport := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: *streams}
	defer transport.CloseIdleConnections()
	f.client.Transport = transport
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(*streams)
	lines := bufio.NewScanner(list)
	for lines.Scan() {
		field := strings.Split(lines.Text(), "\t")
		if len(field) != 3 {
			return fmt.Errorf("line %q is not URL, path and sha256", lines.Text())
		}
		group.Go(func() error {
			if err := f.fetch(ctx, field[0], field[1], field[2]); err != nil {
				return fmt.Errorf("fetch %s: %w", field[1], err)
			}
			return nil
		})
	}
	return errors.Join(group.Wait(), lines.Err())
}

func (f *floor) fetch(ctx context.Context, url, path, want string) (err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	path = filepath.Join(f.dir, filepath.FromSlash(path))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if f.preallocate && resp.ContentLength > 0 {
		if err := unix.Fallocate(int(file.Fd()), 0, 0, resp.ContentLength); err != nil {
			return fmt.Errorf("allocate: %w", err)
		}
	}
	sum := sha256.New()
	size, err := f.copy(file, sum, resp.Body)
	if err != nil {
		return err
	}
	if resp.ContentLength >= 0 && size != resp.ContentLength {
		return fmt.Errorf("%d bytes of %d: %w", size, resp.ContentLength, io.ErrUnexpectedEOF)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); f.verify && got != want {
		return fmt.Errorf("sha256 is %s, want %s", got, want)
	}
	if f.sync {
		return file.Sync()
	}
	return nil
}

// copy reads until the body ends, and says how many bytes that were.
func (f *floor) copy(file *os.File, sum hash.Hash, body io.Reader) (int64, error) {
	buf := make([]byte, f.buffer)
	var size int64
	for {
		n, err := io.ReadFull(body, buf)
		size += int64(n)
		if f.verify {
			sum.Write(buf[:n])
		}
		if _, err := file.Write(buf[:n]); err != nil {
			return size, err
		}
		// The last buffer is seldom full.
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return size, nil
		}
		if err != nil {
			return size, err
		}
	}
}
