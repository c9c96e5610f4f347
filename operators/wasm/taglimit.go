package wasm

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/apache/arrow/go/v17/arrow/array"
)

// maxTag bounds the name of a tag, maxMade the names of all that a module makes:
// many keep them for good.
const (
	maxTag  = 4096
	maxMade = 32 << 20
)

// tagLimit bounds the tags that a module makes. Those of the batch at hand are
// others' and do not count.
type tagLimit struct {
	given []exportColumn // the columns of the batch at hand; nil is none
	most  int
	made  map[uint64]struct{} // hashes of the tags of all calls so far
	log   []byte              // the same, 8 bytes each, in the order in which they came
	bytes int                 // of their names
}

// count takes the tags that names has, which all are in tags too, and changes those.
func (l *tagLimit) count(names *array.String, tags map[string]struct{}) error {
	for i := range l.given {
		c := &l.given[i]
		if c.dict == 0 || len(tags) == 0 {
			continue
		}
		for _, v := range c.runs {
			delete(tags, c.strs.Value(int(v)))
		}
	}
	if len(tags) == 0 {
		return nil
	}
	var fresh []uint64
	bytes := l.bytes
	for i := range names.Len() {
		if _, own := tags[names.Value(i)]; !own {
			continue
		}
		// Nobody can make many names of one hash.
		sum := sha256.Sum256(names.ValueBytes()[names.ValueOffset(i)-names.ValueOffset(0):][:names.ValueLen(i)])
		if h := binary.LittleEndian.Uint64(sum[:]); !l.has(h) {
			fresh = append(fresh, h)
			bytes += names.ValueLen(i)
		}
	}
	if n := len(l.made) + len(fresh); n > l.most {
		return fmt.Errorf("it has made %d tags by now, the limit is %d (max_tags)", n, l.most)
	}
	if bytes > maxMade {
		return fmt.Errorf("the tags that it has made by now have %d bytes, the limit is %d", bytes, maxMade)
	}
	l.bytes = bytes
	for _, h := range fresh {
		l.add(h)
	}
	return nil
}

func (l *tagLimit) has(h uint64) bool { _, ok := l.made[h]; return ok }

func (l *tagLimit) add(h uint64) {
	if l.made == nil {
		l.made = map[uint64]struct{}{}
	}
	l.made[h] = struct{}{}
	l.log = binary.LittleEndian.AppendUint64(l.log, h)
}

// remember takes back what log and bytes were.
func (l *tagLimit) remember(log []byte, bytes int) {
	l.made, l.log, l.bytes = nil, nil, bytes
	for ; len(log) >= 8; log = log[8:] {
		l.add(binary.LittleEndian.Uint64(log))
	}
}
