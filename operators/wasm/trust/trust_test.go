package trust

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/operators/modules"
	"github.com/penstock/penstock/pipeline"
)

// key is a private key that is the same in each run.
func key(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return b
}

// foreign is a small module that is not shipped.
func foreign(t testing.TB) []byte { return read(t, "../testdata/empty.wasm") }

func sign(t testing.TB, module []byte, keys ...ed25519.PrivateKey) []byte {
	t.Helper()
	for _, k := range keys {
		var err error
		module, err = Sign(module, k)
		require.NoError(t, err)
	}
	return module
}

func TestSignAndVerify(t *testing.T) {
	module := foreign(t)
	before := bytes.Clone(module)
	one := sign(t, module, key(1))
	two := sign(t, one, key(2))
	require.Equal(t, before, module, "the argument is not changed")
	require.True(t, bytes.HasPrefix(one, module))

	for _, c := range []struct {
		module []byte
		by     []ed25519.PrivateKey
	}{{module, nil}, {one, []ed25519.PrivateKey{key(1)}}, {two, []ed25519.PrivateKey{key(1), key(2)}}} {
		list, err := Verify(c.module)
		require.NoError(t, err)
		require.Len(t, list, len(c.by))
		for i, s := range list {
			require.True(t, s.Valid)
			require.Equal(t, PublicKey(c.by[i], "").ID(), s.Key.ID())
		}
		plain, err := Strip(c.module)
		require.NoError(t, err)
		require.Equal(t, module, plain)
	}
	// The same key again changes nothing but the order; the order changes no signature.
	require.Equal(t, one, sign(t, one, key(1)))
	require.Equal(t, sign(t, module, key(2), key(1)), sign(t, two, key(1)))
}

func TestCheck(t *testing.T) {
	a, b := PublicKey(key(1), "a"), PublicKey(key(2), "b")
	both := sign(t, foreign(t), key(1), key(2))
	shipped, ok := modules.Get("ewma")
	require.True(t, ok)
	for _, c := range []struct {
		what    string
		module  []byte
		keys    []pipeline.ModuleKey
		trusted bool
		says    string
	}{
		{"unsigned", foreign(t), []pipeline.ModuleKey{a}, false, "not signed"},
		{"no list", both, nil, false, "signed by no trusted key (but by " + a.ID() + ", " + b.ID() + ")"},
		{"another key", sign(t, foreign(t), key(3)), []pipeline.ModuleKey{a, b}, false, "signed by no trusted key (but by " + PublicKey(key(3), "").ID() + ")"},
		{"second key", both, []pipeline.ModuleKey{b}, true, "signed by " + b.ID() + " b"},
		{"both", both, []pipeline.ModuleKey{b, a}, true, "signed by " + a.ID() + " a"},
		{"an empty key of a list with errors", both, []pipeline.ModuleKey{{}}, false, "signed by no trusted key (but by " + a.ID() + ", " + b.ID() + ")"},
		{"shipped", shipped, nil, true, "shipped with Penstock"},
		{"shipped, signed by a stranger", sign(t, shipped, key(3)), nil, true, "shipped with Penstock"},
		{"almost shipped", append(bytes.Clone(shipped), 0, 2, 1, 'x'), nil, false, "not signed"},
	} {
		st, err := Check(c.module, c.keys)
		require.NoError(t, err, c.what)
		require.Equal(t, c.trusted, st.Trusted(), c.what)
		require.Equal(t, c.says, st.String(), c.what)
	}
}

