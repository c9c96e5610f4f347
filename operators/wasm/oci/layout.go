package oci

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"github.com/penstock/penstock/pipeline"
)

// layout is an OCI image-layout folder. What is in it is not trusted: every
// blob is checked against its digest each time it is read, and nothing outside
// of the folder is followed. Files are written whole or not at all, and are on
// disk when a write returns. Of several writers of one tag, the last wins.
type layout struct{ root *os.Root }

// openLayout opens the folder dir. Close it.
func openLayout(dir string) (*layout, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &layout{root}, nil
}

// makeLayout opens the folder dir, which it makes if it is not there.
func makeLayout(dir string) (*layout, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	l, err := openLayout(dir)
	if err != nil {
		return nil, err
	}
	if _, err := l.root.Stat(ocispec.ImageLayoutFile); errors.Is(err, fs.ErrNotExist) {
		data, _ := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
		if err := l.write(ocispec.ImageLayoutFile, data); err != nil {
			return nil, errors.Join(err, l.close())
		}
	}
	return l, nil
}

func (l *layout) close() error { return l.root.Close() }

func blobName(d digest.Digest) string {
	return path.Join(ocispec.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

// open opens a regular file: a pipe would block, a device never end.
func (l *layout) open(name string) (*os.File, int64, error) {
	st, err := l.root.Stat(name)
	if err != nil {
		return nil, 0, err
	}
	if !st.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s is not a regular file", name)
	}
	f, err := l.root.Open(name)
	return f, st.Size(), err
}

// read returns a file of at most limit bytes.
func (l *layout) read(name string, limit int64) ([]byte, error) {
	f, size, err := l.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	if size > limit {
		return nil, fmt.Errorf("%s is larger than %v", name, pipeline.ByteSize(limit))
	}
	return io.ReadAll(io.LimitReader(f, limit))
}

func (l *layout) fetch(_ context.Context, desc ocispec.Descriptor) ([]byte, error) {
	f, _, err := l.open(blobName(desc.Digest))
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	data, err := content.ReadAll(f, desc)
	if err != nil {
		return nil, fmt.Errorf("%s is damaged: %w", blobName(desc.Digest), err)
	}
	return data, nil
}

// index reads index.json; a folder that has none has an empty one.
func (l *layout) index() (ocispec.Index, error) {
	ix := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	data, err := l.read(ocispec.ImageLayoutFile, maxManifest)
	if errors.Is(err, fs.ErrNotExist) {
		return ix, fmt.Errorf("it is no OCI image layout: it has no file %s", ocispec.ImageLayoutFile)
	}
	var v ocispec.ImageLayout
	if err == nil {
		err = json.Unmarshal(data, &v)
	}
	if err == nil && v.Version != ocispec.ImageLayoutVersion {
		err = fmt.Errorf("its version is %q, want %q", v.Version, ocispec.ImageLayoutVersion)
	}
	if err != nil {
		return ix, fmt.Errorf("%s: %w", ocispec.ImageLayoutFile, err)
	}
	data, err = l.read(ocispec.ImageIndexFile, maxIndex)
	if errors.Is(err, fs.ErrNotExist) {
		return ix, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &ix)
	}
	if err != nil {
		return ix, fmt.Errorf("%s: %w", ocispec.ImageIndexFile, err)
	}
	return ix, nil
}

// resolve returns the descriptor of the manifest that r names.
func (l *layout) resolve(_ context.Context, r Reference) (ocispec.Descriptor, error) {
	if r.Digest != "" {
		st, err := l.root.Stat(blobName(r.Digest))
		if errors.Is(err, fs.ErrNotExist) {
			return ocispec.Descriptor{}, fmt.Errorf("there is no %s in it: %w", r.Digest, fs.ErrNotExist)
		}
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: r.Digest, Size: st.Size()}, nil
	}
	ix, err := l.index()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	var found []ocispec.Descriptor
	for _, d := range ix.Manifests {
		if d.Annotations[ocispec.AnnotationRefName] == r.Tag {
			found = append(found, d)
		}
	}
	switch len(found) {
	case 0:
		return ocispec.Descriptor{}, fmt.Errorf("there is no tag %s: `penstock operator list %s` shows those there are", r.Tag, r.repository())
	case 1:
		d := found[0]
		if d.Digest.Validate() != nil || d.Digest.Algorithm() != digest.SHA256 {
			return ocispec.Descriptor{}, fmt.Errorf("%s has a digest %q, want sha256", ocispec.ImageIndexFile, d.Digest)
		}
		return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}, nil
	}
	return ocispec.Descriptor{}, fmt.Errorf("it has %d manifests with tag %s: name one by its digest", len(found), r.Tag)
}

func (l *layout) tags(context.Context) ([]string, error) {
	ix, err := l.index()
	if err != nil {
		return nil, err
	}
	var tags []string
	for _, d := range ix.Manifests {
		if t := d.Annotations[ocispec.AnnotationRefName]; tagRE.MatchString(t) {
			tags = append(tags, t)
		}
	}
	slices.Sort(tags)
	return slices.Compact(tags), nil
}

// put stores the blobs of a, the manifest last. A blob that is damaged is
// written again.
func (l *layout) put(ctx context.Context, a *artifact) error {
	for _, b := range []struct {
		desc ocispec.Descriptor
		data []byte
	}{{a.layerDesc, a.layer}, {a.configDesc, a.config}, {a.manifestDesc, a.manifest}} {
		if _, err := l.fetch(ctx, b.desc); err == nil {
			continue
		}
		if err := l.write(blobName(b.desc.Digest), b.data); err != nil {
			return err
		}
	}
	return nil
}

// push stores a and lets tag name it.
func (l *layout) push(ctx context.Context, a *artifact, tag string) error {
	ix, err := l.index()
	if err != nil {
		return err
	}
	if err := l.put(ctx, a); err != nil {
		return err
	}
	ix.Manifests = slices.DeleteFunc(ix.Manifests, func(d ocispec.Descriptor) bool {
		return d.Annotations[ocispec.AnnotationRefName] == tag
	})
	d := a.manifestDesc
	d.Annotations = map[string]string{ocispec.AnnotationRefName: tag}
	ix.Manifests = append(ix.Manifests, d)
	data, err := json.Marshal(ix)
	if err != nil {
		return err
	}
	if len(data) > maxIndex {
		return fmt.Errorf("%s would be larger than %v: begin another folder", ocispec.ImageIndexFile, pipeline.ByteSize(maxIndex))
	}
	return l.write(ocispec.ImageIndexFile, data)
}

func (l *layout) write(name string, data []byte) error {
	if err := l.root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	tmp := name + "." + rand.Text() + ".tmp"
	f, err := l.root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = cmp.Or(err, f.Sync())
	if err = cmp.Or(err, f.Close()); err == nil {
		err = l.root.Rename(tmp, name)
	}
	if err != nil {
		return errors.Join(err, l.root.Remove(tmp))
	}
	if d, err := l.root.Open(path.Dir(name)); err == nil {
		_ = d.Sync() // not every file system has it for folders
		_ = d.Close()
	}
	return nil
}
