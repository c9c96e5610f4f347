package opcua

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"time"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"
	"github.com/gopcua/opcua/uacp"
	"github.com/gopcua/opcua/uapolicy"
	"github.com/gopcua/opcua/uasc"

	"github.com/penstock/penstock/pipeline"
)

// session is one connection to the server: TCP, secure channel, and a session
// that is logged in. It does not mend itself: on any doubt it is closed and a
// new one is made. gopcua's own Client is not used, because its reconnecting
// takes any answer that reports an error for a broken connection, and can end
// up connected without subscriptions.
type session struct {
	channel
	token      *ua.NodeID
	namespaces []string
	perRead    int // limits of one request
	perBrowse  int
	perMonitor int
}

// channel is a secure channel over a TCP connection.
type channel struct {
	conn    *uacp.Conn
	sc      *uasc.SecureChannel
	timeout time.Duration
}

const (
	sessionTimeout  = time.Minute
	channelLifetime = time.Hour
	defaultPerCall  = 200
	maxPerCall      = 1000 // where the server says that it has no limit
)

func dial(ctx context.Context, endpoint string, cfg *uasc.Config) (channel, error) {
	ctx, cancel := context.WithTimeout(ctx, cfg.RequestTimeout)
	defer cancel()
	_, server, err := uacp.ResolveEndpoint(ctx, endpoint)
	if err != nil {
		return channel{}, fmt.Errorf("connecting: %w", err)
	}
	var d net.Dialer
	tcp, err := d.DialContext(ctx, "tcp", server.Host)
	if err != nil {
		return channel{}, fmt.Errorf("connecting: %w", err)
	}
	// An end of ctx closes the connection: gopcua's handshake would not look, and
	// its Open would take away what its dispatcher may be reading an answer with.
	stop := context.AfterFunc(ctx, func() { tcp.Close() })
	defer stop()
	conn, err := uacp.NewConn(tcp.(*net.TCPConn), nil)
	if err != nil {
		tcp.Close()
		return channel{}, err
	}
	if err := conn.Handshake(ctx, endpoint); err != nil {
		conn.Close()
		return channel{}, fmt.Errorf("connecting: %w", cmp.Or(context.Cause(ctx), err))
	}
	sc, err := uasc.NewSecureChannel(endpoint, conn, cfg, make(chan error, 1))
	if err != nil {
		conn.Close()
		return channel{}, err
	}
	ch := channel{conn: conn, sc: sc, timeout: cfg.RequestTimeout}
	err = sc.Open(context.WithoutCancel(ctx))
	if !stop() {
		err = fmt.Errorf("opening the secure channel: %w", context.Cause(ctx))
	}
	if err != nil {
		ch.abort()
		return channel{}, err
	}
	return ch, nil
}

// abort ends the channel without a word to the server.
func (ch channel) abort() {
	ch.conn.Close()
	ch.sc.Close()
}

// send sends a request and waits for its answer of type R.
func send[R ua.Response](ctx context.Context, ch channel, token *ua.NodeID, timeout time.Duration, req ua.Request) (R, error) {
	var answer R
	err := ch.sc.SendRequestWithTimeout(ctx, req, token, timeout, func(v ua.Response) error {
		a, ok := v.(R)
		if !ok {
			return fmt.Errorf("the server answers %T to %T", v, req)
		}
		answer = a
		return nil
	})
	return answer, err
}

func ask[R ua.Response](ctx context.Context, s *session, req ua.Request) (R, error) {
	return send[R](ctx, s.channel, s.token, s.timeout, req)
}