// Whatever bit of a signed module is flipped, in whatever section, frames and
// signature included: it is an error, never an unsigned module.
func TestNoBitCanChange(t *testing.T) {
	plain := read(t, "../testdata/tally.wasm") // types, imports, functions, table, memory, globals, exports, code, data, manifest
	for name, module := range map[string][]byte{"one": sign(t, plain, key(1)), "two": sign(t, plain, key(1), key(2))} {
		for at := range module {
			for bit := range 8 {
				if bit != at%8 && at < len(plain) {
					continue // one bit of each byte that is signed, all of what is not
				}
				bad := bytes.Clone(module)
				bad[at] ^= 1 << bit
				_, err := Check(bad, []pipeline.ModuleKey{PublicKey(key(1), ""), PublicKey(key(2), "")})
				require.Error(t, err, "%s: bit %d of byte %d", name, bit, at)
			}
		}
		for n := range module {
			_, err := Check(module[:n], nil)
			if n == len(plain) || err != nil {
				continue
			}
			// What ends at a section's end is a module; it has no signature.
			st, err := Check(module[:n], []pipeline.ModuleKey{PublicKey(key(1), "")})
			require.NoError(t, err)
			require.False(t, st.Trusted())
			require.Less(t, n, len(plain), "%s: cut at byte %d", name, n)
		}
	}
}

// sectionWith is a custom section.
func sectionWith(name string, content []byte) []byte {
	body := append(binary.AppendUvarint(nil, uint64(len(name))), name...)
	body = append(body, content...)
	return append(binary.AppendUvarint([]byte{0}, uint64(len(body))), body...)
}

func TestDamage(t *testing.T) {
	plain := foreign(t)
	module := sign(t, plain, key(1))
	other := read(t, "../testdata/tally.wasm")
	s, err := split(module)
	require.NoError(t, err)
	entry := s.entries[0]
	end := []byte(trailer)
	for _, c := range []struct {
		what   string
		module []byte
		says   string
	}{
		{"a section behind", append(bytes.Clone(module), sectionWith("x", nil)...), "sections behind its signature"},
		{"its signature twice", append(bytes.Clone(module), s.section()...), "sections behind its signature"},
		{"the signature of another module", append(bytes.Clone(other), s.section()...), "was changed after signing"},
		{"a section before the signature", append(append(bytes.Clone(plain), sectionWith("x", nil)...), s.section()...), "was changed after signing"},
		{"no entry", append(bytes.Clone(plain), sectionWith(Section, end)...), "1 to 16 signatures"},
		{"empty", append(bytes.Clone(plain), sectionWith(Section, nil)...), "1 to 16 signatures"},
		{"half an entry", append(bytes.Clone(plain), sectionWith(Section, append(bytes.Clone(entry[:50]), end...))...), "1 to 16 signatures"},
		{"17 entries", append(bytes.Clone(plain), sectionWith(Section, append(bytes.Repeat(entry, 17), end...))...), "1 to 16 signatures"},
		{"one entry twice", append(bytes.Clone(plain), sectionWith(Section, append(bytes.Repeat(entry, 2), end...))...), "two of one key"},
		{"no end mark", append(bytes.Clone(plain), sectionWith(Section, entry)...), "end mark"},
		{"another name", append(bytes.Clone(plain), sectionWith("penstock.signatures", append(bytes.Clone(entry), end...))...), "name of its section"},
		{"a long length", append(bytes.Clone(plain), append([]byte{0, 0xfb, 0x80, 0}, s.section()[2:]...)...), "not written as"},
		{"not a module", []byte("#!/bin/sh"), "not a WebAssembly core module"},
		{"nothing", nil, "not a WebAssembly core module"},
		{"a cut section", plain[:len(plain)-1], "reaches past its end"},
		{"a custom section without a name", append(bytes.Clone(plain), 0, 1, 9), "no name"},
	} {
		_, err := Verify(c.module)
		require.ErrorContains(t, err, c.says, c.what)
		_, err = Check(c.module, []pipeline.ModuleKey{PublicKey(key(1), "")})
		require.ErrorContains(t, err, c.says, c.what)
		_, err = Sign(c.module, key(2))
		require.ErrorContains(t, err, c.says, c.what)
	}
	// One that holds does not help one that does not.
	two := sign(t, plain, key(1), key(2))
	two[len(two)-len(trailer)-1] ^= 1
	list, err := Verify(two)
	require.ErrorContains(t, err, PublicKey(key(2), "").ID()+" does not hold")
	require.Equal(t, []bool{true, false}, []bool{list[0].Valid, list[1].Valid})
	// Strip removes what does not hold.
	got, err := Strip(two)
	require.NoError(t, err)
	require.Equal(t, plain, got)
}

