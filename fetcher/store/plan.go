package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// planPath is the list of what an unfinished pull of the model refers to, one
// a line: a sha256, and after a space, for content that was admitted, its key.
// It is only ever appended to, then removed.
func (s *Store) planPath(name string) string {
	return filepath.Join(s.dir, "agent", "pulls", name)
}

// openPlan opens a plan to append to, and cuts off a last line that a kill or a
// full disk left unfinished: what is appended must not become part of it. The
// caller holds the model's lock.
func (s *Store) openPlan(path string) (*os.File, error) {
	if s.shared {
		f, err := s.copyPlan(path)
		if err != nil {
			return nil, fmt.Errorf("open plan: %w", asStoreError(err))
		}
		return f, nil
	}
	f, _, err := s.openPlace(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, fileMode, s.mayChange)
	if err != nil {
		return nil, fmt.Errorf("open plan: %w", asStoreError(err))
	}
	data, err := s.readSmall(path, maxList)
	if errors.Is(err, ErrCorrupt) { // larger than any list of files
		err = f.Truncate(0)
	}
	if err == nil && len(data) > 0 && data[len(data)-1] != '\n' {
		err = f.Truncate(int64(strings.LastIndexByte(string(data), '\n') + 1))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open plan: %w", asStoreError(err)), f.Close())
	}
	return f, nil
}

// copyPlan puts a plan with the same lines in the place of one that an earlier
// writer of a shared store may still have open, and would cut.
func (s *Store) copyPlan(path string) (f *os.File, err error) {
	data, err := s.readSmall(path, maxList)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrCorrupt) {
		return nil, err
	}
	f, err = s.tempFile(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	_, err = f.Write(data[:bytes.LastIndexByte(data, '\n')+1])
	if err == nil {
		err = f.Chmod(fileMode)
	}
	if err == nil && len(data) > 0 {
		err = f.Sync()
	}
	if err == nil {
		err = s.moveOver(f.Name(), path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), dropTemp(f.Name()))
	}
	return f, nil
}

// appendPlan adds a line. Where that fails, another file takes the plan's place and gets
// it: NFS reports at a write what became of an earlier one, which another process may have
// made when there was no room. The caller holds the layout's lock.
func (g *Staging) appendPlan(line string) error {
	err := g.writePlan(line)
	if err == nil {
		return nil
	}
	other, otherErr := g.store.copyPlan(g.store.planPath(g.name))
	if otherErr != nil {
		return err
	}
	_ = g.plan.Close() // it may report the same once more
	g.plan = other
	return g.writePlan(line)
}

func (g *Staging) writePlan(line string) error {
	info, err := g.plan.Stat()
	if err != nil {
		return err
	}
	if _, err = g.plan.WriteString(line + "\n"); err != nil {
		// A disk that fills up takes a part of the line.
		_, seekErr := g.plan.Seek(info.Size(), io.SeekStart)
		return errors.Join(fmt.Errorf("write plan: %w", asStoreError(err)), g.plan.Truncate(info.Size()), seekErr)
	}
	return nil
}

// readPlan tells every whole line of a plan. Lines that a power cut damaged
// name nothing, and neither does something else in a plan's place.
func (s *Store) readPlan(path string, tell func(sha256Hex, key string)) error {
	data, err := s.readSmall(path, maxList)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrCorrupt) {
		return nil
	}
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(data)) {
		whole, ok := strings.CutSuffix(line, "\n")
		sha256Hex, key, _ := strings.Cut(whole, " ")
		if ok && checkSHA256(sha256Hex) == nil {
			tell(sha256Hex, key)
		}
	}
	return nil
}

// Finished maps the keys that were given to Admit, by this pull and by others
// that have not published yet, to the sha256 under which their content was
// admitted. Whether it is still there, Has tells.
func (g *Staging) Finished() (map[string]string, error) {
	entries, err := os.ReadDir(filepath.Join(g.store.dir, "agent", "pulls"))
	if err != nil {
		return nil, err
	}
	finished := map[string]string{}
	for _, e := range entries {
		err := g.store.readPlan(g.store.planPath(e.Name()), func(sha256Hex, key string) {
			if key != "" {
				finished[key] = sha256Hex
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return finished, nil
}
