//go:build e2e && linux

package kernels_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// cgroupPackage makes memory cgroups for tests, or skips them.
const cgroupPackage = "github.com/stoker-project/stoker/fetcher/headroom/cgrouptest"

// goModule is a module of the repository and the flags that the Makefile builds its tests with.
type goModule struct {
	dir   string
	flags []string
}

// modules are those that have tests of memory cgroups.
func modules() []goModule {
	const link = "-ldflags=-s -w -extldflags=-Wl,-z,lazy"
	return []goModule{
		{dir: "../..", flags: []string{"-tags=disable_grpc_modules,grpcnotrace", link}},
		{dir: "..", flags: []string{link}},
	}
}

// goPackage is a package whose tests make memory cgroups.
type goPackage struct {
	ImportPath, Dir           string
	Imports                   []string
	TestGoFiles, XTestGoFiles []string
	TestImports, XTestImports []string
	module                    goModule
	tests                     []string
}

// findPackages returns the packages of a module that have tests which make memory cgroups, with the names of these tests.
func (m goModule) findPackages(ctx context.Context) ([]goPackage, error) {
	fields := "-json=ImportPath,Dir,Imports,TestGoFiles,XTestGoFiles,TestImports,XTestImports"
	cmd := exec.CommandContext(ctx, "go", append(slices.Concat([]string{"list"}, m.flags), fields, "./...")...)
	cmd.Dir = m.dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list the packages of %s: %w\n%s", m.dir, err, stderr.String())
	}
	var found []goPackage
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		p := goPackage{module: m}
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return found, nil
		} else if err != nil {
			return nil, err
		}
		if slices.Contains(p.Imports, cgroupPackage) {
			return nil, fmt.Errorf("%s imports %s outside of its tests: which tests use it cannot be found", p.ImportPath, cgroupPackage)
		}
		if !slices.Contains(slices.Concat(p.TestImports, p.XTestImports), cgroupPackage) {
			continue
		}
		if err := p.findTests(); err != nil {
			return nil, fmt.Errorf("find the tests of %s: %w", p.ImportPath, err)
		}
		found = append(found, p)
	}
}

// findTests finds the tests that call the package for cgroups, themselves or through functions of their own package.
func (p *goPackage) findTests() error {
	uses := map[string]map[string]bool{} // by function, the names in it
	for _, name := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, declaration := range file.Decls {
			function, ok := declaration.(*ast.FuncDecl)
			if !ok {
				continue
			}
			names := map[string]bool{}
			ast.Inspect(function, func(n ast.Node) bool {
				if id, ok := n.(*ast.Ident); ok && id != function.Name {
					names[id.Name] = true
				}
				return true
			})
			uses[function.Name.Name] = names
		}
	}
	callers := map[string]bool{filepath.Base(cgroupPackage): true}
	for grown := true; grown; {
		grown = false
		for function, names := range uses {
			for name := range names {
				if callers[name] && !callers[function] {
					callers[function], grown = true, true
				}
			}
		}
	}
	for function := range callers {
		if strings.HasPrefix(function, "Test") && function != "TestMain" {
			p.tests = append(p.tests, function)
		}
	}
	slices.Sort(p.tests)
	if len(p.tests) == 0 {
		return fmt.Errorf("it imports %s, but no test calls it", cgroupPackage)
	}
	return nil
}

// build builds the package's tests.
func (p *goPackage) build(ctx context.Context, path string) error {
	cmd := exec.CommandContext(ctx, "go", append(slices.Concat([]string{"test", "-c", "-o", path}, p.module.flags), p.ImportPath)...)
	cmd.Dir = p.module.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the tests of %s: %w\n%s", p.ImportPath, err, out)
	}
	return nil
}
