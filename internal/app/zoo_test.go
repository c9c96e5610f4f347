package app

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/operators/wasm"
	"github.com/penstock/penstock/operators/wasm/binfmt"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/pipeline/config"
	"github.com/penstock/penstock/pipeline/flow"
)

const beastFile = "../../operators/wasm/testdata/zoo/beast.wasm"

// zooEngines are the engines of this build, as the config calls them for a
// module that nobody vouches for.
func zooEngines() []string {
	out := []string{wasm.EngineWazero}
	for _, native := range []string{wasm.EngineWasmerUntrusted, wasm.EngineWasmtime} {
		cfg := wasm.DefaultConfig()
		cfg.Module, cfg.Engine = beastFile, native
		if _, err := cfg.Choose(); err == nil {
			out = append(out, native)
		}
	}
	return out
}

func beastWasm(t *testing.T) []byte {
	t.Helper()
	code, err := os.ReadFile(beastFile)
	require.NoError(t, err)
	return code
}

// beast is the hostile module in one of its modes, and what is to become of
// its batches: none goes through and they are counted under reason, or, where
// that is empty, all go through.
type beast struct{ mode, reason, says string }

const (
	fuelOut = "it did more than"
	outside = "past the memory's end"
)

var beasts = []beast{
	{"well", "", ""},
	{"loop_process", "module_fuel", "penstock_process: " + fuelOut},
	{"loop_error", "module_fuel", "penstock_last_error: " + fuelOut},
	{"loop_alloc", "module_fuel", "penstock_alloc: " + fuelOut},
	{"recursion", "module_stack", "penstock_process: its calls are nested too deep"},
	{"grow_once", "", ""},
	{"grow_forever", "module_fuel", "penstock_process: " + fuelOut},
	{"pointer", "module_bad_output", `penstock_process: output column "value"`},
	{"children", "module_bad_output", outside},
	{"buffers", "module_bad_output", outside},
	{"buffer_count", "module_bad_output", "9223372036854775807 buffers and 0 children, want 2 and 0"},
	{"child_few", "module_bad_output", "output record: 5 columns, the manifest has 6"},
	{"child_many", "module_bad_output", "output record: 7 columns, the manifest has 6"},
	{"child_huge", "module_bad_output", "output record: -9223372036854775808 columns"},
	{"self", "module_bad_output", `output column "value": 1 buffers and 6 children`},
	{"length_negative", "module_bad_output", "length -1 is not in"},
	{"length_huge", "module_bad_output", "length 9223372036854775807 is not in"},
	{"length_child", "module_bad_output", `output column "count": it has`},
	{"length_short", "module_bad_output", `output column "value": it has`},
	{"offset_negative", "module_bad_output", "offset -1 is not in"},
	{"offset_overflow", "module_bad_output", outside},
	{"offset_wrap", "module_bad_output", "offset 9223372036854775807 is not in"},
	{"nulls_few", "module_bad_output", "null_count is 0, the validity bitmap has"},
	{"nulls_many", "module_bad_output", "the validity bitmap has 0 nulls"},
	{"nulls_unknown", "", ""},
	{"nulls_negative", "module_bad_output", "null_count -2 is not in"},
	{"validity_short", "module_bad_output", outside},
	{"text_decreases", "module_bad_output", "text offset 0 comes after"},
	{"text_negative", "module_bad_output", "text offset -2147483648"},
	{"text_beyond", "module_bad_output", outside},
	{"text_utf8", "module_bad_output", "a text is not UTF-8"},
	{"text_split", "module_bad_output", "it begins inside a character"},
	{"dict_range", "module_bad_output", "the index is the number of the run"},
	{"dict_negative", "module_bad_output", "row 0 has index -1, want 0"},
	{"dict_missing", "module_bad_output", "it has no dictionary"},
	{"dict_twice", "module_bad_output", "the dictionary has a tag twice"},
	{"overlap", "", ""},
	{"misaligned", "", ""},
	{"error_pointer", "module_error", "penstock_process returned 7: no reason given"},
	{"alloc_pointer", "module_bad_output", "penstock_alloc: "},
	{"log_pointer", "module_trap", "penstock_process: log: 1000 bytes at 0xfffffff0 reach past"},
	{"metric_pointer", "module_trap", "penstock_process: metric: "},
	{"metric_flood", "module_trap", "is one name too many, the limit is 64"},
	{"write_pointer", "module_trap", "penstock_process: fd_write: "},
	{"random_pointer", "module_trap", "penstock_process: random_get: "},
	{"clock_pointer", "module_trap", "penstock_process: clock_time_get: "},
	{"poll_pointer", "module_trap", "penstock_process: poll_oneoff: "},
	{"exit", "module_trap", "penstock_process: the module called proc_exit(3)"},
	{"log_flood", "module_fuel", "penstock_process: log: it made the host do more than its fuel is for"},
	{"random_flood", "module_fuel", "penstock_process: random_get: it made the host do more"},
}

