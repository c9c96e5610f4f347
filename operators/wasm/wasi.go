package wasm

import (
	"bytes"
	"encoding/binary"
	"log/slog"

	"github.com/penstock/penstock/operators/wasm/engine"
)

// Error numbers of wasi_snapshot_preview1.
const (
	wasiOK     = 0
	wasiBadf   = 8
	wasiInval  = 28
	wasiNotsup = 58
)

const maxIOVecs = 64

// wasi is the subset of wasi_snapshot_preview1 that runtimes of Go, Rust and C
// need to start. It is deterministic: the clock is the watermark, random is
// seeded, there are no arguments, no environment, no files; standard output
// and error go to the log.
func (h *host) wasi() []engine.HostFunc {
	put := func(fn string, ptr uint64, b ...byte) uint64 {
		copy(h.memory(fn, ptr, uint64(len(b))), b)
		return wasiOK
	}
	u32 := func(v uint32) []byte { return binary.LittleEndian.AppendUint32(nil, v) }
	u64 := func(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }
	empty := func(fn string) func([]uint64) uint64 {
		return func(a []uint64) uint64 {
			put(fn, a[0], u32(0)...)
			return put(fn, a[1], u32(0)...)
		}
	}
	always := func(errno uint64) func([]uint64) uint64 { return func([]uint64) uint64 { return errno } }

	fs := []engine.HostFunc{
		{Name: "args_get", Params: "ii", Call: always(wasiOK)},
		{Name: "args_sizes_get", Params: "ii", Call: empty("args_sizes_get")},
		{Name: "environ_get", Params: "ii", Call: always(wasiOK)},
		{Name: "environ_sizes_get", Params: "ii", Call: empty("environ_sizes_get")},
		{Name: "clock_res_get", Params: "ii", Call: func(a []uint64) uint64 { return put("clock_res_get", a[1], u64(1)...) }},
		{Name: "clock_time_get", Params: "iIi", Call: func(a []uint64) uint64 { return put("clock_time_get", a[2], u64(h.clock())...) }},
		{Name: "random_get", Params: "ii", Call: func(a []uint64) uint64 {
			h.fill(h.memory("random_get", a[0], a[1]))
			return wasiOK
		}},
		{Name: "sched_yield", Call: always(wasiOK)},
		{Name: "proc_exit", Params: "i", Call: func(a []uint64) uint64 {
			// The guest's toolchain puts a trap behind it; the fault says why.
			h.fail("the module called proc_exit(%d)", int32(a[0]))
			return 0
		}},
		{Name: "poll_oneoff", Params: "iiii", Call: h.pollOneoff},
		{Name: "fd_write", Params: "iiii", Call: h.fdWrite},
		{Name: "fd_read", Params: "iiii", Call: always(wasiBadf)},
		{Name: "fd_close", Params: "i", Call: always(wasiBadf)},
		{Name: "fd_seek", Params: "iIii", Call: always(wasiBadf)},
		{Name: "fd_fdstat_get", Params: "ii", Call: always(wasiBadf)},
		{Name: "fd_fdstat_set_flags", Params: "ii", Call: always(wasiBadf)},
		{Name: "fd_prestat_get", Params: "ii", Call: always(wasiBadf)},
		{Name: "fd_prestat_dir_name", Params: "iii", Call: always(wasiBadf)},
	}
	for i := range fs {
		fs[i].Module, fs[i].Params = moduleWASI, types(fs[i].Params)
		if fs[i].Name != "proc_exit" {
			fs[i].Results = types("i")
		}
	}
	return fs
}

// clock is the watermark in ns since 1970, and never 0: Go's runtime takes a
// clock at 0 for a broken one.
func (h *host) clock() uint64 { return uint64(max(h.watermark, 1)) }

// fill writes the next bytes of splitmix64.
func (h *host) fill(b []byte) {
	var word [8]byte
	for len(b) > 0 {
		h.random += 0x9e3779b97f4a7c15
		z := h.random
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		binary.LittleEndian.PutUint64(word[:], z^z>>31)
		b = b[copy(b, word[:]):]
	}
}

// fdWrite logs what goes to standard output (info) and error (warn).
func (h *host) fdWrite(a []uint64) uint64 {
	fd, iovs, n, written := a[0], a[1], a[2], a[3]
	if fd != 1 && fd != 2 {
		return wasiBadf
	}
	if n > maxIOVecs {
		return wasiInval
	}
	vec := h.memory("fd_write", iovs, 8*n)
	var text []byte
	var total uint64
	for ; len(vec) >= 8; vec = vec[8:] {
		size := uint64(binary.LittleEndian.Uint32(vec[4:]))
		total += size
		b := h.memory("fd_write", uint64(binary.LittleEndian.Uint32(vec)), size)
		text = append(text, b[:min(len(b), maxLogLine-len(text))]...)
	}
	if out := h.memory("fd_write", written, 4); out != nil {
		binary.LittleEndian.PutUint32(out, uint32(total))
	}
	level := slog.LevelInfo
	if fd == 2 {
		level = slog.LevelWarn
	}
	if len(bytes.TrimRight(text, "\n")) > 0 && h.fault == nil {
		h.write(level, text)
	}
	return wasiOK
}

// pollOneoff says at once that every clock subscription is due: time stands
// still within a call, so waiting would never end. Files cannot be waited for.
func (h *host) pollOneoff(a []uint64) uint64 {
	const subscription, event = 48, 32
	n := a[2]
	if n == 0 || n > maxIOVecs {
		return wasiInval
	}
	in, out := h.memory("poll_oneoff", a[0], n*subscription), h.memory("poll_oneoff", a[1], n*event)
	count := h.memory("poll_oneoff", a[3], 4)
	if in == nil || out == nil || count == nil {
		return wasiInval
	}
	for i := range n {
		s, e := in[i*subscription:], out[i*event:(i+1)*event]
		clear(e)
		copy(e[:8], s[:8])
		e[10] = s[8]
		if s[8] != 0 {
			binary.LittleEndian.PutUint16(e[8:], wasiNotsup)
		}
	}
	binary.LittleEndian.PutUint32(count, uint32(n))
	return wasiOK
}
