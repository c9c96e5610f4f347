package journal

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Kill is a call into an operator's module that was ended by the clock. A replay
// has another clock: it is told here that the call must not be made.
type Kill struct {
	Shard  int           `json:"shard"`
	Seq    uint64        `json:"seq"` // of the entry
	Node   string        `json:"node"`
	Digest string        `json:"digest"` // of the module
	After  time.Duration `json:"after"`  // how long it had
	// Call numbers the calls of the entry into the node, from 1, or is one of
	// the below.
	Call int `json:"call"`
}

// Calls that are not of an entry's rows or time.
const (
	// CallChange is any when modules change: a start, a state asked for or given, a
	// warm-up.
	CallChange = 0
	// CallState asks for the state behind the entry.
	CallState = -1
)

// The kills of a journal are in its stream's metadata: known before the first
// entry is read, and where a copy of the journal has them too.
const (
	killsKey = "penstock-kills"
	maxKills = 64 // the newest; each is the end of a module
)

func readKills(metadata map[string]string) (out []Kill, err error) {
	if text := metadata[killsKey]; text != "" {
		err = json.Unmarshal([]byte(text), &out)
	}
	return out, err
}

// Kills returns those of the shard.
func (l *Log) Kills(shard int) (out []Kill) {
	l.killed.Lock()
	defer l.killed.Unlock()
	for _, k := range l.kills {
		if k.Shard == shard {
			out = append(out, k)
		}
	}
	return out
}

// AddKill stores k before it returns. On an error k is known to this Log only.
func (l *Log) AddKill(ctx context.Context, k Kill) error {
	l.killed.Lock()
	defer l.killed.Unlock()
	if slices.Contains(l.kills, k) {
		return nil
	}
	kills := append(l.kills, k)
	kills = kills[max(0, len(kills)-maxKills):]
	l.kills = kills
	text, err := json.Marshal(kills)
	if err != nil {
		return err
	}
	cfg := l.cfg
	cfg.Metadata = maps.Clone(cfg.Metadata)
	cfg.Metadata[killsKey] = string(text)
	if _, err := l.js.UpdateStream(ctx, cfg); err != nil {
		return fmt.Errorf("stream %s: store a kill: %w", l.o.Stream, err)
	}
	l.cfg = cfg
	return nil
}
