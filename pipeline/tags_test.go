package pipeline

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTagInfo(t *testing.T) {
	tags := NewTags([]TagRule{
		{Match: "raw/*/*/t", Asset: "plant1/${2}-${3}", Measurement: "temperature", Unit: "°C"},
		{Match: "raw/*/*/t", Unit: "K"}, // the first that matches counts
		{Match: "plant1/*/*", Unit: "bar", Description: "pressure"},
		{Match: "odd/*", Asset: "${9}x${2}", Measurement: "$${1}"},
	})
	for tag, want := range map[string]TagInfo{
		"raw/hall2/pump3/t":   {Asset: "plant1/hall2-pump3", Measurement: "temperature", Unit: "°C"},
		"raw/hall2/pump3/t/u": {Asset: "raw/hall2/pump3/t", Measurement: "u"}, // * is one segment
		"plant1/hall2/p":      {Asset: "plant1/hall2", Measurement: "p", Unit: "bar", Description: "pressure"},
		"odd/one":             {Asset: "xone", Measurement: "$odd"}, // a segment that is not there is empty
		"alone":               {Measurement: "alone"},
		"":                    {},
		"/":                   {},
	} {
		require.Equal(t, want, tags.Info(tag), tag)
		require.Equal(t, want, tags.Info(tag), "%s, from the cache", tag)
	}
}

// The cache does not keep the buffer that a tag's name was in.
func TestTagsOfBuffers(t *testing.T) {
	tags := NewTags(nil)
	require.Equal(t, "b", tags.Info("a/b").Measurement)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 200 {
				tags.Info(fmt.Sprint("a/", i))
			}
		})
	}
	wg.Wait()
}

// All tags of an asset are in one shard, the same in every process, and assets
// spread.
func TestShard(t *testing.T) {
	tags := NewTags(nil)
	seen := map[int]int{}
	for i := range 1000 {
		asset := fmt.Sprintf("plant/pump%d", i)
		s := tags.Shard(asset+"/a", 4)
		require.Equal(t, s, tags.Shard(asset+"/b", 4))
		require.Zero(t, tags.Shard(asset+"/a", 1))
		seen[s]++
	}
	require.Len(t, seen, 4)
	for s, n := range seen {
		require.InDelta(t, 250, n, 60, "shard %d", s)
	}
	// A checkpoint belongs to a shard: these must not change from one release
	// to the next.
	require.Equal(t, []int{2, 1, 1}, []int{tags.Shard("plant/pump0/a", 4), tags.Shard("plant/pump1/a", 4), tags.Shard("alone", 4)})
}

func TestTagRuleProblems(t *testing.T) {
	for _, c := range []struct {
		rule TagRule
		path string
	}{
		{TagRule{Match: "a/*"}, ""},
		{TagRule{Match: "a/*", Asset: "x/${1}", Measurement: "${2}"}, ""},
		{TagRule{}, "match"},
		{TagRule{Match: "a/["}, "match"},
		{TagRule{Match: "a", Asset: "${name}"}, "asset"},
		{TagRule{Match: "a", Asset: "${0}"}, "asset"},
		{TagRule{Match: "a", Measurement: "${1"}, "measurement"},
	} {
		p := NewProblems()
		c.rule.Validate(p.At("tags[0]"))
		if c.path == "" {
			require.Empty(t, p.All(), "%+v", c.rule)
			continue
		}
		require.Len(t, p.All(), 1, "%+v", c.rule)
		require.Equal(t, "tags[0]."+c.path, p.All()[0].Path)
		require.NotEmpty(t, p.All()[0].Hint)
	}
}
