package trust

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/penstock/penstock/pipeline"
)

// maxKeyFile bounds a key file, in bytes.
const maxKeyFile = 64 << 10

const pemType = "PRIVATE KEY" // PKCS#8

// GenerateKey makes a key to sign modules with.
func GenerateKey() (ed25519.PrivateKey, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	return key, err
}

// PublicKey is the public half of key, with a name for people.
func PublicKey(key ed25519.PrivateKey, name string) pipeline.ModuleKey {
	return pipeline.ModuleKey{Public: key.Public().(ed25519.PublicKey), Name: name}
}

// WriteKey writes base.key (PEM, PKCS#8, readable by the owner only) and
// base.pub (one line of text) and returns the public key, which is named after
// base. It overwrites neither file.
func WriteKey(base string, key ed25519.PrivateKey) (pipeline.ModuleKey, error) {
	public := PublicKey(key, filepath.Base(base))
	line := []byte(public.String() + "\n")
	if err := new(pipeline.ModuleKey).UnmarshalText(line); err != nil {
		return public, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return public, err
	}
	if err := create(base+".key", pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}), 0o600); err != nil {
		return public, err
	}
	if err := create(base+".pub", line, 0o644); err != nil {
		return public, errors.Join(err, os.Remove(base+".key"))
	}
	return public, nil
}

// create writes a file that must not be there yet, or leaves none.
func create(path string, data []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s exists already: a key is never overwritten; choose another name, or move it away", path)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// ReadPrivateKey reads a key file: PEM, PKCS#8, ed25519, without a password.
func ReadPrivateKey(path string) (ed25519.PrivateKey, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != pemType {
		return nil, fmt.Errorf("%s holds no private key (PEM, PKCS#8, no password): make one with penstock operator keygen", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: the private key is damaged: %w", path, err)
	}
	k, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s holds a key of another kind than ed25519: make one with penstock operator keygen", path)
	}
	return k, nil
}

// ReadPublicKey reads a .pub file.
func ReadPublicKey(path string) (k pipeline.ModuleKey, err error) {
	data, err := readFile(path)
	if err != nil {
		return k, err
	}
	if err := k.UnmarshalText(data); err != nil {
		return k, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err == nil && len(data) > maxKeyFile {
		err = fmt.Errorf("%s is larger than %v: it is no key", path, pipeline.ByteSize(maxKeyFile))
	}
	return data, err
}