// strays are beasts whose batches go through in part, or which are hostile
// elsewhere than in process.
var strays = []beast{
	{"keep_all", "module_trap", "penstock_process: "},
	{"loop_advance", "module_quarantined", "penstock_advance: " + fuelOut},
	{"loop_snapshot", "", "penstock_snapshot: " + fuelOut},
	{"state_pointer", "", "penstock_snapshot: "},
	{"state_huge", "", "penstock_snapshot: "},
	{"output_huge", "", ""},
}

const zooYAML = `version: 1
name: zoo
journal: {dir: %q, checkpoint: 100ms}
sources:
  - {name: rec, type: replay, speed: %s, path: %q, batch: {max_rows: 300, linger: 1ms}}
operators:
  - {name: per_minute, type: window, inputs: [rec], every: 60s, aggregates: [mean, max]}
  - {name: score, type: wasm, inputs: [rec], module: ewma, params: {half_life: 30s}}
%s
sinks:
  - {name: files, type: archive, inputs: [score, per_minute, alerts], dir: %q}
%s
alerts:
  - {name: high, input: rec, column: value, above: 22.5}
http: {listen: ""}
`

// zooRun starts a pipeline with good operators and those given.
func zooRun(t *testing.T, speed, rec string, operators, outs []string) (*App, *book) {
	t.Helper()
	return startApp(t, fmt.Sprintf(zooYAML, t.TempDir(), speed, rec, strings.Join(operators, "\n"), t.TempDir(), outsTo(t, outs...)))
}

// outsTo is a sink for what beasts give.
func outsTo(t *testing.T, operators ...string) string {
	if len(operators) == 0 {
		return ""
	}
	return fmt.Sprintf("  - {name: outs, type: archive, inputs: [%s], dir: %q}", strings.Join(operators, ", "), t.TempDir())
}

// cage is the operator that runs a beast.
func cage(name, mode, module, engine, more string) string {
	return fmt.Sprintf("  - {name: %s, type: wasm, inputs: [rec], module: %q, params: {mode: %s}, engine: %s, on_error: drop, quarantine_after: 3, fuel: {per_call: 3000000, per_row: 1000}%s}",
		name, module, mode, engine, more)
}

// failedRows is what a Wasm operator counted, by reason.
func failedRows(t *testing.T, a *App) map[string]map[string]int {
	fams, err := a.o.Meter.Registry().Gather()
	require.NoError(t, err)
	out := map[string]map[string]int{}
	for _, fam := range fams {
		if fam.GetName() != "penstock_module_failed_rows_total" {
			continue
		}
		for _, m := range fam.GetMetric() {
			l := map[string]string{}
			for _, p := range m.GetLabel() {
				l[p.GetName()] = p.GetValue()
			}
			if out[l["operator"]] == nil {
				out[l["operator"]] = map[string]int{}
			}
			out[l["operator"]][l["reason"]] = int(m.GetCounter().GetValue())
		}
	}
	return out
}

// logOf are the lines of the log about an operator.
func logOf(b *book, operator string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []string
	for line := range strings.SplitSeq(b.log.String(), "\n") {
		if strings.Contains(line, "operator="+operator+" ") {
			out = append(out, strings.ReplaceAll(line, `\"`, `"`))
		}
	}
	return strings.Join(out, "\n")
}

// sameGood requires that the good operators gave what they give by themselves.
func sameGood(t *testing.T, want, got *book) {
	t.Helper()
	for _, node := range []string{"score", "per_minute", "high"} {
		require.NotEmpty(t, want.rows[node])
		require.Equal(t, sorted(want.rows[node]), sorted(got.rows[node]), node)
	}
}

