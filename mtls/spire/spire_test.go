package spire_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/internal/leaktest"
	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
	"github.com/gatemesh-go/gatemesh/mtls/spire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	domain = "td.example"
	id     = "spiffe://td.example/ns/prod/sa/a"
	other  = "spiffe://td.example/ns/prod/sa/b"
)

func issue(t testing.TB, ca *devca.CA, id string) *workload.X509SVID {
	t.Helper()
	return svid(t, gatemesh.Must(ca.Issue(id, time.Hour)), ca.Bundle())
}

func newSource(t testing.TB, cfg spire.Config) *spire.Source {
	t.Helper()
	s, err := spire.New(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// changes waits until the credentials are not old.
func changes(t testing.TB, s *spire.Source, old *mtls.Credentials) *mtls.Credentials {
	t.Helper()
	require.Eventually(t, func() bool { return s.Credentials() != old }, time.Minute, time.Millisecond)
	return s.Credentials()
}

func TestNew_Invalid(t *testing.T) {
	t.Setenv("SPIFFE_ENDPOINT_SOCKET", "")
	_, err := spire.New(t.Context(), spire.Config{})
	assert.ErrorContains(t, err, "SPIFFE_ENDPOINT_SOCKET")
	_, err = spire.New(t.Context(), spire.Config{Addr: "x", ID: "x", Hint: "x", TrustDomain: "A B", Timeout: -1})
	for _, want := range []string{"Addr", "ID", "Hint", "TrustDomain", "Timeout"} {
		assert.ErrorContains(t, err, "spire: Config."+want)
	}
	_, err = spire.New(t.Context(), spire.Config{Addr: "unix:///x", ID: id, TrustDomain: "other.example"})
	assert.ErrorContains(t, err, "other.example")
	for addr, ok := range map[string]bool{
		"tcp://192.0.2.1:80": false, "tcp://0.0.0.0:80": false, "tcp://[::]:80": false, "tcp://localhost:80": false,
		"tcp://127.0.0.1:1": true, "tcp://[::1]:1": true, "tcp://[::ffff:127.0.0.1]:1": true, "http://127.0.0.1": false, "unix://u@/x": false,
	} {
		_, err := spire.New(t.Context(), spire.Config{Addr: addr, Timeout: time.Millisecond})
		assert.Equal(t, ok, errors.Is(err, context.DeadlineExceeded), "%s: %v", addr, err)
	}
}

func TestNew_Environment(t *testing.T) {
	ca, a := gatemesh.Must(devca.New(domain)), newAgent(t)
	a.set(response(issue(t, ca, id)), nil)
	a.start(t)
	t.Setenv("SPIFFE_ENDPOINT_SOCKET", a.addr())
	s := newSource(t, spire.Config{})
	assert.Equal(t, id, s.Credentials().ID.String())
	assert.Equal(t, "agent with credentials of "+id, fmt.Sprintf("%+v", s))
}

func TestNew_Bounded(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	_, err := spire.New(t.Context(), spire.Config{Addr: a.addr(), Timeout: 3 * time.Second})
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Equal(t, codes.Unavailable, status.Code(err), "says why: %v", err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = spire.New(ctx, spire.Config{Addr: a.addr()})
	assert.ErrorIs(t, err, context.Canceled)
	a.start(t) // which has no identity for us
	_, err = spire.New(t.Context(), spire.Config{Addr: a.addr(), Timeout: 3 * time.Second})
	assert.ErrorContains(t, err, "no identity issued")
}

// TestNew_WaitsForRegistration: a workload often starts before its entry is known.
func TestNew_WaitsForRegistration(t *testing.T) {
	t.Parallel()
	ca, a := gatemesh.Must(devca.New(domain)), newAgent(t)
	a.start(t)
	go func() {
		for a.asked() == 0 {
			time.Sleep(time.Millisecond)
		}
		a.set(response(issue(t, ca, id)), nil)
	}()
	assert.Equal(t, id, newSource(t, spire.Config{Addr: a.addr()}).Credentials().ID.String())
}

func TestSource_Rotation(t *testing.T) {
	t.Parallel()
	ca, a := gatemesh.Must(devca.New(domain)), newAgent(t)
	friend := gatemesh.Must(devca.New("friend.example"))
	a.start(t)
	first := issue(t, ca, id)
	a.set(response(first), nil)
	s := newSource(t, spire.Config{Addr: a.addr(), TrustDomain: domain})
	one := s.Credentials()
	assert.Equal(t, first.X509Svid, one.Certificate.Leaf.Raw)

	a.set(response(first), nil)
	second := issue(t, ca, id)
	a.set(response(second), nil)
	two := changes(t, s, one) // streams are in order: what was the same changed nothing
	assert.Equal(t, second.X509Svid, two.Certificate.Leaf.Raw)
	assert.Same(t, one.Bundles, two.Bundles, "peers need not be verified anew")

	require.NoError(t, ca.Rotate())
	second.Bundle = raw(ca.Bundle())
	a.set(response(second), nil)
	three := changes(t, s, two)
	assert.Equal(t, two.Certificate.Leaf.Raw, three.Certificate.Leaf.Raw)
	assert.NotSame(t, two.Bundles, three.Bundles)

	federated := response(second)
	federated.FederatedBundles = map[string][]byte{"spiffe://friend.example": raw(friend.Bundle())}
	a.set(federated, nil)
	four := changes(t, s, three)
	require.NotSame(t, three.Bundles, four.Bundles)
	server := gatemesh.Must(mtls.New(mtls.Config{Source: s, Authorize: func(*gatemesh.Peer) error { return nil }}))
	assert.Equal(t, 404, call(t, server, friend), "a federated workload")

	a.set(response(second), nil) // Workload API §4.4: what is absent is withdrawn
	five := changes(t, s, four)
	assert.NotSame(t, four.Bundles, five.Bundles)
	assert.Zero(t, call(t, server, friend), "and now a stranger")
	assert.Equal(t, 404, call(t, server, ca))
}

// call returns the status of a call from a workload of ca to the server, or 0.
func call(t testing.TB, server *mtls.TLS, ca *devca.CA) int {
	t.Helper()
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Listener = tls.NewListener(s.Listener, server.ServerConfig())
	s.Start()
	defer s.Close()
	cert := gatemesh.Must(ca.Issue("spiffe://"+ca.TrustDomain()+"/caller", time.Hour))
	tr := &http.Transport{TLSClientConfig: &tls.Config{
		InsecureSkipVerify:   true, // the server is what is tested
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil },
	}}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Get("https://" + s.Listener.Addr().String())
	if err != nil {
		return 0
	}
	require.NoError(t, resp.Body.Close())
	return resp.StatusCode
}

func TestSource_PicksIdentity(t *testing.T) {
	t.Parallel()
	ca, a := gatemesh.Must(devca.New(domain)), newAgent(t)
	a.start(t)
	first, second := issue(t, ca, id), issue(t, ca, other)
	first.Hint, second.Hint = "internal", "external"
	a.set(response(first, second), nil)
	for _, test := range []struct {
		cfg  spire.Config
		want string
	}{
		{spire.Config{}, id},
		{spire.Config{ID: id}, id},
		{spire.Config{Hint: "internal"}, id},
		{spire.Config{ID: other}, other},
		{spire.Config{Hint: "external"}, other},
	} {
		test.cfg.Addr = a.addr()
		assert.Equal(t, test.want, newSource(t, test.cfg).Credentials().ID.String(), "%+v", test.cfg)
	}
	first.Hint, second.Hint = "", ""
	a.set(response(first, second), nil)
	assert.Equal(t, other, newSource(t, spire.Config{Addr: a.addr(), ID: other}).Credentials().ID.String(), "without hints")
	for _, cfg := range []spire.Config{{ID: id + "/x"}, {Hint: "none"}, {TrustDomain: "other.example"}} {
		cfg.Addr, cfg.Timeout = a.addr(), 3*time.Second
		_, err := spire.New(t.Context(), cfg)
		assert.ErrorContains(t, err, id, "what the agent has: %+v", cfg)
	}
}

// TestMTLS04_Agent: what the agent sends is not usable, at the start and later.
func TestMTLS04_Agent(t *testing.T) {
	t.Parallel()
	ca, friend := gatemesh.Must(devca.New(domain)), gatemesh.Must(devca.New("friend.example"))
	good := issue(t, ca, id)
	with := func(change func(*workload.X509SVID)) *workload.X509SVIDResponse {
		bad := issue(t, ca, id)
		change(bad)
		return response(bad)
	}
	leaf := gatemesh.Must(ca.Issue(id, time.Hour)).Leaf
	federated := func(td string, bundle []byte) *workload.X509SVIDResponse {
		r := response(issue(t, ca, id))
		r.FederatedBundles = map[string][]byte{td: bundle}
		return r
	}
	for name, bad := range map[string]*workload.X509SVIDResponse{
		"nothing":                     {},
		"no certificate":              with(func(s *workload.X509SVID) { s.X509Svid = nil }),
		"garbage for a certificate":   with(func(s *workload.X509SVID) { s.X509Svid = []byte("x") }),
		"no key":                      with(func(s *workload.X509SVID) { s.X509SvidKey = nil }),
		"another key":                 with(func(s *workload.X509SVID) { s.X509SvidKey = issue(t, ca, id).X509SvidKey }),
		"a CA as certificate":         with(func(s *workload.X509SVID) { s.X509Svid = ca.Bundle()[0].Raw }),
		"an empty bundle":             with(func(s *workload.X509SVID) { s.Bundle = nil }),
		"garbage for a bundle":        with(func(s *workload.X509SVID) { s.Bundle = []byte("x") }),
		"a leaf as bundle":            with(func(s *workload.X509SVID) { s.Bundle = leaf.Raw }),
		"a bundle for another domain": with(func(s *workload.X509SVID) { s.SpiffeId = "spiffe://friend.example/x" }),
		"another trust domain":        response(issue(t, friend, "spiffe://friend.example/ns/prod/sa/a")),
		"expired":                     response(svid(t, gatemesh.Must(ca.Issue(id, time.Nanosecond)), ca.Bundle())),
		"an empty federated bundle":   federated("spiffe://friend.example", nil),
		"a broken federated bundle":   federated("spiffe://friend.example", []byte("x")),
		"a leaf as federated bundle":  federated("spiffe://friend.example", leaf.Raw),
		"no name of a trust domain":   federated("A B", raw(friend.Bundle())),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAgent(t)
			a.start(t)
			a.set(bad, nil)
			_, err := spire.New(t.Context(), spire.Config{Addr: a.addr(), TrustDomain: domain, Timeout: 200 * time.Millisecond})
			assert.ErrorIs(t, err, context.DeadlineExceeded, "at the start")

			var heard events
			a.set(response(good), nil)
			s := newSource(t, spire.Config{Addr: a.addr(), TrustDomain: domain, Observer: &heard})
			first := s.Credentials()
			a.set(bad, nil)
			require.Eventually(t, func() bool { return len(heard.faults()) > 0 }, time.Minute, time.Millisecond)
			assert.Same(t, first, s.Credentials())
			a.set(response(issue(t, ca, id)), nil)
			second := changes(t, s, first)
			assert.Same(t, first.Bundles, second.Bundles)
			assert.Len(t, heard.faults(), 1)
		})
	}
}

