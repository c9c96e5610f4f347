package journal

import (
	"context"
	"errors"
	"fmt"

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

// Put stores the value of key.
func (s *State) Put(ctx context.Context, key string, value []byte) error {
	if _, err := s.js.Publish(ctx, s.name+"."+key, value); err != nil {
		return fmt.Errorf("stream %s: store %s: %w", s.name, key, err)
	}
	return nil
}

// Get returns the value of key, or nil when there is none.
func (s *State) Get(ctx context.Context, key string) ([]byte, error) {
	m, err := s.stream.GetLastMsgForSubject(ctx, s.name+"."+key)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("stream %s: read %s: %w", s.name, key, err)
	}
	return m.Data, nil
}
