//go:build wasip1

package penstock

import (
	"encoding/binary"
	"errors"
	"strings"
	"unsafe"
)

// tags are the tags and their states, in the order in which they were first
// seen.
var tags struct {
	names    []string
	states   [][]byte
	index    map[string]int
	snapshot []byte
}

// stateOf returns the state of the tag, a new one if need be.
func stateOf(tag string) []byte {
	i, ok := tags.index[tag]
	if !ok {
		if tags.index == nil {
			tags.index = map[string]int{}
		}
		i, tag = len(tags.names), strings.Clone(tag)
		tags.index[tag] = i
		tags.names = append(tags.names, tag)
		tags.states = append(tags.states, self.newState())
	}
	return tags.states[i]
}

const magic = "PENSTAT1"

func padded(n int) int { return (n + 7) &^ 7 }

// snapshot: little endian, the same in every SDK: "PENSTAT1", the size of a
// state and the number of tags (4 bytes each); for each tag the length of its
// name (8 bytes), the name filled up with zeros to 8 bytes, and its state,
// likewise.
//
//go:wasmexport penstock_snapshot
func snapshot(out uint32) int32 {
	b := append(tags.snapshot[:0], magic...)
	b = binary.LittleEndian.AppendUint32(b, uint32(self.stateSize))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(tags.names)))
	var zero [8]byte
	for i, name := range tags.names {
		b = binary.LittleEndian.AppendUint64(b, uint64(len(name)))
		b = append(append(b, name...), zero[:padded(len(name))-len(name)]...)
		b = append(append(b, tags.states[i]...), zero[:padded(self.stateSize)-self.stateSize]...)
	}
	tags.snapshot = b
	*(*buf)(at(out)) = buf{ptr(unsafe.SliceData(b)), uint32(len(b))}
	return 0
}

//go:wasmexport penstock_restore
func restoreFrom(p, n uint32) int32 { return status(restore(bytesAt(p, int(n)))) }

func restore(b []byte) error {
	if len(tags.names) > 0 {
		return errors.New("restore into a module that has tags already")
	}
	if len(b) < 16 || string(b[:8]) != magic {
		return errors.New("the snapshot is not one of a module's states")
	}
	if binary.LittleEndian.Uint32(b[8:]) != uint32(self.stateSize) {
		return errors.New("the snapshot's states have another size")
	}
	count, room := binary.LittleEndian.Uint32(b[12:]), padded(self.stateSize)
	b = b[16:]
	for i := range int(count) {
		var size uint64
		if len(b) >= 8 {
			size = binary.LittleEndian.Uint64(b)
		}
		if len(b) < 8 || size > uint64(len(b)) || 8+padded(int(size))+room > len(b) {
			return errors.New("the snapshot ends in the middle of a tag")
		}
		state := stateOf(string(b[8 : 8+size]))
		if len(tags.names) != i+1 {
			return errors.New("the snapshot has a tag twice")
		}
		b = b[8+padded(int(size)):]
		copy(state, b)
		b = b[room:]
	}
	if len(b) > 0 {
		return errors.New("the snapshot has bytes left over")
	}
	return nil
}
