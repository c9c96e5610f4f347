package opcua

import (
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"

	"github.com/penstock/penstock/simulators"
)

// namespace is the index of the tags' namespace.
const namespace = 1

// node is a folder or a variable of the address space.
type node struct {
	id       *ua.NodeID
	name     string
	children []*node
	variable *variable // nil for a folder
}

// variable is a tag. The server's mutex guards it.
type variable struct {
	set    bool
	sample simulators.Sample
	server int64 // when it was set, ns since 1970
	items  []*item
}

// space is the tree of all nodes, fixed once it is made.
type space struct {
	nodes map[string]*node // by the text of the node id
	tags  map[string]*variable
}

func newSpace(tags []string) (*space, error) {
	sp := &space{nodes: map[string]*node{}, tags: make(map[string]*variable, len(tags))}
	add := func(parent *node, nid *ua.NodeID, name string) *node {
		if n := sp.nodes[nid.String()]; n != nil {
			return n
		}
		n := &node{id: nid, name: name}
		sp.nodes[nid.String()] = n
		if parent != nil {
			parent.children = append(parent.children, n)
		}
		return n
	}
	root := add(nil, ua.NewNumericNodeID(0, id.RootFolder), "Root")
	objects := add(root, ua.NewNumericNodeID(0, id.ObjectsFolder), "Objects")
	add(objects, ua.NewNumericNodeID(0, id.Server), "Server")
	for _, tag := range tags {
		if tag == "" || strings.Contains(tag, "//") || strings.HasPrefix(tag, "/") || strings.HasSuffix(tag, "/") {
			return nil, fmt.Errorf("%q is no tag: write parts between single slashes", tag)
		}
		if sp.tags[tag] != nil {
			return nil, fmt.Errorf("tag %q is there twice", tag)
		}
		at := objects
		for i := 0; i < len(tag); {
			j := strings.IndexByte(tag[i:], '/')
			if j < 0 {
				j = len(tag) - i
			}
			at = add(at, ua.NewStringNodeID(namespace, tag[:i+j]), tag[i:i+j])
			i += j + 1
		}
		at.variable = &variable{}
		sp.tags[tag] = at.variable
	}
	return sp, nil
}

func (n *node) class() ua.NodeClass {
	if n.variable != nil {
		return ua.NodeClassVariable
	}
	return ua.NodeClassObject
}

func (n *node) reference() *ua.ReferenceDescription {
	kind, class := uint32(id.Organizes), uint32(id.FolderType)
	if n.variable != nil {
		kind, class = id.HasComponent, id.BaseDataVariableType
	}
	return &ua.ReferenceDescription{ReferenceTypeID: ua.NewNumericNodeID(0, kind), IsForward: true, NodeID: ua.NewExpandedNodeID(n.id, "", 0),
		BrowseName: &ua.QualifiedName{NamespaceIndex: n.id.Namespace(), Name: n.name}, DisplayName: ua.NewLocalizedText(n.name),
		NodeClass: n.class(), TypeDefinition: ua.NewNumericExpandedNodeID(0, class)}
}

// follows says whether a browse for a type of reference and, if asked, its
// subtypes finds the references kind.
func follows(d *ua.BrowseDescription, kind uint32) bool {
	if d.BrowseDirection == ua.BrowseDirectionInverse {
		return false
	}
	switch want := d.ReferenceTypeID.IntID(); want {
	case 0, kind:
		return true
	case id.References, id.HierarchicalReferences:
		return d.IncludeSubtypes
	case id.HasChild, id.Aggregates:
		return d.IncludeSubtypes && kind == id.HasComponent
	}
	return false
}

func (s *Server) browse(sess *session, r *ua.BrowseRequest) (ua.Response, error) {
	if len(r.NodesToBrowse) > maxNodesPerBrowse {
		return nil, ua.StatusBadTooManyOperations
	}
	room := maxReferencesPerAnswer
	results := make([]*ua.BrowseResult, len(r.NodesToBrowse))
	for i, d := range r.NodesToBrowse {
		n := s.space.nodes[d.NodeID.String()]
		if n == nil {
			results[i] = &ua.BrowseResult{StatusCode: ua.StatusBadNodeIDUnknown}
			continue
		}
		var refs []*ua.ReferenceDescription
		for _, child := range n.children {
			ref := child.reference()
			if follows(d, ref.ReferenceTypeID.IntID()) && (d.NodeClassMask == 0 || d.NodeClassMask&uint32(ref.NodeClass) != 0) {
				refs = append(refs, ref)
			}
		}
		limit := room
		if most := int(r.RequestedMaxReferencesPerNode); most > 0 {
			limit = min(room, most)
		}
		results[i] = sess.page(refs, limit)
		room -= len(results[i].References)
	}
	return &ua.BrowseResponse{ResponseHeader: header(r, ua.StatusOK), Results: results}, nil
}

