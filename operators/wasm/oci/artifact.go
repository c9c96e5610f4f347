package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/penstock/penstock/operators/wasm"
	"github.com/penstock/penstock/pipeline"
)

// The media types of the CNCF Wasm OCI artifact layout.
const (
	ConfigType = "application/vnd.wasm.config.v0+json"
	LayerType  = "application/wasm"
)

// Limits on what comes from a registry or a folder, in bytes.
const (
	maxManifest = 256 << 10
	maxConfig   = 256 << 10
	maxIndex    = 4 << 20
)

// config is the artifact's config. Penstock puts the module's manifest into
// it, so that a registry can show what the module is; what counts is the one
// inside the module.
type config struct {
	Created      string          `json:"created"`
	Architecture string          `json:"architecture"`
	OS           string          `json:"os"`
	LayerDigests []digest.Digest `json:"layerDigests"`
	Component    json.RawMessage `json:"component,omitempty"`
	Penstock     *wasm.Manifest  `json:"penstock,omitempty"`
}

const (
	architecture = "wasm"
	moduleOS     = "wasip1" // of core modules, whether they use WASI or not
	componentOS  = "wasip2"
	// created is the same for all: the same module has the same digest, whoever
	// pushes it and when.
	created = "1970-01-01T00:00:00Z"
)

// artifact is a module with what describes it. Its digest is the manifest's.
type artifact struct {
	manifest, config, layer             []byte
	manifestDesc, configDesc, layerDesc ocispec.Descriptor
}

// pack makes the artifact of a module, which must be one that Penstock can run.
func pack(module []byte) (*artifact, error) {
	info, err := wasm.Inspect(module)
	if err != nil {
		return nil, err
	}
	m := &info.Manifest
	a := &artifact{layer: module, layerDesc: descriptor(LayerType, module)}
	a.layerDesc.Annotations = map[string]string{ocispec.AnnotationTitle: m.Name + ".wasm"}
	if a.config, err = json.Marshal(config{Created: created, Architecture: architecture, OS: moduleOS,
		LayerDigests: []digest.Digest{a.layerDesc.Digest}, Penstock: m}); err != nil {
		return nil, err
	}
	a.configDesc = descriptor(ConfigType, a.config)
	if a.manifest, err = json.Marshal(ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: a.configDesc, Layers: []ocispec.Descriptor{a.layerDesc},
		Annotations: map[string]string{ocispec.AnnotationTitle: m.Name, ocispec.AnnotationVersion: m.Version, ocispec.AnnotationDescription: m.Doc, ocispec.AnnotationCreated: created}}); err != nil {
		return nil, err
	}
	a.manifestDesc = descriptor(ocispec.MediaTypeImageManifest, a.manifest)
	return a, nil
}

func descriptor(mediaType string, data []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
}

// fetcher returns the content of a descriptor, verified against its size and
// digest. The caller has checked the size.
type fetcher interface {
	fetch(ctx context.Context, desc ocispec.Descriptor) ([]byte, error)
}

// unpack reads and checks the artifact whose manifest is desc.
func unpack(ctx context.Context, from fetcher, desc ocispec.Descriptor) (*artifact, error) {
	a := &artifact{manifestDesc: desc}
	if err := errors.Join(notIndex(desc.MediaType), sizeIn("manifest", desc, maxManifest)); err != nil {
		return nil, err
	}
	var err error
	if a.manifest, err = from.fetch(ctx, desc); err != nil {
		return nil, fmt.Errorf("the manifest: %w", err)
	}
	if err := a.readManifest(); err != nil {
		return nil, err
	}
	if a.config, err = from.fetch(ctx, a.configDesc); err != nil {
		return nil, fmt.Errorf("the config: %w", err)
	}
	if err := a.checkConfig(); err != nil {
		return nil, err
	}
	if a.layer, err = from.fetch(ctx, a.layerDesc); err != nil {
		return nil, fmt.Errorf("the module: %w", err)
	}
	return a, nil
}

func notIndex(mediaType string) error {
	switch mediaType {
	case ocispec.MediaTypeImageIndex, "application/vnd.docker.distribution.manifest.list.v2+json":
		return errors.New("it is an index of several images, not one Wasm artifact: name the artifact in it by its digest")
	}
	return nil
}

func sizeIn(what string, desc ocispec.Descriptor, limit int64) error {
	if desc.Size < 1 || desc.Size > limit {
		return fmt.Errorf("the %s has %d bytes, the limit is %v", what, desc.Size, pipeline.ByteSize(limit))
	}
	return nil
}

func (a *artifact) readManifest() error {
	var m ocispec.Manifest
	if err := json.Unmarshal(a.manifest, &m); err != nil {
		return fmt.Errorf("the manifest is not as it should be: %w", err)
	}
	if err := notIndex(m.MediaType); err != nil {
		return err
	}
	switch {
	case m.SchemaVersion != 2 || m.MediaType != ocispec.MediaTypeImageManifest && m.MediaType != "": // the field came later than the format
		return fmt.Errorf("it is a %q of schema version %d, want %q of 2: push it with `penstock operator push`", m.MediaType, m.SchemaVersion, ocispec.MediaTypeImageManifest)
	case m.Config.MediaType != ConfigType:
		return fmt.Errorf("it is no Wasm artifact: its config is a %q, want %q: push it with `penstock operator push`", m.Config.MediaType, ConfigType)
	case len(m.Layers) != 1:
		return fmt.Errorf("it has %d layers, want one", len(m.Layers))
	case m.Layers[0].MediaType != LayerType:
		return fmt.Errorf("its layer is a %q, want %q", m.Layers[0].MediaType, LayerType)
	}
	a.configDesc, a.layerDesc = m.Config, m.Layers[0]
	for _, d := range []ocispec.Descriptor{a.configDesc, a.layerDesc} {
		if d.Digest.Validate() != nil || d.Digest.Algorithm() != digest.SHA256 {
			return fmt.Errorf("the manifest has a digest %q, want sha256", d.Digest)
		}
	}
	return errors.Join(sizeIn("config", a.configDesc, maxConfig), sizeIn("module", a.layerDesc, wasm.MaxModuleSize))
}

func (a *artifact) checkConfig() error {
	var c struct { // lenient where nothing depends on it
		Architecture, OS string
		LayerDigests     []digest.Digest
		Component        json.RawMessage
	}
	if err := json.Unmarshal(a.config, &c); err != nil {
		return fmt.Errorf("the config is not as it should be: %w", err)
	}
	switch {
	case c.OS == componentOS || len(c.Component) > 0 && string(c.Component) != "null":
		return errors.New("it is a component; Penstock runs core modules")
	case c.Architecture != architecture || c.OS != moduleOS:
		return fmt.Errorf("it is for architecture %q and os %q, want %q and %q", c.Architecture, c.OS, architecture, moduleOS)
	case !slices.Equal(c.LayerDigests, []digest.Digest{a.layerDesc.Digest}):
		return fmt.Errorf("the config's layerDigests are %v, the manifest has %v", c.LayerDigests, a.layerDesc.Digest)
	}
	return nil
}
