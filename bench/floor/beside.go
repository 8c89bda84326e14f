//go:build linux

package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sync/errgroup"
)

// beside runs a command that fetches and verifies nothing, and at the same time
// computes the sha256 of the same bytes, on one goroutine and so on one core, out
// of the page cache, where they are already: neither waits for the other. Who
// verifies what it fetches cannot cost less.
//
// Each line of the list is a file that has the bytes, a name, and the sha256.
func beside(ctx context.Context, command []string, list io.Reader) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		cmd := exec.CommandContext(ctx, command[0], command[1:]...)
		cmd.Stderr = os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("run %s: %w", command[0], err)
		}
		return nil
	})
	group.Go(func() error {
		lines := bufio.NewScanner(list)
		buf := make([]byte, 128<<10)
		for lines.Scan() {
			field := strings.Split(lines.Text(), "\t")
			if len(field) != 3 {
				return fmt.Errorf("line %q is not file, path and sha256", lines.Text())
			}
			if err := hashFile(ctx, field[0], field[2], buf); err != nil {
				return fmt.Errorf("hash %s: %w", field[1], err)
			}
		}
		return lines.Err()
	})
	return group.Wait()
}

func hashFile(ctx context.Context, path, want string, buf []byte) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	sum := sha256.New()
	for ctx.Err() == nil {
		n, err := file.Read(buf)
		sum.Write(buf[:n])
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	if got := hex.EncodeToString(sum.Sum(nil)); ctx.Err() == nil && got != want {
		return fmt.Errorf("sha256 is %s, want %s", got, want)
	}
	return ctx.Err()
}
