package wasm

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// stateMagic begins a snapshot; its last byte is the format's version.
const stateMagic = "PSWASM\x00\x01"

// stateHeader is what a snapshot says before the guest's own bytes.
type stateHeader struct {
	Name      string `json:"name"`
	Version   string `json:"version"`
	Digest    string `json:"digest"` // of the module
	State     string `json:"state"`  // of its manifest
	Watermark int64  `json:"watermark"`
	Random    uint64 `json:"random"`
	Size      int    `json:"size"` // of the guest's bytes; -1 for a guest without state

	Debt        [numCalls]int `json:"debt"`           // of failures
	Tags        []byte        `json:"tags,omitempty"` // see tagLimit.log
	TagBytes    int           `json:"tag_bytes,omitempty"`
	Quarantined bool          `json:"quarantined,omitempty"`
	Why         string        `json:"why,omitempty"` // it was
}

// maxStateHeader has room for a million tags, and what JSON makes of them.
const maxStateHeader = 12 << 20

// maxState bounds what a guest may call its state: each checkpoint stores it.
const maxState = 32 << 20

// Snapshot writes, behind a header that names the module, what the guest says
// is its state. A guest that was lost to a trap has none; nor does one that
// fails to say it, which is a failure as one on a batch is, and goes on afresh:
// what follows is then the same as after a restart.
func (op *Operator) Snapshot(w io.Writer) error {
	h := stateHeader{Name: op.info.Manifest.Name, Version: op.info.Manifest.Version, Digest: op.info.Digest, State: op.info.Manifest.State, Size: -1}
	state, err := op.state()
	if err != nil {
		return err
	}
	if op.guest != nil {
		h.Size = len(state)
	}
	h.Tags, h.TagBytes = op.imp.log, op.imp.bytes
	h.Debt, h.Quarantined, h.Why = op.debt, op.quarantined, op.why
	h.Watermark, h.Random = op.host.watermark, op.host.random
	text, err := json.Marshal(h)
	if err != nil {
		return err
	}
	head := binary.LittleEndian.AppendUint32([]byte(stateMagic), uint32(len(text)))
	if _, err := w.Write(append(head, text...)); err != nil {
		return err
	}
	_, err = w.Write(state)
	return err
}

func (op *Operator) state() ([]byte, error) {
	err := op.givenUp("penstock_snapshot")
	if err == nil && op.guest == nil {
		return nil, nil
	}
	var state []byte
	if err == nil {
		g := op.guest
		err = op.Guarded(func() (err error) { state, err = g.state(); return err })
	}
	if err == nil {
		op.well(callSnapshot)
		return state, nil
	}
	var ge *guestError
	if errors.As(err, &ge) {
		ge.fatal = true
	}
	return nil, op.failed(err, callSnapshot, 0)
}

// Restore brings back what Snapshot wrote. State of another module is refused,
// and that of another build of it unless both manifests name the same layout of
// their state: only the module knows it.
func (op *Operator) Restore(r io.Reader) error {
	h, state, err := op.readState(r)
	if err != nil {
		return err
	}
	m := &op.info.Manifest
	if op.guest == nil {
		return errors.New("Restore comes before Open")
	}
	op.host.watermark = h.Watermark
	if h.Size >= 0 {
		g := op.guest
		if err := op.Guarded(func() error { return g.restoreFrom(state) }); err != nil {
			return fmt.Errorf("state of module %s: %w", m.Name, err)
		}
	}
	op.host.random = h.Random
	if h.Digest != op.info.Digest {
		return nil // what the other module has failed at is not held against this one
	}
	op.debt = h.Debt
	op.imp.remember(h.Tags, h.TagBytes)
	op.set(h.Quarantined, h.Why)
	if h.Quarantined {
		op.host.log.Error("module still in quarantine: it is not called any more; mend or replace it, a change of its settings ends this", "digest", op.info.Digest)
		return op.drop()
	}
	return nil
}

// Understands says why Restore would refuse this state, or nil. The module is
// not asked.
func (op *Operator) Understands(state []byte) error {
	_, _, err := op.readState(bytes.NewReader(state))
	return err
}

// readState reads a state and checks that this module is to understand it.
func (op *Operator) readState(r io.Reader) (stateHeader, []byte, error) {
	m := &op.info.Manifest
	h, state, err := readState(r, int64(op.cfg.Memory))
	switch {
	case err != nil:
		err = fmt.Errorf("state of module %s: %w", m.Name, err)
	case h.Name == m.Name && h.State == m.State && m.State != "":
	case h.Name != m.Name || h.Version != m.Version:
		err = fmt.Errorf("the state was written by module %s@%s, this is %s@%s%s", h.Name, h.Version, m.Name, m.Version, layouts(h, m))
	case h.Digest != op.info.Digest:
		err = fmt.Errorf("the state was written by another build of module %s@%s (digest %.12s, this is %.12s)%s", m.Name, m.Version, h.Digest, op.info.Digest, layouts(h, m))
	}
	return h, state, err
}

// layouts says what the manifests of two modules of one name would have to say for
// one to go on with the other's state.
func layouts(h stateHeader, m *Manifest) string {
	switch {
	case h.Name != m.Name:
		return ""
	case h.State == "" || m.State == "":
		return `: write the same "state" in both manifests, if the layout is the same`
	}
	return fmt.Sprintf(`, and the "state" of their manifests is %q and %q`, h.State, m.State)
}

func readState(r io.Reader, limit int64) (h stateHeader, state []byte, err error) {
	var head [len(stateMagic) + 4]byte
	if _, err = io.ReadFull(r, head[:]); err != nil {
		return h, nil, err
	}
	n := binary.LittleEndian.Uint32(head[len(stateMagic):])
	if !bytes.HasPrefix(head[:], []byte(stateMagic)) || n > maxStateHeader {
		return h, nil, errors.New("this is no state of a wasm operator")
	}
	text := make([]byte, n)
	if _, err = io.ReadFull(r, text); err != nil {
		return h, nil, err
	}
	if err = json.Unmarshal(text, &h); err != nil {
		return h, nil, err
	}
	if h.Size < 0 {
		return h, nil, nil
	}
	if int64(h.Size) > limit {
		return h, nil, fmt.Errorf("it has %d bytes, the memory limit is %d", h.Size, limit)
	}
	state = make([]byte, h.Size)
	_, err = io.ReadFull(r, state)
	return h, state, err
}