const zooRows = 1500

// All beasts run in one pipeline, beside good operators and each other: what
// the good ones give is what they give by themselves, to the row, and each
// beast is stopped, counted and named.
func TestZoo(t *testing.T) {
	rec := recording(t, zooRows)
	a, want := zooRun(t, "max", rec, nil, nil)
	finished(t, a)
	require.Zero(t, stopApp(t, a).Lost())
	file := filepath.Join(t.TempDir(), "beast.wasm")
	require.NoError(t, os.WriteFile(file, beastWasm(t), 0o600))
	for _, engine := range zooEngines() {
		t.Run(engine, func(t *testing.T) {
			before := level()
			var ops, outs []string
			for _, b := range slices.Concat(beasts, strays) {
				memory := "8MiB"
				if strings.HasSuffix(b.mode, "_huge") {
					memory = "64MiB"
				}
				ops = append(ops, cage(b.mode, b.mode, file, engine, ", memory: "+memory))
				outs = append(outs, b.mode)
			}
			a, got := zooRun(t, "max", rec, ops, outs)
			finished(t, a)
			a.settle(timeout(t, time.Minute))
			require.NoError(t, a.Err())
			s := stopApp(t, a)
			require.Zero(t, s.Lost())
			require.EqualValues(t, zooRows, s.Readings.Processed)
			sameGood(t, want, got)
			require.Equal(t, len(want.rows["score"])+len(want.rows["per_minute"])+len(got.rows["high"])+len(got.rows["penstock"]), int(s.Sinks["files"].Accepted))
			failed := failedRows(t, a)
			raised := map[string]int{}
			for _, row := range got.rows["penstock"] {
				require.Contains(t, row, "rule=module_quarantined ")
				_, rest, _ := strings.Cut(row, "tag=penstock/")
				name, _, _ := strings.Cut(rest, " ")
				raised[name]++
			}
			for _, b := range beasts {
				if b.reason == "" {
					require.Len(t, got.rows[b.mode], zooRows, b.mode)
					require.Empty(t, failed[b.mode])
					continue
				}
				require.Empty(t, got.rows[b.mode], b.mode)
				require.Positive(t, failed[b.mode][b.reason], "%s: %v\n%s", b.mode, failed[b.mode], logOf(got, b.mode))
				require.Equal(t, map[string]int{b.reason: failed[b.mode][b.reason], "module_quarantined": zooRows - failed[b.mode][b.reason]}, failed[b.mode], b.mode)
				log := logOf(got, b.mode)
				require.Contains(t, log, "module=beast@1.0.0")
				require.Contains(t, log, b.says)
				require.Equal(t, 1, raised[b.mode], b.mode)
				delete(raised, b.mode)
			}
			for _, b := range strays {
				n := len(got.rows[b.mode])
				for _, f := range failed[b.mode] {
					n += f
				}
				require.Equal(t, zooRows, n, b.mode)
				if b.reason != "" {
					require.Positive(t, failed[b.mode][b.reason], b.mode)
				}
				require.Contains(t, logOf(got, b.mode), b.says)
				delete(raised, b.mode)
			}
			require.Empty(t, raised)
			got, a = nil, nil
			require.Eventually(t, func() bool { return level().near(before) }, 20*time.Second, 50*time.Millisecond, "before %+v, after %+v", before, level())
		})
	}
}

// usage is what a run must give back.
type usage struct {
	goroutines, reserved int // regions of 4 GiB and more: an instance of Wasmer has one
	heap                 uint64
}

func level() usage {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	u := usage{goroutines: runtime.NumGoroutine(), heap: m.HeapAlloc}
	maps, _ := os.ReadFile("/proc/self/maps")
	for line := range strings.Lines(string(maps)) {
		var from, to uint64
		if n, _ := fmt.Sscanf(line, "%x-%x", &from, &to); n == 2 && to-from >= 4<<30 {
			u.reserved++
		}
	}
	return u
}

func (u usage) near(before usage) bool {
	return u.goroutines <= before.goroutines+5 && u.reserved <= before.reserved && u.heap < before.heap+16<<20
}

