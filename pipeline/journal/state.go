package journal

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// State keeps the newest value of each key: checkpoints and positions. Safe
// for concurrent use.
type State struct {
	js     jetstream.JetStream
	stream jetstream.Stream
	name   string
}

// OpenState opens or creates the stream of a State.
func OpenState(ctx context.Context, js jetstream.JetStream, name string) (*State, error) {
	st, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: name, Subjects: []string{name + ".>"}, Storage: jetstream.FileStorage, MaxMsgsPerSubject: 1, AllowDirect: true,
	})
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", name, err)
	}
	return &State{js: js, stream: st, name: name}, nil
}

// tries is how often Put is attempted, each for about five seconds: a disk may
// stall for a while.
const tries = 3

// partSize is how much of a value one message holds: the server's files hold no
// record above 32 MiB.
const partSize = 16 << 20

// manifest is what stands for a value in parts: the newest of its subject says
// which of two sets of parts is whole, so that a value is there at once or not
// at all. A gob never begins so.
type manifest struct {
	Set   int      `json:"set"` // 0 or 1
	Parts int      `json:"parts"`
	Sum   [32]byte `json:"sum"` // SHA-256
}

const manifestMagic = "\x00parts\x00"

// Put stores the value of key. Values of the same key come from one goroutine
// at a time.
func (s *State) Put(ctx context.Context, key string, value []byte) error {
	if len(value) <= partSize {
		return s.put(ctx, key, value)
	}
	old, _, err := s.manifest(ctx, key)
	if err != nil {
		return err
	}
	m := manifest{Set: 1 - old.Set, Sum: sha256.Sum256(value)}
	for part := range slices.Chunk(value, partSize) {
		if err := s.put(ctx, partKey(key, m, m.Parts), part); err != nil {
			return err
		}
		m.Parts++
	}
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return s.put(ctx, key, append([]byte(manifestMagic), text...))
}

func partKey(key string, m manifest, i int) string {
	return fmt.Sprintf("%s.part.%d.%d", key, m.Set, i)
}

// manifest returns the value of key as it is stored, and what it says where it
// is in parts.
func (s *State) manifest(ctx context.Context, key string) (m manifest, value []byte, err error) {
	if value, err = s.get(ctx, key); err != nil {
		return m, nil, err
	}
	if text, ok := bytes.CutPrefix(value, []byte(manifestMagic)); ok {
		if err := json.Unmarshal(text, &m); err != nil || m.Parts < 1 || m.Set != 0 && m.Set != 1 {
			return m, nil, fmt.Errorf("stream %s: read %s: it is damaged: %v", s.name, key, err)
		}
	}
	return m, value, nil
}

func (s *State) put(ctx context.Context, key string, value []byte) error {
	var err error
	for range tries {
		if _, err = s.js.Publish(ctx, s.name+"."+key, value); err == nil {
			return nil
		}
		if ctx.Err() != nil || errors.Is(err, nats.ErrMaxPayload) {
			break
		}
	}
	return fmt.Errorf("stream %s: store %s: %w", s.name, key, err)
}

// Get returns the value of key, or nil when there is none.
func (s *State) Get(ctx context.Context, key string) ([]byte, error) {
	m, value, err := s.manifest(ctx, key)
	if err != nil || m.Parts == 0 {
		return value, err
	}
	value = nil
	for i := range m.Parts {
		part, err := s.get(ctx, partKey(key, m, i))
		if err != nil {
			return nil, err
		}
		value = append(value, part...)
	}
	if sha256.Sum256(value) != m.Sum {
		return nil, fmt.Errorf("stream %s: read %s: its parts do not belong together", s.name, key)
	}
	return value, nil
}

func (s *State) get(ctx context.Context, key string) ([]byte, error) {
	m, err := s.stream.GetLastMsgForSubject(ctx, s.name+"."+key)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("stream %s: read %s: %w", s.name, key, err)
	}
	return m.Data, nil
}
