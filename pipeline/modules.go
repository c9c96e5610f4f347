package pipeline

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Modules says which Wasm modules are trusted, and what becomes of the others.
// The modules that are embedded in the program are trusted always.
type Modules struct {
	// Trust lists the public keys whose modules are trusted, as `penstock
	// operator keygen` writes them: "ed25519:BASE64 name", or
	// "${file:/path/name.pub}".
	Trust []ModuleKey `yaml:"trust"`
	// Unsigned says what becomes of a module that is neither shipped nor signed
	// by a key in trust: sandbox runs it on wazero, refuse is an error.
	Unsigned Unsigned `yaml:"unsigned"`
}

// ModuleUser is a component config that runs modules. It is given the
// pipeline's section `modules` before it is validated.
type ModuleUser interface{ UseModules(Modules) }

// Unsigned is what becomes of modules that nobody vouches for.
type Unsigned string

const (
	UnsignedSandbox Unsigned = "sandbox"
	UnsignedRefuse  Unsigned = "refuse"
)

// Enum lists the values.
func (Unsigned) Enum() []string { return []string{string(UnsignedSandbox), string(UnsignedRefuse)} }

// DefaultModules is used where the YAML is silent.
func DefaultModules() Modules { return Modules{Unsigned: UnsignedSandbox} }

// Validate checks that no key is listed twice.
func (m *Modules) Validate(p *Problems) {
	for i := range m.Trust {
		for j := range i {
			if m.Trust[i].Public.Equal(m.Trust[j].Public) {
				p.Add(fmt.Sprintf("trust[%d]", i), fmt.Sprintf("this key is trust[%d] already", j), "remove one of the two")
			}
		}
	}
}

// ModuleKey is the public key of somebody who signs modules. Its text is one
// line: "ed25519:BASE64 name".
type ModuleKey struct {
	Public ed25519.PublicKey
	Name   string // for people; may be empty
}

const (
	keyPrefix  = "ed25519:"
	maxKeyName = 128
)

// ID is the key's text without the name.
func (k ModuleKey) ID() string { return keyPrefix + base64.StdEncoding.EncodeToString(k.Public) }

// String is the key's text.
func (k ModuleKey) String() string { return strings.TrimSpace(k.ID() + " " + k.Name) }

// MarshalText returns the key's text.
func (k ModuleKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads the key's text. Its errors do not show it: somebody may
// have put a private key there.
func (k *ModuleKey) UnmarshalText(text []byte) error {
	s := strings.TrimSpace(string(text))
	if strings.Contains(s, "PRIVATE KEY") {
		return errors.New("this is a private key, which only signing needs: write the public one, from the .pub file that was made with it")
	}
	id, name, _ := strings.Cut(s, " ")
	name = strings.TrimSpace(name)
	digits, ok := strings.CutPrefix(id, keyPrefix)
	raw, err := base64.StdEncoding.Strict().DecodeString(digits)
	if !ok || err != nil || len(raw) != ed25519.PublicKeySize || strings.ContainsAny(digits, "\r\n") {
		return errors.New(`this is not a public key: write "ed25519:", 44 characters of base64, a space and a name, as the .pub file of penstock operator keygen has them`)
	}
	if len(name) > maxKeyName || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
		return fmt.Errorf("the key's name is not one line of at most %d bytes", maxKeyName)
	}
	*k = ModuleKey{Public: raw, Name: name}
	return nil
}
