package oci

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"
	"oras.land/oras-go/v2/registry"
)

// The schemes of references.
const (
	registryScheme = "oci://"
	layoutScheme   = "oci-layout:"
)

const maxReference = 1024

var tagRE = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)

// Reference names a module in a registry or in a layout folder:
//
//	oci://REGISTRY/REPOSITORY[:TAG][@sha256:HEX]
//	oci-layout:FOLDER[:TAG][@sha256:HEX]
//
// The digest is that of the manifest. Where it is given it decides, and the tag
// is there for people to read.
type Reference struct {
	Registry   string // host or host:port; empty for a folder
	Repository string // within the registry
	Folder     string // of a layout; empty for a registry
	Tag        string // may be empty
	Digest     digest.Digest
}

// Parse reads a reference.
func Parse(s string) (Reference, error) {
	r, err := parse(s)
	if err != nil {
		if len(s) > maxReference {
			s = s[:64] + "..."
		}
		return Reference{}, fmt.Errorf("%q is not a reference: %w", s, err)
	}
	return r, nil
}

func parse(s string) (r Reference, err error) {
	if len(s) > maxReference {
		return r, fmt.Errorf("it has more than %d bytes", maxReference)
	}
	rest, inRegistry := strings.CutPrefix(s, registryScheme)
	if !inRegistry {
		var ok bool
		if rest, ok = strings.CutPrefix(s, layoutScheme); !ok {
			return r, errors.New("write oci://registry/repository:tag, or oci-layout:folder:tag")
		}
	}
	if at := strings.LastIndex(rest, "@"); at > strings.LastIndexAny(rest, `/\`) {
		r.Digest = digest.Digest(rest[at+1:])
		rest = rest[:at]
		if err := r.Digest.Validate(); err != nil || r.Digest.Algorithm() != digest.SHA256 {
			return r, errors.New("what follows @ must be sha256: and 64 hexadecimal digits, in lower case")
		}
	}
	// A port is before the last slash, a tag after it.
	if at := strings.LastIndex(rest, ":"); at > strings.LastIndexAny(rest, `/\`) {
		r.Tag = rest[at+1:]
		rest = rest[:at]
		if !tagRE.MatchString(r.Tag) {
			return r, fmt.Errorf("%q is not a tag: write letters, digits, _, . and -", r.Tag)
		}
	}
	if !inRegistry {
		if r.Folder = rest; rest == "" || strings.ContainsRune(rest, 0) {
			return r, errors.New("it names no folder")
		}
		return r, nil
	}
	var ok bool
	if r.Registry, r.Repository, ok = strings.Cut(rest, "/"); !ok {
		return r, errors.New("it names no repository: write oci://registry/repository:tag")
	}
	check := registry.Reference{Registry: r.Registry, Repository: r.Repository}
	if check.ValidateRegistry() != nil {
		return r, fmt.Errorf("%q is not a registry: write host or host:port", r.Registry)
	}
	if check.ValidateRepository() != nil {
		return r, fmt.Errorf("%q is not a repository: write lower-case letters, digits, _, ., - and /", r.Repository)
	}
	return r, nil
}

// String is the reference as [Parse] reads it.
func (r Reference) String() string {
	s := r.repository()
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest.String()
	}
	return s
}

// repository is the reference without tag and digest.
func (r Reference) repository() string {
	if r.Folder != "" {
		return layoutScheme + r.Folder
	}
	return registryScheme + r.Registry + "/" + r.Repository
}

// Pinned is the reference with digest d.
func (r Reference) Pinned(d digest.Digest) Reference {
	r.Digest = d
	return r
}
