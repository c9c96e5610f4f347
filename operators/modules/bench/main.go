// Command bench runs each kernel on the same batches in an engine, in that
// engine metered, and compiled for this machine, in turns, and prints one line
// per kernel:
//
//	kernel=ewma wasm_ns=2.60 metered_ns=2.85 native_ns=2.34 ratio=0.90 metered_ratio=0.82 short_wasm_ns=3.80 ... engine=wasmer
//
// Nanoseconds are per row, inside penstock_process only; ratio is native/wasm,
// metered_ratio native/metered.
// The first three are for batches of 16 tags with 512 rows each, those with
// short_ for 1000 tags with 8: there the work per tag shows beside that per row.
// Each is the least over the rounds, since another load on the machine only
// ever adds to a time; -v prints medians too. It ends with status 1 when the two
// disagree in a single bit of output.
package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"github.com/penstock/penstock/operators/modules"
	"github.com/penstock/penstock/operators/wasm"
)

const variants = 61

// batch is one batch of readings, one per second and tag.
type batch struct {
	tags, rows int // rows of each tag
	time       []int64
	index      []int32
	values     [variants][]float64 // one after another, so that no call sees what the last saw
	quality    []uint32
	nameAt     []int32
	names      []byte
	params     []float64
}

func (b *batch) span() int64 { return int64(b.rows) * int64(time.Second) }

func newBatch(tags, rows int, params []float64) *batch {
	b := &batch{tags: tags, rows: rows, params: params, nameAt: []int32{0}}
	rnd := rand.New(rand.NewPCG(1, uint64(tags)))
	for t := range tags {
		b.names = fmt.Appendf(b.names, "plant1/hall%d/pump%02d/vibration_%d", t%7, t/10, t%10)
		b.nameAt = append(b.nameAt, int32(len(b.names)))
		for r := range rows {
			b.time = append(b.time, 1_700_000_000_000_000_000+int64(r)*int64(time.Second))
			b.index = append(b.index, int32(t))
			for v := range b.values {
				b.values[v] = append(b.values[v], 20+float64(t%13)+max(-3.5, min(3.5, rnd.NormFloat64())))
			}
			b.quality = append(b.quality, 0)
		}
	}
	return b
}

