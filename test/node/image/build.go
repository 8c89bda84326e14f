package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Source says what to build.
type Source struct {
	// Repository is the root of the repository, whose Dockerfile is built.
	Repository string
	// Version is what `stoker --version` will say.
	Version string
	// Builder and Base name the base images; empty: those that the Dockerfile names. With LocalBuilder, Go, its modules
	// and its build cache are this machine's, and the module cache must hold everything (go mod download).
	Builder, Base string
	// Name of the result, as in REPOSITORY:TAG.
	Name string
}

// Build builds the image into the storage.
func (b Builder) Build(ctx context.Context, s Source) error {
	args := []string{
		"bud", "--isolation", "chroot", "--file", filepath.Join(s.Repository, "Dockerfile"), "--ignorefile", filepath.Join(s.Repository, ".dockerignore"),
		"--build-arg", "VERSION=" + s.Version, "--tag", s.Name,
	}
	if s.Builder != "" {
		args = append(args, "--build-arg", "BUILDER="+s.Builder)
	}
	if s.Base != "" {
		args = append(args, "--build-arg", "BASE="+s.Base)
	}
	if s.Builder == LocalBuilder {
		mounts, err := goMounts(ctx)
		if err != nil {
			return fmt.Errorf("build image %s: %w", s.Name, err)
		}
		args = append(args, mounts...)
	}
	if err := b.buildah(ctx, append(args, s.Repository)...); err != nil {
		return fmt.Errorf("build image %s: %w", s.Name, err)
	}
	return nil
}

// goMounts are the mounts that bring this machine's Go into LocalBuilder. Its build cache comes with it: -trimpath makes
// what is compiled there and here the same.
func goMounts(ctx context.Context) ([]string, error) {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, "go", "env", "GOROOT", "GOMODCACHE", "GOCACHE")
	cmd.Stdout = &out
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("ask Go for its directories: %w", err)
	}
	dirs := strings.Fields(out.String())
	if len(dirs) != 3 {
		return nil, fmt.Errorf("ask Go for its directories: it names %q", dirs)
	}
	return []string{"-v", dirs[0] + ":/usr/local/go:ro", "-v", dirs[1] + ":/go/pkg/mod", "-v", dirs[2] + ":/go/cache"}, nil
}

// BuildProgram builds an image of one statically linked program, which is its entrypoint.
func (b Builder) BuildProgram(ctx context.Context, program, name string) error {
	dockerfile, err := os.CreateTemp(b.Dir, "program-*.Dockerfile")
	if err != nil {
		return fmt.Errorf("build image %s: %w", name, err)
	}
	defer os.Remove(dockerfile.Name())
	base := filepath.Base(program)
	_, err = fmt.Fprintf(dockerfile, "FROM scratch\nCOPY %[1]s /%[1]s\nUSER 65532:65532\nENTRYPOINT [\"/%[1]s\"]\n", base)
	if err = errors.Join(err, dockerfile.Close()); err == nil {
		err = b.buildah(ctx, "bud", "--isolation", "chroot", "--file", dockerfile.Name(), "--tag", name, filepath.Dir(program))
	}
	if err != nil {
		return fmt.Errorf("build image %s: %w", name, err)
	}
	return nil
}

// Export writes an image of the storage as an OCI layout, compressed as a registry would get it, into the new
// directory dir, and as a single file beside it (dir.tar) from which containerd takes the name too.
func (b Builder) Export(ctx context.Context, name, dir string) error {
	for _, target := range []string{"oci:" + dir + ":" + name, "docker-archive:" + dir + ".tar:" + name} {
		if err := b.buildah(ctx, "push", "--quiet", name, target); err != nil {
			return fmt.Errorf("export image %s: %w", name, err)
		}
	}
	// What had this name before would stay in the storage without one.
	if err := b.buildah(ctx, "rmi", "--prune"); err != nil {
		return fmt.Errorf("export image %s: %w", name, err)
	}
	return nil
}
