package wazero

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/tetratelabs/wazero"

	"github.com/penstock/penstock/operators/wasm/engine"
)

// wazero gives its native code to a directory only: one file per module, at a
// path that names its version and the CPU. So native code is, for us, that
// path, a zero byte and the file, and both ways go through a directory that
// lives as long as the call.

func (wazeroEngine) CompileNative(wasm []byte, scratch string) (m engine.Module, native []byte, err error) {
	err = inDir(scratch, func(dir string, cache wazero.CompilationCache) error {
		if m, err = compile(wasm, cache); err != nil {
			return err
		}
		name, err := onlyFile(dir)
		if err == nil {
			native, err = os.ReadFile(filepath.Join(dir, name))
		}
		if err != nil {
			return errors.Join(err, m.Close())
		}
		native = append([]byte(filepath.ToSlash(name)+"\x00"), native...)
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	return m, native, nil
}

func (wazeroEngine) Load(wasm, native []byte, scratch string) (m engine.Module, err error) {
	name, code, ok := strings.Cut(string(native), "\x00")
	name = filepath.FromSlash(name)
	if !ok || !filepath.IsLocal(name) {
		return nil, errors.New("this is no native code of wazero")
	}
	err = inDir(scratch, func(dir string, cache wazero.CompilationCache) error {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return errors.Join(err, cache.Close(ctx))
		}
		if err := os.WriteFile(path, []byte(code), 0o600); err != nil {
			return errors.Join(err, cache.Close(ctx))
		}
		before, err := os.Stat(path)
		if err != nil {
			return errors.Join(err, cache.Close(ctx))
		}
		if m, err = compile(wasm, cache); err != nil {
			return err
		}
		// What wazero does not want it compiles anew, into another file.
		found, err := onlyFile(dir)
		if err == nil && found != name {
			err = fmt.Errorf("wazero looks for its code at %s, not at %s", found, name)
		}
		after, serr := os.Stat(path)
		if err = errors.Join(err, serr); err == nil && !os.SameFile(before, after) {
			err = errors.New("wazero did not accept its native code")
		}
		if err != nil {
			return errors.Join(err, m.Close())
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// inDir calls f with a fresh directory and a cache in it, which f hands to a
// module or closes.
func inDir(scratch string, f func(dir string, cache wazero.CompilationCache) error) error {
	dir, err := os.MkdirTemp(scratch, "wazero-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // the owner of scratch removes what is old
	cache, err := wazero.NewCompilationCacheWithDir(dir)
	if err != nil {
		return err
	}
	return f(dir, cache)
}

// onlyFile returns the path, relative to dir, of the one file below it.
func onlyFile(dir string) (string, error) {
	var files []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		return "", err
	}
	if len(files) != 1 {
		return "", fmt.Errorf("wazero left %d files of native code, not one", len(files))
	}
	return filepath.Rel(dir, files[0])
}