func TestSixteenSignatures(t *testing.T) {
	module := foreign(t)
	for n := range byte(maxSignatures) {
		module = sign(t, module, key(n))
	}
	list, err := Verify(module)
	require.NoError(t, err)
	require.Len(t, list, maxSignatures)
	_, err = Sign(module, key(99))
	require.ErrorContains(t, err, "16 signatures")
	sign(t, module, key(3)) // one that it has is replaced
}

func TestKeyFiles(t *testing.T) {
	base := filepath.Join(t.TempDir(), "ops")
	k, err := GenerateKey()
	require.NoError(t, err)
	public, err := WriteKey(base, k)
	require.NoError(t, err)
	require.Equal(t, "ops", public.Name)
	st, err := os.Stat(base + ".key")
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), st.Mode().Perm())
	require.Regexp(t, `^ed25519:[A-Za-z0-9+/]{43}= ops\n$`, string(read(t, base+".pub")))

	again, err := ReadPrivateKey(base + ".key")
	require.NoError(t, err)
	require.True(t, k.Equal(again))
	pub, err := ReadPublicKey(base + ".pub")
	require.NoError(t, err)
	require.Equal(t, public, pub)
	signed := sign(t, foreign(t), again)
	status, err := Check(signed, []pipeline.ModuleKey{pub})
	require.NoError(t, err)
	require.True(t, status.Trusted())

	// Neither file is overwritten, and no half of a pair is left.
	for _, kept := range []string{".key", ".pub"} {
		other := filepath.Join(t.TempDir(), "ops")
		require.NoError(t, os.WriteFile(other+kept, []byte("mine"), 0o600))
		_, err = WriteKey(other, k)
		require.ErrorContains(t, err, other+kept+" exists already")
		require.Equal(t, "mine", string(read(t, other+kept)))
		files, err := filepath.Glob(other + "*")
		require.NoError(t, err)
		require.Equal(t, []string{other + kept}, files)
	}
	_, err = WriteKey(base+"\n2", k)
	require.ErrorContains(t, err, "not one line")

	bad := base + ".bad"
	for _, c := range []struct{ text, says string }{
		{"", "holds no private key"},
		{string(read(t, base+".pub")), "holds no private key"},
		{string(pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: []byte("x")})), "damaged"},
		{string(make([]byte, maxKeyFile+1)), "larger than 64KiB"},
	} {
		require.NoError(t, os.WriteFile(bad, []byte(c.text), 0o600))
		_, err = ReadPrivateKey(bad)
		require.ErrorContains(t, err, c.says)
	}
	_, err = ReadPublicKey(base + ".key")
	require.ErrorContains(t, err, "this is a private key")
	require.NotContains(t, err.Error(), "MC4C", "nothing of the key is shown")
	_, err = ReadPublicKey(base + ".none")
	require.ErrorIs(t, err, os.ErrNotExist)
}

// FuzzVerify: no module, however damaged, makes it panic, and a valid signature
// of a key means that this key signed these very bytes.
func FuzzVerify(f *testing.F) {
	plain := foreign(f)
	f.Add(plain)
	f.Add(sign(f, plain, key(1)))
	f.Add(sign(f, plain, key(1), key(2)))
	f.Add(sign(f, magic, key(1)))
	f.Add(append(bytes.Clone(magic), sectionWith(Section, nil)...))
	signed := [][]byte{plain, magic}
	trusted := []pipeline.ModuleKey{PublicKey(key(1), "a"), PublicKey(key(2), "b")}
	f.Fuzz(func(t *testing.T, module []byte) {
		st, err := Check(module, trusted)
		if err != nil {
			return
		}
		code, err := Strip(module)
		require.NoError(t, err)
		if st.By != nil {
			require.True(t, bytes.Equal(code, signed[0]) || bytes.Equal(code, signed[1]), "trusted, but nobody signed it")
		}
		again, err := Sign(module, key(3))
		if len(st.Signatures) == maxSignatures {
			return
		}
		require.NoError(t, err)
		list, err := Verify(again)
		require.NoError(t, err)
		require.Len(t, list, len(st.Signatures)+1)
	})
}
