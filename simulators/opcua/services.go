package opcua

import (
	"crypto/rand"
	"encoding/binary"

	"github.com/gopcua/opcua/ua"
)

const (
	applicationURI = "urn:penstock:simulator"
	transportURI   = "http://opcfoundation.org/UA-Profile/Transport/uatcp-uasc-uabinary"

	// Limits of one request, published as OperationLimits.
	maxNodesPerRead   = 400
	maxNodesPerBrowse = 100
	maxItemsPerCall   = 1000
	// An answer must fit into one chunk of 64 KiB: gopcua does not split it.
	maxReferencesPerAnswer = 200
)

// session is a client's session. It lives as long as its connection.
type session struct {
	conn      *conn
	token     *ua.NodeID
	nonce     []byte
	active    bool
	requests  []publishRequest // waiting, oldest first
	leftovers map[uint32][]*ua.ReferenceDescription
	nextPoint uint32
}

// handle answers one request; nil, nil means that the answer comes later.
func (c *conn) handle(req ua.Request, id uint32) (ua.Response, error) {
	switch r := req.(type) {
	case *ua.GetEndpointsRequest:
		return &ua.GetEndpointsResponse{ResponseHeader: header(r, ua.StatusOK), Endpoints: c.srv.endpoints()}, nil
	case *ua.FindServersRequest:
		return &ua.FindServersResponse{ResponseHeader: header(r, ua.StatusOK), Servers: []*ua.ApplicationDescription{c.srv.application()}}, nil
	case *ua.CreateSessionRequest:
		return c.createSession(r)
	}
	s := c.srv
	s.mu.Lock()
	defer s.mu.Unlock()
	sess := s.sessions[req.Header().AuthenticationToken.String()]
	if sess == nil || sess.conn != c {
		return nil, ua.StatusBadSessionIDInvalid
	}
	if r, ok := req.(*ua.ActivateSessionRequest); ok {
		return c.activateSession(sess, r)
	}
	if !sess.active {
		return nil, ua.StatusBadSessionNotActivated
	}
	switch r := req.(type) {
	case *ua.CloseSessionRequest:
		s.dropSession(sess)
		return &ua.CloseSessionResponse{ResponseHeader: header(r, ua.StatusOK)}, nil
	case *ua.ReadRequest:
		return s.read(r)
	case *ua.BrowseRequest:
		return s.browse(sess, r)
	case *ua.BrowseNextRequest:
		return s.browseNext(sess, r)
	case *ua.CreateSubscriptionRequest:
		return s.createSubscription(sess, r)
	case *ua.DeleteSubscriptionsRequest:
		return s.deleteSubscriptions(sess, r)
	case *ua.CreateMonitoredItemsRequest:
		return s.createMonitoredItems(sess, r)
	case *ua.DeleteMonitoredItemsRequest:
		return s.deleteMonitoredItems(sess, r)
	case *ua.PublishRequest:
		return s.publish(sess, r, id)
	case *ua.RepublishRequest:
		return s.republish(sess, r)
	}
	return nil, ua.StatusBadServiceUnsupported
}

func (s *Server) application() *ua.ApplicationDescription {
	return &ua.ApplicationDescription{ApplicationURI: applicationURI, ProductURI: "urn:penstock",
		ApplicationName: ua.NewLocalizedText("Penstock simulator"), ApplicationType: ua.ApplicationTypeServer, DiscoveryURLs: []string{s.endpoint}}
}

func (s *Server) endpoints() []*ua.EndpointDescription {
	return []*ua.EndpointDescription{{EndpointURL: s.endpoint, Server: s.application(), TransportProfileURI: transportURI,
		SecurityMode: ua.MessageSecurityModeNone, SecurityPolicyURI: ua.SecurityPolicyURINone,
		UserIdentityTokens: []*ua.UserTokenPolicy{{PolicyID: "anonymous", TokenType: ua.UserTokenTypeAnonymous}}}}
}

func (c *conn) createSession(r *ua.CreateSessionRequest) (ua.Response, error) {
	random := make([]byte, 36)
	if _, err := rand.Read(random); err != nil {
		return nil, err
	}
	number := binary.LittleEndian.Uint32(random[32:])
	sess := &session{conn: c, token: ua.NewNumericNodeID(0, number), nonce: random[:32],
		leftovers: map[uint32][]*ua.ReferenceDescription{}}
	s := c.srv
	s.mu.Lock()
	s.sessions[sess.token.String()] = sess
	s.mu.Unlock()
	return &ua.CreateSessionResponse{ResponseHeader: header(r, ua.StatusOK), SessionID: ua.NewNumericNodeID(1, number), AuthenticationToken: sess.token,
		RevisedSessionTimeout: r.RequestedSessionTimeout, ServerNonce: sess.nonce, ServerEndpoints: s.endpoints(),
		ServerSignature: &ua.SignatureData{}}, nil
}

func (c *conn) activateSession(sess *session, r *ua.ActivateSessionRequest) (ua.Response, error) {
	if r.UserIdentityToken != nil && r.UserIdentityToken.Value != nil {
		if _, ok := r.UserIdentityToken.Value.(*ua.AnonymousIdentityToken); !ok {
			return nil, ua.StatusBadIdentityTokenRejected
		}
	}
	sess.active = true
	c.srv.log.Info("client connected", "client", c.tcp.RemoteAddr())
	return &ua.ActivateSessionResponse{ResponseHeader: header(r, ua.StatusOK), ServerNonce: sess.nonce}, nil
}

// dropSession forgets a session and its subscriptions. s.mu is held.
func (s *Server) dropSession(sess *session) {
	delete(s.sessions, sess.token.String())
	for _, sub := range s.subs {
		if sub.sess == sess {
			s.dropSubscription(sub)
		}
	}
}
