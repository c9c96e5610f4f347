package cli

import (
	"bytes"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/operators/modules"
)

// operator runs penstock operator with args and returns what it prints.
func ociOperator(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	c := operatorCommand()
	c.SilenceErrors, c.SilenceUsage = true, true
	c.SetArgs(args)
	c.SetOut(&out)
	err := c.ExecuteContext(t.Context())
	return out.String(), err
}

func TestPushPullList(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(srv.Close)
	ewma, _ := modules.Get("ewma")
	for name, x := range map[string]struct {
		at    string
		flags []string
	}{
		"stick":    {"oci-layout:" + filepath.Join(t.TempDir(), "my stick"), nil},
		"registry": {"oci://" + srv.Listener.Addr().String() + "/plant/ewma", []string{"--plain-http"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "in.wasm")
			require.NoError(t, os.WriteFile(file, ewma, 0o644))
			pushed, err := ociOperator(t, append([]string{"push", file, x.at + ":1.0"}, x.flags...)...)
			require.NoError(t, err)
			require.Regexp(t, `^ewma@\S+, \d+ bytes\nsha256:[0-9a-f]{64}\nmodule: "?oci.*:1.0@sha256:[0-9a-f]{64}"?\n$`, pushed)
			pinned := regexp.MustCompile(`@sha256:[0-9a-f]{64}`).FindString(pushed)

			out := filepath.Join(dir, "out.wasm")
			pulled, err := ociOperator(t, append([]string{"pull", x.at + ":1.0", "-o", out}, x.flags...)...)
			require.NoError(t, err)
			require.Equal(t, pushed, pulled)
			got, err := os.ReadFile(out)
			require.NoError(t, err)
			require.True(t, bytes.Equal(ewma, got))

			_, err = ociOperator(t, append([]string{"pull", x.at + ":1.0" + pinned, "--store", filepath.Join(dir, "data", "modules")}, x.flags...)...)
			require.NoError(t, err)
			again, err := ociOperator(t, "pull", "oci-layout:"+filepath.Join(dir, "data", "modules")+pinned)
			require.NoError(t, err)
			require.Contains(t, again, pinned[1:])

			tags, err := ociOperator(t, append([]string{"list", x.at}, x.flags...)...)
			require.NoError(t, err)
			require.Equal(t, "1.0\n", tags)
		})
	}
	shipped, err := ociOperator(t, "list")
	require.NoError(t, err)
	require.Contains(t, shipped, "cusum")
	_, err = ociOperator(t, "push", "ewma", "somewhere")
	require.ErrorContains(t, err, "is not a reference")
	_, err = ociOperator(t, "push", "ewma", "oci://"+srv.Listener.Addr().String()+"/plant/ewma:2")
	require.ErrorContains(t, err, "--plain-http")
}
