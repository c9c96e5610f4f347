package flow

import (
	"bytes"
	"encoding/gob"
	"time"
)

// keptShadow is what a checkpoint keeps of a shadow, besides its module's state:
// a comparison takes days, and gateways are restarted.
type keptShadow struct {
	Stats                   ShadowStats // but for the columns
	LiveTime, CandidateTime time.Duration
	Columns                 []keptColumn
	Raised                  map[[2]string][2]int
	Rules                   map[string]keptRule // the copies, by rule
}

type keptRule struct {
	Fingerprint string
	State       []byte
}

type keptColumn struct {
	Stats           ColumnStats
	Same            bool
	Live, Candidate *sketch
}

// keep returns what resume takes.
func (s *shadow) keep(w *Worker) ([]byte, error) {
	k := keptShadow{Raised: s.raise, Rules: map[string]keptRule{}}
	for _, r := range s.rules {
		state, err := snapshot(r.op)
		if err != nil {
			return nil, err
		}
		n := &w.o.Plan.Nodes[r.node]
		k.Rules[n.Name] = keptRule{n.Fingerprint, state}
	}
	k.Stats, k.LiveTime, k.CandidateTime = s.stats, s.stats.liveTime, s.stats.candidateTime
	for _, d := range s.diffs {
		k.Columns = append(k.Columns, keptColumn{d.stats, d.same, d.live, d.candidate})
	}
	var b bytes.Buffer
	err := gob.NewEncoder(&b).Encode(k)
	return b.Bytes(), err
}

// resume goes on with a comparison of the same two modules. A rule that has other
// settings now is counted anew. data is what keep returned, or nothing.
func (s *shadow) resume(w *Worker, data []byte) error {
	var k keptShadow
	if len(data) == 0 {
		return nil
	}
	if err := gob.NewDecoder(bytes.NewReader(data)).Decode(&k); err != nil {
		return err
	}
	same := map[string]bool{}
	for _, r := range s.rules {
		n := &w.o.Plan.Nodes[r.node]
		if kept, ok := k.Rules[n.Name]; ok && kept.Fingerprint == n.Fingerprint {
			if err := r.op.Restore(bytes.NewReader(kept.State)); err != nil {
				return err
			}
			same[n.Name] = true
		}
	}
	s.stats = k.Stats
	s.stats.liveTime, s.stats.candidateTime = k.LiveTime, k.CandidateTime
	for _, c := range k.Columns {
		s.diffs = append(s.diffs, &columnDiff{c.Stats, c.Same, c.Live, c.Candidate})
	}
	for key, n := range k.Raised {
		if same[key[0]] {
			s.raise[key] = n
		}
	}
	return nil
}

// keptSketch is a sketch without its empty buckets.
type keptSketch struct {
	Bucket []uint16
	Count  []uint32
	N      int64
	Max    float64
}

// GobEncode implements gob.GobEncoder.
func (s *sketch) GobEncode() ([]byte, error) {
	k := keptSketch{N: s.n, Max: s.max}
	for i, n := range s.count {
		if n > 0 {
			k.Bucket, k.Count = append(k.Bucket, uint16(i)), append(k.Count, n)
		}
	}
	var b bytes.Buffer
	err := gob.NewEncoder(&b).Encode(k)
	return b.Bytes(), err
}

// GobDecode implements gob.GobDecoder.
func (s *sketch) GobDecode(data []byte) error {
	var k keptSketch
	if err := gob.NewDecoder(bytes.NewReader(data)).Decode(&k); err != nil {
		return err
	}
	s.n, s.max = k.N, k.Max
	for i, b := range k.Bucket[:min(len(k.Bucket), len(k.Count))] {
		s.count[int(b)%len(s.count)] = k.Count[i]
	}
	return nil
}
