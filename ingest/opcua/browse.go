package opcua

import (
	"context"
	"fmt"
	"path"
	"strings"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"
)

// found is a variable that a browse came upon.
type found struct {
	node *ua.NodeID
	path string // browse names from the root, with slashes
	name string
}

// place is a node whose children are to be searched.
type place struct {
	node  *ua.NodeID
	path  string
	depth int
}

// browse lists the variables below a root, breadth first, each node once. A
// node that cannot be browsed does not stop the rest: fail hears of it.
func (s *session) browse(ctx context.Context, root *ua.NodeID, b *Browse, fail func(node *ua.NodeID, status ua.StatusCode)) (list []found, truncated bool, err error) {
	maxDepth, maxNodes := b.MaxDepth, b.MaxNodes
	if maxDepth == 0 {
		maxDepth = defaultMaxDepth
	}
	if maxNodes == 0 {
		maxNodes = defaultMaxNodes
	}
	seen := map[string]bool{root.String(): true}
	queue := []place{{node: root}}
	take := func(from place, r *ua.ReferenceDescription) {
		if r == nil || r.NodeID == nil || r.NodeID.HasServerIndex() || r.ReferenceTypeID.IntID() == id.HasProperty && r.ReferenceTypeID.Namespace() == 0 {
			return
		}
		node := ua.NewNodeIDFromExpandedNodeID(r.NodeID)
		key := node.String()
		if seen[key] || node.Namespace() == 0 && node.IntID() == id.Server {
			return
		}
		// Objects outside what is wanted cost as much memory as variables.
		if len(seen) >= 100*maxNodes || len(list) >= maxNodes {
			truncated = true
			return
		}
		seen[key] = true
		p := place{node: node, path: r.BrowseName.Name, depth: from.depth + 1}
		if from.path != "" {
			p.path = from.path + "/" + p.path
		}
		if r.NodeClass == ua.NodeClassVariable && b.wants(p.path) {
			list = append(list, found{node: node, path: p.path, name: r.BrowseName.Name})
		}
		if p.depth < maxDepth {
			queue = append(queue, p)
		}
	}
	batch := s.perBrowse
	for len(queue) > 0 && !truncated {
		n := min(batch, len(queue))
		part := queue[:n]
		queue = queue[n:]
		again, err := s.browseSome(ctx, part, take, fail)
		if err != nil {
			return nil, false, err
		}
		if len(again) > 0 { // out of continuation points: fewer at a time
			batch = max(n/2, 1)
			queue = append(again, queue...)
		}
	}
	return list, truncated, nil
}

// browseSome browses a few nodes to their ends. It returns those that the
// server had no continuation point for.
func (s *session) browseSome(ctx context.Context, part []place, take func(place, *ua.ReferenceDescription), fail func(*ua.NodeID, ua.StatusCode)) (again []place, err error) {
	req := &ua.BrowseRequest{View: &ua.ViewDescription{ViewID: ua.NewTwoByteNodeID(0)}, RequestedMaxReferencesPerNode: 1000}
	for _, p := range part {
		req.NodesToBrowse = append(req.NodesToBrowse, &ua.BrowseDescription{NodeID: p.node, BrowseDirection: ua.BrowseDirectionForward,
			ReferenceTypeID: ua.NewTwoByteNodeID(id.HierarchicalReferences), IncludeSubtypes: true,
			NodeClassMask: uint32(ua.NodeClassObject | ua.NodeClassVariable), ResultMask: uint32(ua.BrowseResultMaskAll)})
	}
	res, err := ask[*ua.BrowseResponse](ctx, s, req)
	if err != nil {
		return nil, fmt.Errorf("browsing: %w", err)
	}
	results := res.Results
	for first := true; ; first = false {
		if len(results) != len(part) {
			return nil, fmt.Errorf("browsing: %w", ua.StatusBadUnknownResponse)
		}
		var rest []place
		var points [][]byte
		for i, r := range results {
			switch {
			case r.StatusCode == ua.StatusBadNoContinuationPoints && first && len(part) > 1:
				again = append(again, part[i])
				continue
			case uint32(r.StatusCode)>>31 == 1:
				fail(part[i].node, r.StatusCode)
				continue
			}
			for _, ref := range r.References {
				take(part[i], ref)
			}
			if len(r.ContinuationPoint) > 0 {
				rest, points = append(rest, part[i]), append(points, r.ContinuationPoint)
			}
		}
		if len(points) == 0 {
			return again, nil
		}
		next, err := ask[*ua.BrowseNextResponse](ctx, s, &ua.BrowseNextRequest{ContinuationPoints: points})
		if err != nil {
			return nil, fmt.Errorf("browsing on: %w", err)
		}
		part, results = rest, next.Results
	}
}

// wants says whether include and exclude let a path through.
func (b *Browse) wants(p string) bool {
	ok := len(b.Include) == 0
	for _, g := range b.Include {
		ok = ok || glob(g, p)
	}
	for _, g := range b.Exclude {
		ok = ok && !glob(g, p)
	}
	return ok
}

// tag is the name that the readings of a variable get.
func (b *Browse) tag(f found) string {
	if b.Tag == "" {
		return f.path
	}
	_, ident, ok := strings.Cut(f.node.String(), ";")
	if !ok {
		ident = f.node.String()
	}
	_, ident, _ = strings.Cut(ident, "=")
	return strings.NewReplacer("${path}", f.path, "${name}", f.name, "${id}", ident).Replace(b.Tag)
}

// glob matches slash-separated names: patterns as in path.Match level by
// level, ** for any number of levels.
func glob(pattern, name string) bool {
	p, rest, more := strings.Cut(pattern, "/")
	if p == "**" {
		if !more {
			return true
		}
		for {
			if glob(rest, name) {
				return true
			}
			_, tail, ok := strings.Cut(name, "/")
			if !ok {
				return false
			}
			name = tail
		}
	}
	n, tail, deeper := strings.Cut(name, "/")
	if ok, _ := path.Match(p, n); !ok || more != deeper {
		// "a/**" matches "a/b" but not "a" itself
		return false
	}
	return !more || glob(rest, tail)
}