func TestSource_AgentAway(t *testing.T) {
	t.Parallel()
	for name, away := range map[string]func(*testing.T, *agent){
		"restart":          func(_ *testing.T, a *agent) { a.stop() },
		"permission":       func(_ *testing.T, a *agent) { a.set(nil, status.Error(codes.PermissionDenied, "no identity issued")) },
		"invalid argument": func(_ *testing.T, a *agent) { a.set(nil, status.Error(codes.InvalidArgument, "x")) },
		"canceled":         func(_ *testing.T, a *agent) { a.set(nil, status.Error(codes.Canceled, "x")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ca, a := gatemesh.Must(devca.New(domain)), newAgent(t)
			a.start(t)
			a.set(response(issue(t, ca, id)), nil)
			var heard events
			s := newSource(t, spire.Config{Addr: a.addr(), Observer: &heard})
			first := s.Credentials()
			away(t, a)
			require.Eventually(t, func() bool { return len(heard.faults()) > 0 }, time.Minute, time.Millisecond)
			assert.Same(t, first, s.Credentials(), "the last good ones")
			a.set(response(issue(t, ca, id)), nil)
			if a.server == nil {
				a.start(t)
			}
			changes(t, s, first)
		})
	}
}

// TestSource_ReportsOnce: an agent that refuses for long is one fault.
func TestSource_ReportsOnce(t *testing.T) {
	t.Parallel()
	ca, a := gatemesh.Must(devca.New(domain)), newAgent(t)
	a.start(t)
	a.set(response(issue(t, ca, id)), nil)
	var heard events
	s := newSource(t, spire.Config{Addr: a.addr(), Observer: &heard})
	first := s.Credentials()
	before := a.asked()
	a.set(nil, status.Error(codes.PermissionDenied, "no identity issued"))
	require.Eventually(t, func() bool { return a.asked() >= before+4 }, time.Minute, time.Millisecond)
	assert.Len(t, heard.faults(), 1)
	a.set(response(issue(t, ca, id)), nil)
	second := changes(t, s, first)
	a.set(nil, status.Error(codes.PermissionDenied, "no identity issued"))
	require.Eventually(t, func() bool { return len(heard.faults()) == 2 }, time.Minute, time.Millisecond, "and again after it was well")
	assert.Same(t, second, s.Credentials())
}