// openSession connects and logs in.
func (c *Config) openSession(ctx context.Context) (*session, error) {
	endpoints, err := c.discover(ctx)
	if err != nil {
		return nil, err
	}
	ep, err := c.choose(endpoints)
	if err != nil {
		return nil, err
	}
	user := c.userPolicies(ep)[0]
	secure := ep.SecurityPolicyURI != ua.SecurityPolicyURINone
	secret := c.Auth.kind() == ua.UserTokenTypeUserName && user.SecurityPolicyURI != ua.SecurityPolicyURINone
	if c.exposesPassword(ep, user) && !c.AllowPlaintextPassword {
		return nil, pipeline.Permanent(errors.New("the password would go over the network in plain text; " +
			"choose another security_policy, or write allow_plaintext_password: true where nobody can listen"))
	}
	if secure || secret {
		if err := c.checkServer(ep.ServerCertificate); err != nil {
			return nil, err
		}
	}
	cfg := &uasc.Config{SecurityPolicyURI: ep.SecurityPolicyURI, SecurityMode: ep.SecurityMode, RequestTimeout: c.RequestTimeout,
		Lifetime: uint32(channelLifetime / time.Millisecond)}
	var own *identity
	if secure {
		if own, err = c.clientIdentity(); err == nil {
			err = checkValid("this client in "+own.file, own.cert)
		}
		if err != nil {
			return nil, pipeline.Permanent(err)
		}
		cert := ep.ServerCertificate
		cfg.Certificate, cfg.LocalKey, cfg.RemoteCertificate, cfg.Thumbprint = own.cert.Raw, own.key, cert, uapolicy.Thumbprint(cert)
	}
	target := sessionURL(c.Endpoint, ep.EndpointURL)
	ch, err := dial(ctx, target, cfg)
	switch {
	case errors.Is(err, io.EOF) && secure:
		return nil, fmt.Errorf("the server closed the connection while it was made secure: it probably does not trust this client yet; "+
			"let it trust the certificate in %s", own.file)
	case err != nil:
		return nil, c.explain(err)
	}
	s := &session{channel: ch}
	if err := c.login(ctx, s, cfg, own, ep, user, target); err != nil {
		ch.abort()
		return nil, c.explain(err)
	}
	if err := s.learn(ctx, c.ItemsPerRequest); err != nil {
		s.close()
		return nil, fmt.Errorf("reading the server's limits: %w", err)
	}
	return s, nil
}

// exposesPassword reports whether logging in this way sends a password that
// neither is encrypted itself nor goes through an encrypted channel.
func (c *Config) exposesPassword(ep *ua.EndpointDescription, user ua.UserTokenPolicy) bool {
	return c.Auth.kind() == ua.UserTokenTypeUserName && user.SecurityPolicyURI == ua.SecurityPolicyURINone &&
		ep.SecurityMode != ua.MessageSecurityModeSignAndEncrypt
}

// discover asks the server for its endpoints, over a channel of its own.
func (c *Config) discover(ctx context.Context) ([]*ua.EndpointDescription, error) {
	cfg := &uasc.Config{SecurityPolicyURI: ua.SecurityPolicyURINone, SecurityMode: ua.MessageSecurityModeNone, RequestTimeout: c.RequestTimeout,
		Lifetime: uint32(time.Minute / time.Millisecond)}
	ch, err := dial(ctx, c.Endpoint, cfg)
	if err != nil {
		return nil, err
	}
	defer ch.close()
	res, err := send[*ua.GetEndpointsResponse](ctx, ch, nil, c.RequestTimeout, &ua.GetEndpointsRequest{EndpointURL: c.Endpoint})
	if err != nil {
		return nil, fmt.Errorf("asking for the endpoints: %w", err)
	}
	return res.Endpoints, nil
}

// sessionURL is the endpoint as the YAML has it, because the server may know
// itself by a name that nobody else can resolve, with the path the server
// gives where the YAML has none.
func sessionURL(given, advertised string) string {
	g, err := url.Parse(given)
	if err != nil || (g.Path != "" && g.Path != "/") {
		return given
	}
	if a, err := url.Parse(advertised); err == nil {
		g.Path = a.Path
	}
	return g.String()
}

