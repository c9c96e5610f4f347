package oci

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	hex := strings.Repeat("0a", 32)
	pin := "@sha256:" + hex
	for s, want := range map[string]Reference{
		"oci://reg.example/plant/ewma:1.2":              {Registry: "reg.example", Repository: "plant/ewma", Tag: "1.2"},
		"oci://reg.example:5000/ewma":                   {Registry: "reg.example:5000", Repository: "ewma"},
		"oci://reg.example/ewma" + pin:                  {Registry: "reg.example", Repository: "ewma", Digest: digest.Digest(pin[1:])},
		"oci://[::1]:5000/a/b/c:x" + pin:                {Registry: "[::1]:5000", Repository: "a/b/c", Tag: "x", Digest: digest.Digest(pin[1:])},
		"oci-layout:/media/stick/modules:1" + pin:       {Folder: "/media/stick/modules", Tag: "1", Digest: digest.Digest(pin[1:])},
		"oci-layout:stick":                              {Folder: "stick"},
		`oci-layout:E:\modules:2`:                       {Folder: `E:\modules`, Tag: "2"},
		`oci-layout:E:\modules` + pin:                   {Folder: `E:\modules`, Digest: digest.Digest(pin[1:])},
		"oci-layout:/mnt/a@b/c:d/my modules/x:1.0-rc.1": {Folder: "/mnt/a@b/c:d/my modules/x", Tag: "1.0-rc.1"},
	} {
		got, err := Parse(s)
		require.NoError(t, err, s)
		require.Equal(t, want, got, s)
		require.Equal(t, s, got.String())
	}
	for s, want := range map[string]string{
		"":                                        "write oci://",
		"ewma":                                    "write oci://",
		"oci:reg.example/x":                       "write oci://",
		"https://reg.example/x":                   "write oci://",
		"oci://reg.example":                       "no repository",
		"oci:///x":                                "is not a registry",
		"oci://user:pass@reg.example/x":           "is not a registry",
		"oci://reg.example/Ewma:1":                "is not a repository",
		"oci://reg.example/../x:1":                "is not a repository",
		"oci://reg.example/x:a b":                 "is not a tag",
		"oci://reg.example/x:":                    "is not a tag",
		"oci://reg.example/x@sha256:abc":          "what follows @",
		"oci://reg.example/x@sha512:" + hex:       "what follows @",
		"oci://reg.example/x@" + hex:              "what follows @",
		"oci-layout:":                             "no folder",
		"oci-layout::1":                           "no folder",
		"oci-layout:/a:1@md5:x":                   "what follows @",
		"oci-layout:" + strings.Repeat("x", 2000): "more than 1024 bytes",
	} {
		_, err := Parse(s)
		require.ErrorContains(t, err, want, s)
		require.Less(t, len(err.Error()), 300)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"oci://a/b:c@sha256:0", "oci-layout:/x:y", "oci-layout:E:\\x", "oci://[::1]:5/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := Parse(s)
		if err != nil {
			return
		}
		again, err := Parse(r.String())
		require.NoError(t, err)
		require.Equal(t, r, again)
		require.Equal(t, s, r.String())
	})
}
