package journal

import (
	"context"
	"errors"
	"fmt"

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

// Put stores the value of key.
func (s *State) Put(ctx context.Context, key string, value []byte) error {
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
	m, err := s.stream.GetLastMsgForSubject(ctx, s.name+"."+key)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("stream %s: read %s: %w", s.name, key, err)
	}
	return m.Data, nil
}