// login creates and activates a session on the open channel.
func (c *Config) login(ctx context.Context, s *session, cfg *uasc.Config, own *identity, ep *ua.EndpointDescription, user ua.UserTokenPolicy, target string) error {
	// The certificate that opened the channel must be the one that was checked.
	if cfg.SecurityPolicyURI != ua.SecurityPolicyURINone && !bytes.Equal(cfg.RemoteCertificate, ep.ServerCertificate) {
		return pipeline.Permanent(errors.New("the server changed its certificate while the connection was made"))
	}
	nonce := make([]byte, 32)
	if _, err := rand.Read(nonce); err != nil {
		return err
	}
	created, err := send[*ua.CreateSessionResponse](ctx, s.channel, nil, c.RequestTimeout, &ua.CreateSessionRequest{
		ClientDescription: &ua.ApplicationDescription{ApplicationURI: own.uri(), ProductURI: "urn:penstock", ApplicationName: ua.NewLocalizedText("Penstock"),
			ApplicationType: ua.ApplicationTypeClient},
		EndpointURL: target, SessionName: "Penstock", ClientNonce: nonce, ClientCertificate: cfg.Certificate,
		RequestedSessionTimeout: float64(sessionTimeout / time.Millisecond),
	})
	if err != nil {
		return fmt.Errorf("creating a session: %w", err)
	}
	if cfg.SecurityPolicyURI != ua.SecurityPolicyURINone {
		if !bytes.Equal(created.ServerCertificate, ep.ServerCertificate) {
			return pipeline.Permanent(errors.New("the server shows another certificate in its session than on its endpoint"))
		}
		if err := s.sc.VerifySessionSignature(created.ServerCertificate, nonce, created.ServerSignature.Signature); err != nil {
			return pipeline.Permanent(fmt.Errorf("the server's signature of the session is wrong: %w", err))
		}
		// Discovery is not protected; this list is. A better endpoint in it means
		// that somebody took that out of the first.
		if best, err := c.choose(created.ServerEndpoints); err == nil && strength(best) > strength(ep) {
			return pipeline.Permanent(errors.New("the list of endpoints was changed on its way here: somebody may be in the middle"))
		}
	}
	s.token = created.AuthenticationToken
	sig, alg, err := s.sc.NewSessionSignature(created.ServerCertificate, created.ServerNonce)
	if err != nil {
		return err
	}
	activate := &ua.ActivateSessionRequest{ClientSignature: &ua.SignatureData{Algorithm: alg, Signature: sig}, LocaleIDs: []string{"en"},
		UserTokenSignature: &ua.SignatureData{}}
	switch c.Auth.kind() {
	case ua.UserTokenTypeUserName:
		if user.SecurityPolicyURI != ua.SecurityPolicyURINone && !bytes.Equal(created.ServerCertificate, ep.ServerCertificate) {
			return pipeline.Permanent(errors.New("the server shows another certificate in its session than on its endpoint"))
		}
		pass, alg, err := s.sc.EncryptUserPassword(user.SecurityPolicyURI, string(c.Auth.Password), created.ServerCertificate, created.ServerNonce)
		if err != nil {
			return fmt.Errorf("encrypting the password: %w", err)
		}
		activate.UserIdentityToken = ua.NewExtensionObject(&ua.UserNameIdentityToken{PolicyID: user.PolicyID, UserName: c.Auth.Username, Password: pass, EncryptionAlgorithm: alg})
	case ua.UserTokenTypeCertificate:
		who, err := loadIdentity(c.Auth.Certificate, c.Auth.Key)
		if err == nil {
			err = checkValid("the user in "+who.file, who.cert)
		}
		if err != nil {
			return pipeline.Permanent(err)
		}
		cfg.UserKey = who.key
		sig, alg, err := s.sc.NewUserTokenSignature(user.SecurityPolicyURI, created.ServerCertificate, created.ServerNonce)
		if err != nil {
			return fmt.Errorf("signing as the user: %w", err)
		}
		activate.UserIdentityToken = ua.NewExtensionObject(&ua.X509IdentityToken{PolicyID: user.PolicyID, CertificateData: who.cert.Raw})
		activate.UserTokenSignature = &ua.SignatureData{Algorithm: alg, Signature: sig}
	default:
		activate.UserIdentityToken = ua.NewExtensionObject(&ua.AnonymousIdentityToken{PolicyID: user.PolicyID})
	}
	if _, err := ask[*ua.ActivateSessionResponse](ctx, s, activate); err != nil {
		return fmt.Errorf("logging in %s: %w", c.Auth.how(), err)
	}
	return nil
}