// mode is the hostile module with another mode as its default: a module of its
// own, that goes on with the state of the well-behaved one.
func mode(t *testing.T, name string) []byte {
	t.Helper()
	code := beastWasm(t)
	m, err := wasm.ReadManifest(code)
	require.NoError(t, err)
	m.Version, m.Params[0].Default = "1.0.1-"+strings.ReplaceAll(name, "_", "-"), name
	code, err = wasm.Pack(code, m)
	require.NoError(t, err)
	return code
}

// bomb is the hostile module with n more functions, of that body.
func bomb(t *testing.T, n int, body []byte) []byte {
	t.Helper()
	code := beastWasm(t)
	o, err := binfmt.Parse(code)
	require.NoError(t, err)
	typ := slices.Index(o.Types, binfmt.Signature{})
	require.GreaterOrEqual(t, typ, 0)
	secs, err := binfmt.Sections(code)
	require.NoError(t, err)
	out := slices.Clone(binfmt.Magic)
	for _, s := range secs {
		var more []byte
		switch s.ID {
		case binfmt.SecFunc:
			more = bytes.Repeat([]byte{byte(typ)}, n)
		case binfmt.SecCode:
			for range n {
				more = append(binfmt.AppendU32(more, uint32(len(body))), body...)
			}
		default:
			out = append(out, code[s.Start:s.End]...)
			continue
		}
		have, size := binary.Uvarint(s.Body)
		content := slices.Concat(binfmt.AppendU32(nil, uint32(int(have)+n)), s.Body[size:], more)
		out = append(binfmt.AppendU32(append(out, s.ID), uint32(len(content))), content...)
	}
	return out
}

// loopsAtStart is the hostile module with a start function that has no end.
func loopsAtStart(t *testing.T) []byte {
	t.Helper()
	code := beastWasm(t)
	o, err := binfmt.Parse(code)
	require.NoError(t, err)
	spin, ok := o.Export("spin")
	require.True(t, ok)
	secs, err := binfmt.Sections(code)
	require.NoError(t, err)
	for _, s := range secs {
		if s.ID > binfmt.SecStart {
			body := binfmt.AppendU32(nil, spin.Index)
			return slices.Concat(code[:s.Start], []byte{binfmt.SecStart, byte(len(body))}, body, code[s.Start:])
		}
	}
	t.Fatal("no code")
	return nil
}

// unfit are modules that must not come to run, and why.
func unfit(t *testing.T) map[string]struct {
	code []byte
	says string
} {
	body := func(middle []byte) []byte { return slices.Concat([]byte{0}, middle, []byte{0x0b}) }
	flip := func(at int) []byte {
		code := beastWasm(t)
		code[at] ^= 0x10
		return code
	}
	code := beastWasm(t)
	return map[string]struct {
		code []byte
		says string
	}{
		"100000 functions":     {bomb(t, 100_000, body(nil)), "functions, the limit is 50000"},
		"a function of 10 MB":  {bomb(t, 1, body(bytes.Repeat([]byte{0x41, 0, 0x1a}, 10<<20/3))), "the module is too large: function "},
		"deep nesting":         {bomb(t, 1, body(slices.Concat(bytes.Repeat([]byte{2, 0x40}, 100_000), bytes.Repeat([]byte{0x0b}, 100_000)))), "the module is too large: function "},
		"loops side by side":   {bomb(t, 1, body(bytes.Repeat([]byte{3, 0x40, 0x41, 0, 0x0d, 0, 0x0b}, 9000))), "18000 branches and 9000 loops the module would keep a compiler busy for too long"},
		"branches all over":    {bomb(t, 20, body(bytes.Repeat([]byte{0x41, 0, 0x0d, 0}, 5000))), "branches and 0 loops the module would keep a compiler busy for too long"},
		"fills side by side":   {bomb(t, 1, body(bytes.Repeat([]byte{0x41, 0, 0x41, 0, 0x41, 0, 0xfc, 11, 0}, 9000))), "with its 36000 branches and 9000 loops the module would keep a compiler busy for too long"},
		"a giant br_table":     {bomb(t, 1, body(slices.Concat([]byte{0x41, 0, 0x0e}, binfmt.AppendU32(nil, 500_000), make([]byte, 500_001)))), "branches and 0 loops the module would keep a compiler busy for too long"},
		"4 billion locals":     {bomb(t, 1, []byte{1, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x7e, 0x0b}), "the module is too large: function "},
		"an endless section":   {append(slices.Clone(binfmt.Magic), binfmt.SecCode, 0xff, 0xff, 0xff, 0xff, 0x0f), "the module is damaged"},
		"no code at all":       {nil, "not a WebAssembly core module"},
		"cut in the header":    {code[:6], "not a WebAssembly core module"},
		"cut in a section":     {code[:len(code)/2], "the module is damaged"},
		"cut before the end":   {code[:len(code)-1], "the module is damaged"},
		"a bit of the version": {flip(4), "not a WebAssembly core module"},
		"a bit of a section":   {flip(9), "the module is damaged"},
		"loop at the start":    {loopsAtStart(t), "start function: " + fuelOut},
		"loop in open":         {mode(t, "loop_open"), "penstock_open: " + fuelOut},
		"loop in bind":         {mode(t, "loop_bind"), "penstock_bind: " + fuelOut},
		"a million columns":    {mode(t, "schema_million"), "output schema: format \"+s\" with 1000000 columns, want \"+s\" with 6"},
	}
}

