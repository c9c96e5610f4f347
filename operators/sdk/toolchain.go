package sdk

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/penstock/penstock/operators/wasm"
)

// What gets each toolchain on Debian and Ubuntu.
const (
	installC    = "apt-get install clang-16 lld-16"
	installRust = "apt-get install rustc cargo libstd-rust-dev-wasm32 lld-16"
	installNode = "apt-get install nodejs npm"
	installGo   = "get Go 1.24 or later: https://go.dev/doc/install"
)

// MissingToolchain says what is not installed, and how to install it.
type MissingToolchain struct {
	What, Install string
}

func (e *MissingToolchain) Error() string {
	return fmt.Sprintf("%s is missing: %s", e.What, e.Install)
}

// toolchains append to b what builds each language.
var toolchains = map[string]func(context.Context, *builder) error{"c": buildC, "rust": buildRust, "assemblyscript": buildAssemblyScript, "go": buildGo}

// find returns the first of names that is installed.
func find(names ...string) string {
	for _, n := range names {
		if p, err := exec.LookPath(n); err == nil {
			return p
		}
	}
	return ""
}

var linkers = []string{"wasm-ld-16", "wasm-ld", "wasm-ld-22", "wasm-ld-21", "wasm-ld-20", "wasm-ld-19", "wasm-ld-18", "wasm-ld-17", "wasm-ld-15", "wasm-ld-14"}

// buildC compiles every .c file of the folder. The features are named: those
// that a newer clang turns on by itself are not in every engine. Vector
// instructions are not among them: clang's own use of them traps on Wasmer.
func buildC(_ context.Context, b *builder) error {
	clang := find("clang-16", "clang", "clang-22", "clang-21", "clang-20", "clang-19", "clang-18", "clang-17", "clang-15", "clang-14")
	ld := find(linkers...)
	switch {
	case clang == "":
		return &MissingToolchain{"clang", installC}
	case ld == "":
		return &MissingToolchain{"wasm-ld, the linker for WebAssembly,", installC}
	}
	sources, err := filepath.Glob(filepath.Join(b.dir, "*.c"))
	if err != nil {
		return err
	}
	if len(sources) == 0 {
		return fmt.Errorf("there is no .c file in %s", b.dir)
	}
	b.tools = filepath.Base(clang) + ", " + filepath.Base(ld)
	link := []string{ld, "--no-entry", "--strip-debug", "--stack-first", "-z", "stack-size=65536", "-o", b.out}
	for _, s := range sources {
		o := filepath.Join(b.tmp, filepath.Base(s)+".o")
		b.run(clang, "--target=wasm32", "-mcpu=mvp", "-mbulk-memory", "-mmutable-globals", "-msign-ext", "-mnontrapping-fptoint", "-std=c11", "-O3",
			"-ffreestanding", "-nostdlib", "-ffp-contract=off", "-Wall", "-Wextra", "-Isdk", "-c", "-o", o, filepath.Base(s))
		link = append(link, o)
	}
	b.run(link...)
	return nil
}

const rustTarget = "wasm32-unknown-unknown"

// buildRust looks for a rustc that has WebAssembly's core library: the one on
// the path, then Debian's. Its cargo lies beside it.
func buildRust(ctx context.Context, b *builder) error {
	var cargo, rustc, sysroot string
	seen := 0
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/bin") {
		r, c := filepath.Join(dir, "rustc"), filepath.Join(dir, "cargo")
		if find(r) == "" || find(c) == "" {
			continue
		}
		seen++
		out, err := exec.CommandContext(ctx, r, "--print", "sysroot").Output()
		root := strings.TrimSpace(string(out))
		if _, e := os.Stat(filepath.Join(root, "lib", "rustlib", rustTarget, "lib")); err == nil && e == nil {
			rustc, cargo, sysroot = r, c, root
			break
		}
	}
	switch {
	case seen == 0:
		return &MissingToolchain{"rustc with cargo", installRust}
	case rustc == "":
		return &MissingToolchain{"the core library of Rust for " + rustTarget, installRust + " (or rustup target add " + rustTarget + ")"}
	}
	b.tools = rustc
	s := b.run(cargo, "build", "--quiet", "--release", "--offline", "--target", rustTarget, "--target-dir", "target")
	// The folder's path is kept out of the module, so that it is the same wherever it is built.
	s.env = []string{"RUSTC=" + rustc, "CARGO_ENCODED_RUSTFLAGS=--remap-path-prefix=" + b.dir + "=."}
	if !hasFile(sysroot, "rust-lld") {
		ld := find(linkers...)
		if ld == "" {
			return &MissingToolchain{"wasm-ld, the linker for WebAssembly,", installRust}
		}
		s.env = append(s.env, "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER="+ld)
		b.tools += ", " + filepath.Base(ld)
	}
	target := filepath.Join(b.dir, "target", rustTarget, "release")
	s.after = func() error {
		made, err := filepath.Glob(filepath.Join(target, "*.wasm"))
		if err != nil || len(made) != 1 {
			return fmt.Errorf("%s has %d modules, want one: remove it and build again", target, len(made))
		}
		code, err := os.ReadFile(made[0])
		if err != nil {
			return err
		}
		return os.WriteFile(b.out, code, 0o644)
	}
	return nil
}

// hasFile looks for a program among those of a Rust installation.
func hasFile(sysroot, name string) bool {
	found, _ := filepath.Glob(filepath.Join(sysroot, "lib", "rustlib", "*", "bin", name))
	return len(found) > 0 || find(name) != ""
}

// buildAssemblyScript takes the compiler that package-lock.json names.
func buildAssemblyScript(_ context.Context, b *builder) error {
	npm, node := find("npm"), find("node", "nodejs")
	if npm == "" || node == "" {
		return &MissingToolchain{"Node.js with npm", installNode}
	}
	lock, err := os.Stat(filepath.Join(b.dir, "package-lock.json"))
	if err != nil {
		return err
	}
	asc := filepath.Join(b.dir, "node_modules", "assemblyscript", "bin", "asc.js")
	if done, err := os.Stat(filepath.Join(b.dir, "node_modules", ".package-lock.json")); err != nil || done.ModTime().Before(lock.ModTime()) || missing(asc) {
		b.run(npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
	}
	b.tools = "asc"
	entry := "sdk/exports.ts"
	if b.kind == wasm.KindEmit {
		entry = "sdk/emit.ts"
	}
	b.run(node, asc, entry, "--outFile", b.out, "--runtime", "minimal", "-O3", "--exportStart", "_initialize", "--use", "abort=sdk/penstock/stop")
	return nil
}

func missing(name string) bool {
	_, err := os.Stat(name)
	return err != nil
}

func buildGo(_ context.Context, b *builder) error {
	tool := find("go", "/usr/local/go/bin/go")
	if tool == "" {
		return &MissingToolchain{"Go", installGo}
	}
	b.tools = "go"
	s := b.run(tool, "build", "-buildmode=c-shared", "-buildvcs=false", "-trimpath", "-ldflags=-s -w", "-o", b.out, ".")
	s.env = []string{"GOOS=wasip1", "GOARCH=wasm", "GOWORK=off", "GOFLAGS=", "CGO_ENABLED=0"}
	return nil
}
