package sdk

import (
	"regexp"
	"slices"

	"github.com/penstock/penstock/operators/wasm"
)

// emptyDigest matches in JSON text only a key: a quote within a text has a
// backslash before it.
var emptyDigest = regexp.MustCompile(`"digest"(\s*:\s*)""`)

// FillDigests puts the digests of the named vectors of m where the manifest's
// text has empty ones, and leaves its layout alone. It returns false when the text
// does not have such a place for each of them.
func FillDigests(text []byte, m *wasm.Manifest, names []string) ([]byte, bool) {
	var digests []string
	for _, g := range m.Golden {
		if slices.Contains(names, g.Name) {
			digests = append(digests, g.Digest)
		}
	}
	if len(digests) == 0 || len(emptyDigest.FindAll(text, -1)) != len(digests) {
		return nil, false
	}
	return emptyDigest.ReplaceAllFunc(text, func(b []byte) []byte {
		d := digests[0]
		digests = digests[1:]
		return append(append([]byte{}, b[:len(b)-2]...), `"`+d+`"`...)
	}), true
}
