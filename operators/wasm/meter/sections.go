package meter

import (
	"encoding/binary"

	"github.com/penstock/penstock/operators/wasm/binfmt"
)

// order is that in which sections come, by their number; custom ones (0) are
// anywhere.
var order = [...]int{
	binfmt.SecType: 1, binfmt.SecImport: 2, binfmt.SecFunc: 3, binfmt.SecTable: 4, binfmt.SecMemory: 5, binfmt.SecTag: 6, binfmt.SecGlobal: 7,
	binfmt.SecExport: 8, binfmt.SecStart: 9, binfmt.SecElem: 10, binfmt.SecCount: 11, binfmt.SecCode: 12, binfmt.SecData: 13,
}

// module puts the new sections in the places of the old ones.
func (w *writer) module(module []byte, secs []binfmt.Section) []byte {
	out := append(make([]byte, 0, len(module)+len(w.code)), binfmt.Magic...)
	write := func(id byte, body []byte) {
		out = binfmt.AppendU32(append(out, id), uint32(len(body)))
		out = append(out, body...)
	}
	missing := []byte{binfmt.SecType, binfmt.SecFunc, binfmt.SecGlobal, binfmt.SecExport, binfmt.SecCode} // which are needed, in order
	fill := func(before int) {
		for len(missing) > 0 && order[missing[0]] < before {
			write(missing[0], w.section(missing[0], []byte{0}))
			missing = missing[1:]
		}
	}
	for _, s := range secs {
		if s.ID != binfmt.SecCustom && int(s.ID) < len(order) {
			fill(order[s.ID])
		}
		if len(missing) > 0 && s.ID == missing[0] {
			missing = missing[1:]
		}
		switch s.ID {
		case binfmt.SecType, binfmt.SecFunc, binfmt.SecGlobal, binfmt.SecExport, binfmt.SecCode:
			write(s.ID, w.section(s.ID, s.Body))
		case binfmt.SecStart:
		default:
			out = append(out, module[s.Start:s.End]...)
		}
	}
	fill(len(order))
	return out
}

// section appends what is new to a section that begins with a number of
// entries.
func (w *writer) section(id byte, body []byte) []byte {
	had, n := binary.Uvarint(body)
	body = body[n:]
	var entries [][]byte // new ones
	switch id {
	case binfmt.SecType:
		for _, t := range w.types[len(w.o.Types):] {
			e := binfmt.AppendU32([]byte{0x60}, uint32(len(t.Params)))
			e = binfmt.AppendU32(append(e, t.Params...), uint32(len(t.Results)))
			entries = append(entries, append(e, t.Results...))
		}
	case binfmt.SecFunc:
		entries = append(entries, binfmt.AppendU32(nil, w.refuelType))
	case binfmt.SecCode:
		refuel := binfmt.AppendU32([]byte{0, 0x20, 0, 0x24}, w.fuel) // no locals; the parameter to the global
		refuel = append(refuel, 0x0b)
		body = w.code
		entries = append(entries, append(binfmt.AppendU32(nil, uint32(len(refuel))), refuel...))
	case binfmt.SecGlobal:
		entries = append(entries,
			append(appendS64([]byte{binfmt.I64, 1, 0x42}, StartFuel), 0x0b),
			append(appendS64([]byte{binfmt.I32, 1, 0x41}, StackSlots), 0x0b))
	case binfmt.SecExport:
		entries = append(entries, export(FuelGlobal, binfmt.KindGlobal, w.fuel), export(StackGlobal, binfmt.KindGlobal, w.stack),
			export(RefuelFunction, binfmt.KindFunc, uint32(len(w.o.Funcs))))
		if w.o.HasStart {
			entries = append(entries, export(StartFunction, binfmt.KindFunc, w.o.Start))
		}
	}
	out := binfmt.AppendU32(nil, uint32(had)+uint32(len(entries)))
	out = append(out, body...)
	for _, e := range entries {
		out = append(out, e...)
	}
	return out
}

func export(name string, kind byte, index uint32) []byte {
	b := append(binfmt.AppendU32(nil, uint32(len(name))), name...)
	return binfmt.AppendU32(append(b, kind), index)
}