func main() {
	verbose := flag.Bool("v", false, "print medians to stderr")
	rounds := flag.Int("rounds", 101, "rounds per kernel and shape")
	cc := flag.String("cc", "clang-16", "C compiler of the native side")
	only := flag.String("kernel", "", "run this kernel only")
	dir := flag.String("dir", "operators/modules", "folder of the kernels' sources")
	engine := flag.String("engine", wasm.Engines()[0], "the engine, of those that this build has")
	flag.Parse()
	runtime.LockOSThread() // less noise: one thread, and no garbage collection beside it
	debug.SetGCPercent(-1)
	if err := run(*dir, *cc, *only, *engine, *rounds, *verbose); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// kernels with the parameters that differ from their defaults.
var kernels = []struct {
	name   string
	params map[string]float64
}{
	{"ewma", nil},
	{"cusum", nil},
	{"hampel", nil},
	{"rul", map[string]float64{"limit": 60, "window": 3600}},
}

func run(dir, cc, only, engine string, rounds int, verbose bool) error {
	tmp, err := os.MkdirTemp("", "penstock-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp) //nolint:errcheck // a temporary folder
	for _, k := range kernels {
		if only != "" && k.name != only {
			continue
		}
		exe, code, params, err := build(dir, cc, tmp, k.name, k.params)
		if err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
		fmt.Printf("kernel=%s", k.name)
		for _, shape := range []struct {
			prefix     string
			tags, rows int
		}{{"", 16, 512}, {"short_", 1000, 8}} {
			w, m, n, err := compare(tmp, exe, engine, code, newBatch(shape.tags, shape.rows, params), rounds, verbose)
			if err != nil {
				return fmt.Errorf("%s, %d tags with %d rows: %w", k.name, shape.tags, shape.rows, err)
			}
			fmt.Printf(" %[1]swasm_ns=%.2[2]f %[1]smetered_ns=%.2[3]f %[1]snative_ns=%.2[4]f %[1]sratio=%.2[5]f %[1]smetered_ratio=%.2[6]f",
				shape.prefix, w, m, n, n/w, n/m)
		}
		fmt.Println(" engine=" + engine)
	}
	return nil
}

// build compiles the native side and returns it with the shipped module and
// its parameters.
func build(dir, cc, tmp, name string, set map[string]float64) (exe string, code []byte, params []float64, err error) {
	code, ok := modules.Get(name)
	if !ok {
		return "", nil, nil, fmt.Errorf("there is no such module: run make kernels")
	}
	info, err := wasm.Inspect(code)
	if err != nil {
		return "", nil, nil, err
	}
	for i := range info.Manifest.Params {
		p := &info.Manifest.Params[i]
		v, given := set[p.Name]
		if !given {
			v, err = number(p)
		}
		if err != nil {
			return "", nil, nil, err
		}
		params = append(params, v)
	}
	exe = filepath.Join(tmp, name)
	source, err := filepath.Abs(filepath.Join(dir, name, name+".c"))
	if err != nil {
		return "", nil, nil, err
	}
	out, err := exec.Command(cc, "-std=c11", "-O3", "-msse4.2", "-ffp-contract=off", "-fno-math-errno", "-I", filepath.Join(dir, "../sdk/c"),
		"-DKERNEL=\""+source+"\"", "-o", exe, filepath.Join(dir, "bench/native/native.c")).CombinedOutput()
	if err != nil {
		return "", nil, nil, fmt.Errorf("%s: %w\n%s", cc, err, out)
	}
	return exe, code, params, nil
}

// number is a parameter's default as the guest sees it.
func number(p *wasm.Param) (float64, error) {
	switch d := p.Default.(type) {
	case float64:
		return d, nil
	case bool:
		if d {
			return 1, nil
		}
		return 0, nil
	case string:
		if p.Type == "enum" {
			return float64(slices.Index(p.Enum, d)), nil
		}
		t, err := time.ParseDuration(d)
		return t.Seconds(), err
	}
	return 0, fmt.Errorf("parameter %s has no number as its default", p.Name)
}

// compare returns the least of each in ns per row.
func compare(tmp, exe, engine string, code []byte, b *batch, rounds int, verbose bool) (inWasm, metered, inNative float64, err error) {
	n, err := startNative(exe, filepath.Join(tmp, "batch"), b)
	if err != nil {
		return 0, 0, 0, err
	}
	defer n.close() //nolint:errcheck // it only ends
	w, err := startWasm(engine, code, b, false)
	if err != nil {
		return 0, 0, 0, err
	}
	defer w.close() //nolint:errcheck // it only ends
	m, err := startWasm(engine, code, b, true)
	if err != nil {
		return 0, 0, 0, err
	}
	defer m.close() //nolint:errcheck // it only ends

	const window = 3600 // seconds: rul's must be full
	warm := window/b.rows + 32
	if _, _, err := n.run(warm); err != nil {
		return 0, 0, 0, err
	}
	if _, _, err := m.run(warm); err != nil {
		return 0, 0, 0, err
	}
	spent, _, err := w.run(warm)
	if err != nil {
		return 0, 0, 0, err
	}
	// A round takes about 4 ms, and goes through two of rul's intervals.
	calls := max(int(4*time.Millisecond/max(spent/time.Duration(warm), 1)), 2*60/b.rows, 1)
	per := float64(calls) * float64(b.tags) * float64(b.rows)
	var ws, ms, ns []float64
	for range rounds {
		tn, hn, err := n.run(calls)
		if err != nil {
			return 0, 0, 0, err
		}
		tw, hw, err := w.run(calls)
		if err != nil {
			return 0, 0, 0, err
		}
		tm, hm, err := m.run(calls)
		if err != nil {
			return 0, 0, 0, err
		}
		if hn != hw || hn != hm {
			return 0, 0, 0, fmt.Errorf("the outputs differ")
		}
		ws, ms, ns = append(ws, float64(tw)/per), append(ms, float64(tm)/per), append(ns, float64(tn)/per)
	}
	slices.Sort(ws)
	slices.Sort(ms)
	slices.Sort(ns)
	if verbose {
		w, m, n := ws[len(ws)/2], ms[len(ms)/2], ns[len(ns)/2]
		fmt.Fprintf(os.Stderr, "%d tags with %d rows, medians: wasm_ns=%.2f metered_ns=%.2f native_ns=%.2f ratio=%.3f metered_ratio=%.3f\n", b.tags, b.rows, w, m, n, n/w, n/m)
	}
	return ws[0], ms[0], ns[0], nil
}

// native is the kernel in a process of its own.
type native struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startNative(exe, file string, b *batch) (*native, error) {
	var buf bytes.Buffer
	parts := []any{[]int64{int64(len(b.time)), int64(b.tags), b.span(), int64(len(b.params)), int64(len(b.names)), variants},
		b.params, b.time, b.index, b.quality, b.nameAt, b.names}
	for _, v := range b.values {
		parts = append(parts, v)
	}
	for _, part := range parts {
		if err := binary.Write(&buf, binary.LittleEndian, part); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(file, buf.Bytes(), 0o600); err != nil {
		return nil, err
	}
	n := &native{cmd: exec.Command(exe, file)}
	n.cmd.Stderr = os.Stderr
	var err error
	if n.in, err = n.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := n.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	n.out = bufio.NewReader(out)
	return n, n.cmd.Start()
}

// run makes calls and returns the time spent in them and a hash of the last output.
func (n *native) run(calls int) (d time.Duration, hash uint64, err error) {
	if _, err := fmt.Fprintln(n.in, calls); err != nil {
		return 0, 0, err
	}
	_, err = fmt.Fscanf(n.out, "%d %d\n", &d, &hash)
	return d, hash, err
}

func (n *native) close() error { return errors.Join(n.in.Close(), n.cmd.Wait()) }
