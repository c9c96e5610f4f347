package decode

import "github.com/penstock/penstock/ingest"

// Target is where the readings of one topic go: one tag, or one tag for each
// name that a reading brings. It belongs to one Batcher.
type Target struct {
	prefix, suffix string
	named          bool
	tag            ingest.TagID
	names          map[string]ingest.TagID
}

// NewTarget returns the target whose readings all have this tag.
func NewTarget(b *ingest.Batcher, tag string) *Target {
	return &Target{tag: b.Tag(tag)}
}

// NewNamedTarget returns a target whose tags are prefix + name + suffix.
func NewNamedTarget(prefix, suffix string) *Target {
	return &Target{prefix: prefix, suffix: suffix, named: true, names: map[string]ingest.TagID{}}
}

// lookup returns the tag of the reading called name. It allocates for a new name
// only; names that got no tag are not kept, so the map is bounded by the tags
// of the batcher.
func (t *Target) lookup(b *ingest.Batcher, name []byte) ingest.TagID {
	if !t.named {
		return t.tag
	}
	if id, ok := t.names[string(name)]; ok {
		return id
	}
	id := b.Tag(t.prefix + string(name) + t.suffix)
	if id != ingest.NoTag {
		t.names[string(name)] = id
	}
	return id
}