// What cannot run keeps a pipeline from starting, and says why, soon.
func TestZooRefusesAtStart(t *testing.T) {
	rec := recording(t, 10)
	for _, engine := range zooEngines() {
		for name, u := range unfit(t) {
			t.Run(engine+"/"+name, func(t *testing.T) {
				file := filepath.Join(t.TempDir(), "unfit.wasm")
				require.NoError(t, os.WriteFile(file, u.code, 0o600))
				start := time.Now()
				op := strings.Replace(cage("wild", "well", file, engine, ""), "params: {mode: well}, ", "", 1)
				cfg, err := config.Parse("test.yaml", fmt.Appendf(nil, zooYAML, t.TempDir(), "max", rec, op, t.TempDir(), outsTo(t, "wild")), Registry())
				if err == nil {
					_, err = Build(t.Context(), cfg)
				}
				took := time.Since(start)
				require.ErrorContains(t, err, u.says)
				require.ErrorContains(t, err, "operators[2]")
				require.Less(t, took, 2*time.Second)
			})
		}
	}
}

// A beast that is deployed into a running pipeline is refused, or is stopped
// after three batches: what ran before then runs again by itself, and one alert
// says so. Nothing else is lost.
func TestZooDeploy(t *testing.T) {
	rec := recording(t, 9_000)
	a, want := zooRun(t, "max", rec, nil, nil)
	finished(t, a)
	require.Zero(t, stopApp(t, a).Lost())
	file := filepath.Join(t.TempDir(), "beast.wasm")
	require.NoError(t, os.WriteFile(file, beastWasm(t), 0o600))
	for _, engine := range zooEngines() {
		t.Run(engine, func(t *testing.T) {
			op := strings.Replace(cage("wild", "well", file, engine, ""), "params: {mode: well}, ", "", 1)
			a, got := zooRun(t, `"100"`, rec, []string{op}, []string{"wild"})
			status := func() flow.NodeStatus {
				for _, s := range a.Modules()[0] {
					if s.Node == "wild" {
						return s
					}
				}
				return flow.NodeStatus{}
			}
			events := func(state string) (n int) {
				got.mu.Lock()
				defer got.mu.Unlock()
				for _, row := range got.rows["penstock"] {
					if strings.Contains(row, "state="+state) {
						n++
					}
				}
				return n
			}
			base := status().Digest
			for name, u := range unfit(t) {
				start := time.Now()
				_, err := a.Control(t.Context(), pipeline.ControlDeploy, "wild", u.code)
				if len(u.code) == 0 {
					u.says = "deploy needs a module, and got an empty one"
				}
				require.ErrorContains(t, err, u.says, name)
				require.Less(t, time.Since(start), 2*time.Second, name)
			}
			require.Equal(t, base, status().Digest)
			require.Zero(t, events("raised"))
			n := 0
			for i, b := range slices.Concat(beasts, []beast{{"loop_advance", "", ""}, {"loop_snapshot", "", ""}, {"state_pointer", "", ""}}) {
				if b.reason == "" && i < len(beasts) || strings.Contains(b.mode, "alloc") { // those need large batches
					continue
				}
				code := mode(t, b.mode)
				c, err := a.Control(t.Context(), pipeline.ControlDeploy, "wild", code)
				require.NoError(t, err, b.mode)
				require.True(t, c.Carried, b.mode)
				n++
				require.Eventually(t, func() bool { return events("raised") == n && status().Digest == base }, 20*time.Second, time.Millisecond, b.mode)
				require.Empty(t, status().Previous)
				require.False(t, status().Quarantined)
			}
			require.Equal(t, n-1, events("cleared"), "by the next deploy")
			require.NoError(t, a.Err())
			s := stopApp(t, a)
			require.Zero(t, s.Lost())
			require.Equal(t, n, events("raised"))
			require.NotEmpty(t, got.rows["score"])
			for _, node := range []string{"score", "per_minute", "high"} {
				all := tagRows(want.rows[node])
				for tag, rows := range tagRows(got.rows[node]) {
					require.LessOrEqual(t, len(rows), len(all[tag]))
					require.Equal(t, all[tag][:len(rows)], rows, "%s %s", node, tag)
				}
			}
			require.Len(t, got.rows["score"], len(got.rows["rec"]))
			through := len(got.rows["wild"])
			for _, rows := range failedRows(t, a)["wild"] {
				through += rows
			}
			require.Len(t, got.rows["rec"], through)
			t.Logf("%d beasts, %d readings, %d through", n, len(got.rows["rec"]), len(got.rows["wild"]))
		})
	}
}

