package cli

import (
	"os"
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// mappedFilePages returns the kB of file pages in memory.
func mappedFilePages(t *testing.T) int {
	data, err := os.ReadFile("/proc/self/status")
	require.NoError(t, err)
	m := regexp.MustCompile(`RssFile:\s+(\d+) kB`).FindSubmatch(data)
	require.NotNil(t, m)
	n, err := strconv.Atoi(string(m[1]))
	require.NoError(t, err)
	return n
}

// The start's pages are given back, and what runs on needs them no less.
func TestDropStartPages(t *testing.T) {
	before := mappedFilePages(t)
	dropStartPages()
	after := mappedFilePages(t)
	require.Less(t, after, before, "kB of file pages")
	dropStartPages()
	require.Zero(t, Main([]string{"operator", "list"}))
}