// page returns the first references and keeps the others for BrowseNext.
func (sess *session) page(refs []*ua.ReferenceDescription, limit int) *ua.BrowseResult {
	if len(refs) <= limit {
		return &ua.BrowseResult{References: refs}
	}
	if len(sess.leftovers) >= maxNodesPerBrowse {
		return &ua.BrowseResult{StatusCode: ua.StatusBadNoContinuationPoints}
	}
	sess.nextPoint++
	sess.leftovers[sess.nextPoint] = refs[limit:]
	return &ua.BrowseResult{References: refs[:limit], ContinuationPoint: binary.LittleEndian.AppendUint32(nil, sess.nextPoint)}
}

func (s *Server) browseNext(sess *session, r *ua.BrowseNextRequest) (ua.Response, error) {
	room := maxReferencesPerAnswer
	results := make([]*ua.BrowseResult, len(r.ContinuationPoints))
	for i, cp := range r.ContinuationPoints {
		if len(cp) != 4 {
			results[i] = &ua.BrowseResult{StatusCode: ua.StatusBadContinuationPointInvalid}
			continue
		}
		point := binary.LittleEndian.Uint32(cp)
		refs, ok := sess.leftovers[point]
		delete(sess.leftovers, point)
		switch {
		case !ok:
			results[i] = &ua.BrowseResult{StatusCode: ua.StatusBadContinuationPointInvalid}
		case r.ReleaseContinuationPoints:
			results[i] = &ua.BrowseResult{}
		default:
			results[i] = sess.page(refs, room)
			room -= len(results[i].References)
		}
	}
	return &ua.BrowseNextResponse{ResponseHeader: header(r, ua.StatusOK), Results: results}, nil
}

func (s *Server) read(r *ua.ReadRequest) (ua.Response, error) {
	if len(r.NodesToRead) > maxNodesPerRead {
		return nil, ua.StatusBadTooManyOperations
	}
	results := make([]*ua.DataValue, len(r.NodesToRead))
	for i, n := range r.NodesToRead {
		results[i] = s.attribute(n)
		results[i].UpdateMask()
	}
	return &ua.ReadResponse{ResponseHeader: header(r, ua.StatusOK), Results: results}, nil
}

func (s *Server) attribute(r *ua.ReadValueID) *ua.DataValue {
	value := func(v any) *ua.DataValue {
		return &ua.DataValue{Value: ua.MustVariant(v), SourceTimestamp: time.Now(), ServerTimestamp: time.Now()}
	}
	if r.NodeID.Namespace() == 0 && r.AttributeID == ua.AttributeIDValue {
		switch r.NodeID.IntID() {
		case id.Server_NamespaceArray:
			return value([]string{"http://opcfoundation.org/UA/", applicationURI})
		case id.Server_ServerArray:
			return value([]string{applicationURI})
		case id.Server_ServerStatus_State:
			return value(int32(ua.ServerStateRunning))
		case id.Server_ServerStatus_StartTime:
			return value(s.start)
		case id.Server_ServerStatus_CurrentTime:
			return value(time.Now())
		case id.Server_ServerCapabilities_OperationLimits_MaxNodesPerRead:
			return value(uint32(maxNodesPerRead))
		case id.Server_ServerCapabilities_OperationLimits_MaxNodesPerBrowse:
			return value(uint32(maxNodesPerBrowse))
		case id.Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall:
			return value(uint32(maxItemsPerCall))
		}
	}
	n := s.space.nodes[r.NodeID.String()]
	if n == nil {
		return &ua.DataValue{Status: ua.StatusBadNodeIDUnknown}
	}
	switch r.AttributeID {
	case ua.AttributeIDNodeID:
		return value(n.id)
	case ua.AttributeIDNodeClass:
		return value(int32(n.class()))
	case ua.AttributeIDBrowseName:
		return value(&ua.QualifiedName{NamespaceIndex: n.id.Namespace(), Name: n.name})
	case ua.AttributeIDDisplayName:
		return value(ua.NewLocalizedText(n.name))
	}
	if n.variable == nil {
		return &ua.DataValue{Status: ua.StatusBadAttributeIDInvalid}
	}
	switch r.AttributeID {
	case ua.AttributeIDDataType:
		return value(ua.NewNumericNodeID(0, id.Double))
	case ua.AttributeIDValueRank:
		return value(int32(-1))
	case ua.AttributeIDAccessLevel, ua.AttributeIDUserAccessLevel:
		return value(byte(ua.AccessLevelTypeCurrentRead))
	case ua.AttributeIDValue:
		v := n.variable
		if !v.set {
			return &ua.DataValue{Status: ua.StatusBadWaitingForInitialData}
		}
		dv := &ua.DataValue{Status: ua.StatusCode(v.sample.Quality), SourceTimestamp: time.Unix(0, v.sample.Time), ServerTimestamp: time.Unix(0, v.server)}
		if v.sample.Quality>>31 == 0 {
			dv.Value = ua.MustVariant(v.sample.Value)
		}
		return dv
	}
	return &ua.DataValue{Status: ua.StatusBadAttributeIDInvalid}
}