// tagRows are the rows of each tag, in their order.
func tagRows(rows []string) map[string][]string {
	out := map[string][]string{}
	for _, r := range rows {
		_, rest, _ := strings.Cut(r, "tag=")
		tag, _, _ := strings.Cut(rest, " ")
		out[tag] = append(out[tag], r)
	}
	return out
}

// A module that does not take back its own state does not keep the pipeline
// from starting again: it starts afresh.
func TestZooRestart(t *testing.T) {
	rec := recording(t, 500)
	file := filepath.Join(t.TempDir(), "beast.wasm")
	require.NoError(t, os.WriteFile(file, mode(t, "loop_restore"), 0o600))
	op := strings.Replace(cage("wild", "well", file, wasm.EngineWazero, ""), "params: {mode: well}, ", "", 1)
	yaml := fmt.Sprintf(zooYAML, t.TempDir(), "max", rec, op, t.TempDir(), outsTo(t, "wild"))
	for i := range 2 {
		a, b := startApp(t, yaml)
		finished(t, a)
		stopApp(t, a)
		require.NoError(t, a.Err())
		require.Len(t, b.rows["wild"], 500)
		require.Equal(t, i == 1, strings.Contains(b.log.String(), "does not take back its own state and starts afresh"), i)
	}
}

// What fails on the journal that it is shown is deployed all the same, since a bad
// batch need not be the module's fault, but who deploys it learns of it.
func TestDeployCountsFailures(t *testing.T) {
	file := filepath.Join(t.TempDir(), "beast.wasm")
	require.NoError(t, os.WriteFile(file, beastWasm(t), 0o600))
	cage := fmt.Sprintf("  - {name: wild, type: wasm, inputs: [rec], module: %q, engine: wazero, quarantine_after: 0}", file)
	a, b := zooRun(t, `"200"`, recording(t, 1500), []string{cage}, []string{"wild"})
	require.Eventually(t, func() bool { b.mu.Lock(); defer b.mu.Unlock(); return len(b.rows["wild"]) > 20 }, 20*time.Second, time.Millisecond)
	afresh := func(name string) []byte {
		m, err := wasm.ReadManifest(mode(t, name))
		require.NoError(t, err)
		m.State = "of its own " + name
		code, err := wasm.Pack(beastWasm(t), m)
		require.NoError(t, err)
		return code
	}
	c, err := a.Control(t.Context(), pipeline.ControlDeploy, "wild", afresh("exit"))
	require.NoError(t, err)
	require.Positive(t, c.Shown)
	require.Positive(t, c.Failed)
	c, err = a.Control(t.Context(), pipeline.ControlDeploy, "wild", afresh("well"))
	require.NoError(t, err)
	require.Positive(t, c.Shown)
	require.Zero(t, c.Failed)
	stopApp(t, a)
}