// learn reads the server's namespaces and what it takes in one request.
func (s *session) learn(ctx context.Context, perRequest int) error {
	ids := []uint32{id.Server_NamespaceArray, id.Server_ServerCapabilities_OperationLimits_MaxNodesPerRead,
		id.Server_ServerCapabilities_OperationLimits_MaxNodesPerBrowse, id.Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall}
	req := &ua.ReadRequest{TimestampsToReturn: ua.TimestampsToReturnNeither}
	for _, n := range ids {
		req.NodesToRead = append(req.NodesToRead, readValue(ua.NewNumericNodeID(0, n)))
	}
	res, err := ask[*ua.ReadResponse](ctx, s, req)
	if err != nil {
		return err
	}
	if len(res.Results) != len(ids) {
		return ua.StatusBadUnknownResponse
	}
	if v := res.Results[0].Value; v != nil {
		s.namespaces, _ = v.Value().([]string)
	}
	limit := func(i int) int {
		n := defaultPerCall
		if v := res.Results[i].Value; v != nil {
			if most, ok := v.Value().(uint32); ok {
				if n = maxPerCall; most > 0 {
					n = int(min(most, maxPerCall))
				}
			}
		}
		if perRequest > 0 {
			n = min(n, perRequest)
		}
		return n
	}
	s.perRead, s.perBrowse, s.perMonitor = limit(1), limit(2), limit(3)
	return nil
}

func readValue(node *ua.NodeID) *ua.ReadValueID {
	return &ua.ReadValueID{NodeID: node, AttributeID: ua.AttributeIDValue, DataEncoding: &ua.QualifiedName{}}
}

// alive asks for the server's state: any answer will do.
func (s *session) alive(ctx context.Context) error {
	req := &ua.ReadRequest{TimestampsToReturn: ua.TimestampsToReturnNeither,
		NodesToRead: []*ua.ReadValueID{readValue(ua.NewNumericNodeID(0, id.Server_ServerStatus_State))}}
	_, err := send[*ua.ReadResponse](ctx, s.channel, s.token, min(s.timeout, 2*time.Second), req)
	return err
}

// close ends channel and connection.
func (ch channel) close() {
	ch.sc.Close()
	ch.conn.Close()
}

// close logs out, which ends the subscriptions too, and disconnects.
func (s *session) close() {
	ctx, cancel := context.WithTimeout(context.Background(), min(s.timeout, 2*time.Second))
	defer cancel()
	_, _ = send[*ua.CloseSessionResponse](ctx, s.channel, s.token, s.timeout, &ua.CloseSessionRequest{DeleteSubscriptions: true}) // it goes anyway
	s.channel.close()
}

// explain turns what servers answer to wrong settings into errors that say
// what is wrong, and that are permanent.
func (c *Config) explain(err error) error {
	var status ua.StatusCode
	if !errors.As(err, &status) || pipeline.IsPermanent(err) {
		return err
	}
	say := func(what string) error { return pipeline.Permanent(fmt.Errorf("%s: %w", what, err)) }
	switch status {
	case ua.StatusBadUserAccessDenied:
		return say("the server does not let this user in: wrong name or password, or no rights")
	case ua.StatusBadIdentityTokenRejected, ua.StatusBadIdentityTokenInvalid:
		return say("the server does not accept this way to log in, or this user")
	case ua.StatusBadCertificateUntrusted, ua.StatusBadCertificateChainIncomplete:
		return fmt.Errorf("the server does not trust this client's certificate yet: %w", err) // until somebody lets it
	case ua.StatusBadCertificateTimeInvalid, ua.StatusBadCertificateIssuerTimeInvalid:
		return say("the server says that a certificate of this client is out of date")
	case ua.StatusBadCertificateURIInvalid, ua.StatusBadCertificateInvalid, ua.StatusBadCertificateUseNotAllowed, ua.StatusBadCertificatePolicyCheckFailed,
		ua.StatusBadCertificateRevoked, ua.StatusBadCertificateIssuerRevoked:
		return say("the server refuses this client's certificate")
	}
	return err
}
