package sdk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/penstock/penstock/operators/wasm"
)

// Result is a module that was built.
type Result struct {
	Path  string // of the .wasm, with its manifest in it
	Tools string // what compiled it, for people
	Info  wasm.Info

	Golden []string // the golden vectors whose digests were computed
}

// Build runs the toolchain of the operator in dir, puts manifest.json into the
// module, checks that Penstock can run it, and writes it. A golden vector with an
// empty digest is refused, or with golden its digest computed, and written to
// manifest.json too. What the tools say goes to log. A toolchain that is not there
// is a *MissingToolchain.
func Build(ctx context.Context, dir string, golden bool, log io.Writer) (Result, error) {
	var r Result
	p, err := readProject(dir)
	if err != nil {
		return r, err
	}
	text, err := readLimited(filepath.Join(dir, "manifest.json"), 1<<20)
	if err != nil {
		return r, err
	}
	manifest, err := wasm.ParseManifest(text)
	if err != nil {
		return r, fmt.Errorf("manifest.json: %w", err)
	}
	for i, g := range manifest.Golden {
		if g.Digest == "" && !golden {
			return r, fmt.Errorf("manifest.json: golden[%d] %q has no digest: `penstock operator build --golden` computes it", i, g.Name)
		}
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return r, err
	}
	tmp, err := os.MkdirTemp("", "penstock-build-")
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(tmp) //nolint:errcheck // temporary
	raw := filepath.Join(tmp, "module.wasm")
	b := builder{dir: dir, tmp: tmp, out: raw, kind: manifest.Kind}
	if len(p.Command) > 0 {
		argv := make([]string, len(p.Command))
		for i, a := range p.Command {
			argv[i] = strings.ReplaceAll(a, "{output}", raw)
		}
		b.tools = argv[0]
		b.run(argv...)
	} else if err := toolchains[p.Language](ctx, &b); err != nil {
		return r, err
	}
	for _, c := range b.steps {
		if err := c.exec(ctx, dir, log); err != nil {
			return r, err
		}
	}
	code, err := readLimited(raw, wasm.MaxModuleSize)
	if err != nil {
		return r, err
	}
	var filled []byte
	if golden {
		if r.Golden, err = wasm.FillGolden(code, &manifest); err != nil {
			return r, fmt.Errorf("manifest.json: %w", err)
		}
		if len(r.Golden) > 0 {
			ok := false
			if filled, ok = FillDigests(text, &manifest, r.Golden); !ok {
				return r, errors.New(`manifest.json: write "digest": "" in each golden vector that has none, for its digest to be written there`)
			}
		}
	}
	if code, err = wasm.Pack(code, manifest); err != nil {
		return r, err
	}
	if r.Info, err = wasm.Inspect(code); err != nil {
		return r, err
	}
	if filled != nil {
		if err := writeFile(filepath.Join(dir, "manifest.json"), filled); err != nil {
			return r, err
		}
	}
	r.Path, r.Tools = filepath.Join(dir, p.Output), b.tools
	return r, writeFile(r.Path, code)
}

// writeFile replaces the file at once: a pipeline may be reading it.
func writeFile(name string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".penstock-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if e := f.Chmod(0o644); err == nil {
		err = e
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

func readLimited(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", name, limit)
	}
	return b, err
}

// builder collects what is to be run.
type builder struct {
	dir, tmp, out string
	kind          string // of the operator
	tools         string
	steps         []step
}

type step struct {
	argv, env []string
	after     func() error
}

func (b *builder) run(argv ...string) *step {
	b.steps = append(b.steps, step{argv: argv})
	return &b.steps[len(b.steps)-1]
}

func (s *step) exec(ctx context.Context, dir string, log io.Writer) error {
	c := exec.CommandContext(ctx, s.argv[0], s.argv[1:]...)
	c.Dir, c.Stdout, c.Stderr = dir, log, log
	c.Env = append(os.Environ(), s.env...)
	if err := c.Run(); err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(s.argv[0]), err)
	}
	if s.after != nil {
		return s.after()
	}
	return nil
}