func TestSource_Close(t *testing.T) {
	t.Parallel()
	ca, a := gatemesh.Must(devca.New(domain)), newAgent(t)
	a.start(t)
	a.set(response(issue(t, ca, id)), nil)
	var heard events
	s := newSource(t, spire.Config{Addr: a.addr(), Observer: &heard})
	first := s.Credentials()
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
	a.set(response(issue(t, ca, id)), nil)
	a.stop()
	assert.Same(t, first, s.Credentials())
	assert.Empty(t, heard.faults(), "to close it is no fault")
}

func TestSource_Zero(t *testing.T) {
	t.Parallel()
	s := &spire.Source{}
	assert.Nil(t, s.Credentials())
	assert.NoError(t, s.Close())
}

// TestLC01_Source does not run in parallel: it counts what is left.
func TestLC01_Source(t *testing.T) {
	ca, a := gatemesh.Must(devca.New(domain)), newAgent(t)
	a.start(t)
	answers := []*workload.X509SVIDResponse{response(issue(t, ca, id)), response(issue(t, ca, id))}
	require.NoError(t, leaktest.Check(1000, func() {
		a.set(answers[0], nil)
		s, err := spire.New(t.Context(), spire.Config{Addr: a.addr()})
		require.NoError(t, err)
		first := s.Credentials()
		a.set(answers[1], nil)
		for s.Credentials() == first {
			time.Sleep(50 * time.Microsecond)
		}
		a.set(answers[0], nil) // may arrive while it is closed
		require.NoError(t, s.Close())
		require.NoError(t, s.Close())
	}))
}
