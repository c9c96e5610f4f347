package trust

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
)

// Section is the name of the custom section that holds the signatures. It is
// the last of the module. Its content is one entry per signature, the public
// key (32 bytes) and the signature (64 bytes), and after them the 8 bytes of
// the trailer, which are the last of the file.
const Section = "penstock.signature"

// The trailer makes a section whose name is damaged known for what it is.
const trailer = "pskSIGN1"

const (
	maxSignatures = 16
	entrySize     = ed25519.PublicKeySize + ed25519.SignatureSize
)

var magic = []byte("\x00asm\x01\x00\x00\x00")

// signed is a module taken apart: what is signed, and the signatures, unchecked.
type signed struct {
	code    []byte
	entries [][]byte
}

func split(module []byte) (signed, error) {
	start, content, err := find(module)
	if err != nil {
		return signed{}, err
	}
	if start < 0 {
		if bytes.HasSuffix(module, []byte(trailer)) {
			return signed{}, errors.New("the signature is damaged: the name of its section is not " + Section)
		}
		return signed{code: module}, nil
	}
	s := signed{code: module[:start:start]}
	list, ok := bytes.CutSuffix(content, []byte(trailer))
	if !ok || len(list)%entrySize != 0 || len(list) == 0 || len(list) > maxSignatures*entrySize {
		return signed{}, fmt.Errorf("the signature is damaged: its section does not hold 1 to %d signatures of %d bytes and the end mark", maxSignatures, entrySize)
	}
	for e := range slices.Chunk(list, entrySize) {
		if slices.ContainsFunc(s.entries, func(o []byte) bool { return bytes.Equal(public(o), public(e)) }) {
			return signed{}, errors.New("the signature is damaged: it holds two of one key")
		}
		s.entries = append(s.entries, e)
	}
	if !bytes.Equal(s.section(), module[start:]) { // there is one way to write it
		return signed{}, errors.New("the signature is damaged: its section is not written as Penstock writes it")
	}
	return s, nil
}

func public(entry []byte) ed25519.PublicKey { return entry[:ed25519.PublicKeySize] }

// section is the custom section with all entries.
func (s signed) section() []byte {
	body := append([]byte{byte(len(Section))}, Section...)
	for _, e := range s.entries {
		body = append(body, e...)
	}
	body = append(body, trailer...)
	out := binary.AppendUvarint([]byte{0}, uint64(len(body)))
	return append(out, body...)
}

func (s signed) module() []byte { return append(slices.Clone(s.code), s.section()...) }

// find returns where the signature section begins and what it holds, or -1. It
// looks at the frame of every section: id, length, and the name of custom ones.
func find(module []byte) (start int, content []byte, err error) {
	damaged := func(what string) (int, []byte, error) {
		return -1, nil, errors.New("the module is damaged: " + what)
	}
	if !bytes.HasPrefix(module, magic) {
		return -1, nil, errors.New("this is not a WebAssembly core module (version 1): the first 8 bytes are not \\0asm 1 0 0 0")
	}
	for at := len(magic); at < len(module); {
		id, rest := module[at], module[at+1:]
		size, n := uint32At(rest)
		if n == 0 || uint64(size) > uint64(len(rest)-n) {
			return damaged("a section reaches past its end")
		}
		body := rest[n : n+int(size)]
		next := at + 1 + n + int(size)
		if id == 0 {
			length, n := uint32At(body)
			if n == 0 || uint64(length) > uint64(len(body)-n) {
				return damaged("a custom section has no name")
			}
			if string(body[n:n+int(length)]) == Section {
				if next != len(module) {
					return -1, nil, errors.New("the module was changed after it was signed: there are sections behind its signature")
				}
				return at, body[n+int(length):], nil
			}
		}
		at = next
	}
	return -1, nil, nil
}

// uint32At reads a LEB128 number and how many bytes it has, 0 when it is none.
func uint32At(b []byte) (uint32, int) {
	v, n := binary.Uvarint(b[:min(len(b), 5)])
	if n <= 0 || v > math.MaxUint32 {
		return 0, 0
	}
	return uint32(v), n
}
