// Package trust signs WebAssembly modules, checks their signatures, and says
// whether a module is trusted: one that is embedded in this program, or that a
// listed key signed. Nothing here needs a network.
//
// A signature (ed25519) stands in the last section of the .wasm and covers the
// SHA-256 of all bytes before that section, the manifest included. Several keys
// may sign, in any order; each signature covers the same bytes. So the digest
// of the file, which names a module everywhere else, changes with each
// signature; what was signed does not.
package trust

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/penstock/penstock/operators/modules"
	"github.com/penstock/penstock/pipeline"
)

// purpose is signed before the digest, so that a signature says nothing about
// anything else that the key may sign.
const purpose = "penstock.signature 1\n"

func message(code []byte) []byte {
	digest := sha256.Sum256(code)
	return append([]byte(purpose), digest[:]...)
}

// Signature is one signature of a module.
type Signature struct {
	Key   pipeline.ModuleKey // without a name: the module does not hold any
	Valid bool
}

// Sign returns module with a signature by key; one that this key made before
// is replaced. Signatures that do not hold are an error: [Strip] removes them.
func Sign(module []byte, key ed25519.PrivateKey) ([]byte, error) {
	if _, err := Verify(module); err != nil {
		return nil, err
	}
	s, err := split(module)
	if err != nil {
		return nil, err
	}
	by := PublicKey(key, "").Public
	s.entries = slices.DeleteFunc(s.entries, func(e []byte) bool { return by.Equal(public(e)) })
	if len(s.entries) == maxSignatures {
		return nil, fmt.Errorf("the module has %d signatures, which is the most that it can have", maxSignatures)
	}
	s.entries = append(s.entries, append(slices.Clone(by), ed25519.Sign(key, message(s.code))...))
	return s.module(), nil
}

// Verify checks every signature of module; none is fine. When one does not
// hold, or the section is damaged, that is an error: such a module is never
// the same as one without a signature. The list is complete unless the section
// is damaged. Who owns a key is not known here: see [Check].
func Verify(module []byte) ([]Signature, error) {
	s, err := split(module)
	if err != nil || len(s.entries) == 0 {
		return nil, err
	}
	text := message(s.code)
	var list []Signature
	var errs []error
	for _, e := range s.entries {
		sig := Signature{Key: pipeline.ModuleKey{Public: slices.Clone(public(e))}}
		sig.Valid = ed25519.Verify(sig.Key.Public, text, e[ed25519.PublicKeySize:])
		if !sig.Valid {
			errs = append(errs, fmt.Errorf("the signature of %s does not hold: the module, or the signature, was changed after signing", sig.Key))
		}
		list = append(list, sig)
	}
	return list, errors.Join(errs...)
}

// Strip returns module without its signatures, whether they hold or not. It
// shares the memory of module.
func Strip(module []byte) ([]byte, error) {
	start, _, err := find(module)
	if err != nil || start < 0 {
		return module, err
	}
	return module[:start:start], nil
}

// Status is what is known of where a module comes from.
type Status struct {
	// Shipped: it is one of those that are embedded in this program.
	Shipped bool
	// Signatures all hold. Keys that are trusted have their name.
	Signatures []Signature
	// By is the first trusted key that signed it, or nil.
	By *pipeline.ModuleKey
}

// Check verifies module's signatures and looks for trusted keys among them. An
// error is a signature that does not hold, whoever made it.
func Check(module []byte, trusted []pipeline.ModuleKey) (Status, error) {
	list, err := Verify(module)
	if err != nil {
		return Status{}, err
	}
	code, err := Strip(module)
	if err != nil {
		return Status{}, err
	}
	st := Status{Shipped: modules.Shipped(code), Signatures: list}
	for i := range list {
		k := slices.IndexFunc(trusted, func(k pipeline.ModuleKey) bool { return k.Public.Equal(list[i].Key.Public) })
		if k < 0 {
			continue
		}
		list[i].Key = trusted[k]
		if st.By == nil {
			st.By = &list[i].Key
		}
	}
	return st, nil
}

// Trusted reports whether the module is shipped or a trusted key signed it.
func (s Status) Trusted() bool { return s.Shipped || s.By != nil }

// String completes the sentence "the module is ...".
func (s Status) String() string {
	switch {
	case s.Shipped:
		return "shipped with Penstock"
	case s.By != nil:
		return "signed by " + s.By.String()
	case len(s.Signatures) == 0:
		return "not signed"
	}
	keys := make([]string, len(s.Signatures))
	for i := range s.Signatures {
		keys[i] = s.Signatures[i].Key.String()
	}
	return "signed by no trusted key (but by " + strings.Join(keys, ", ") + ")"
}
