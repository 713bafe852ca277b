package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/gatemesh-go/gatemesh"
)

// act is one scene of the play. What its guard protects is what it proves:
// with the guard removed, it must fail.
type act struct {
	id, title, guard string
	play             func(ctx context.Context, p *platform, r *report) error
}

var acts = []act{
	{"a", "a good token reaches user-service", "the internal identity", actGoodToken},
	{"b", "bad tokens are refused", "the verification of tokens", actBadTokens},
	{"c", "a canary of 10 % that nobody falls out of", "the canary layer", actCanary},
	{"d", "only order-service may call payment-service", "the AuthorizationPolicies of the services", actPolicy},
	{"e", "strangers get no byte through", "the client certificates", actStrangers},
	{"f", "1,000 requests a minute for each API key", "the limit by consumer", actLimit},
	{"g", "the auth service is gone, and nobody waits for it", "keys and verified tokens in memory", actOutage},
	{"h", "every certificate and the root rotated under load", "the overlap of old and new", actRotation},
	{"i", "one trace and one request id through all of it", "the trace context on outbound calls", actTrace},
	{"j", "gRPC under the same identity and policy", "the layers around the gRPC server", actGRPC},
	{"k", "services and gateway replaced under load", "lame duck and drain", actDrain},
	{"l", "a canary raised from 10 % to 25 % under load", "the salt that deals users", actWeight},
	{"m", "payment-service scaled from two to four, and one killed", "lookups and retries", actScale},
	{"n", "a bad v2 that is rolled back by itself", "the analysis of error rates", actRollout},
}

func actGoodToken(ctx context.Context, p *platform, r *report) error {
	token, err := p.auth.token("user-1", nil)
	if err != nil {
		return err
	}
	// Over HTTP/1.1 by hand: http.Client would not send such fields.
	resp, s, err := p.raw(ctx, "GET /v1/users/42 HTTP/1.1\r\nHost: API.example.com.\r\n"+
		"Authorization: Bearer "+token+"\r\n"+
		"X-Gatemesh-Identity: evil\r\nx-gatemesh-identity: evil\r\nX_Gatemesh_Identity: evil\r\nX-GATEMESH_IDENTITY: evil\r\n"+
		"X-Forwarded-For: 203.0.113.9\r\nX-Request-ID: evil\r\n"+
		"Connection: close, X-Gatemesh-Identity, X-Request-Id\r\n\r\n")
	if err != nil {
		return err
	}
	id := resp.Header.Get("X-Request-Id")
	r.same("a", "status", 200, resp.StatusCode)
	r.holds("a", "request id of the response", "ours", id, id != "" && id != "evil")
	r.same("a", "request id at the upstream", id, s.RequestID)
	r.same("a", "request id in the service's own log line", "v1 or v2", versionOr(p.logs.find("user-service", "user read", id, "version")))
	r.same("a", "user that the upstream verified", "user-1", s.Subject)
	r.same("a", "peer that the upstream verified", "spiffe://cluster.local/ns/production/sa/main-gateway", s.Peer)
	r.same("a", "Authorization at the upstream", "[]", s.Header["Authorization"])
	all, err := json.Marshal(s.Header)
	if err != nil {
		return err
	}
	r.same("a", "values the client invented at the upstream", 0, strings.Count(string(all), "evil")+strings.Count(string(all), "203.0.113.9"))
	return nil
}

func versionOr(v string) string {
	if v == "v1" || v == "v2" {
		return "v1 or v2"
	}
	return strconv.Quote(v)
}

func actBadTokens(ctx context.Context, p *platform, r *report) error {
	good, err := p.auth.token("user-1", nil)
	if err != nil {
		return err
	}
	expired, err := p.auth.token("user-1", jwt.MapClaims{"exp": time.Now().Add(-time.Hour).Unix()})
	if err != nil {
		return err
	}
	foreign, err := p.auth.token("user-1", jwt.MapClaims{"aud": "https://other.example.com"})
	if err != nil {
		return err
	}
	none, err := jwt.NewWithClaims(jwt.SigningMethodNone, p.auth.claims("user-1", nil)).SignedString(jwt.UnsafeAllowNoneSignatureType)
	if err != nil {
		return err
	}
	head, signature := good[:strings.LastIndexByte(good, '.')+1], []byte(good[strings.LastIndexByte(good, '.')+1:])
	signature[10] ^= 1 // another letter of the alphabet or an invalid one: never the same signature
	for _, c := range []struct{ what, header string }{
		{"no token", ""},
		{"bad signature", "Bearer " + head + string(signature)},
		{"expired", "Bearer " + expired},
		{"alg none", "Bearer " + none},
		{"wrong audience", "Bearer " + foreign},
	} {
		h := http.Header{}
		if c.header != "" {
			h.Set("Authorization", c.header)
		}
		resp, body, err := p.get(ctx, "/v1/users/1", h)
		if err != nil {
			return err
		}
		var problem struct {
			Status int    `json:"status"`
			Reason string `json:"reason"`
		}
		_ = json.Unmarshal(body, &problem) // a body that is none has status 0
		challenge, _, _ := strings.Cut(resp.Header.Get("WWW-Authenticate"), " ")
		r.holds("b", c.what, "401 application/problem+json, Bearer",
			fmt.Sprintf("%d %s, %s (%s)", resp.StatusCode, resp.Header.Get("Content-Type"), challenge, problem.Reason),
			resp.StatusCode == 401 && problem.Status == 401 && challenge == "Bearer" && resp.Header.Get("Content-Type") == "application/problem+json")
	}
	return nil
}

func actCanary(ctx context.Context, p *platform, r *report) error {
	users, each := 2000, 5
	if p.few {
		users, each = 500, 2
	}
	tokens := make([]string, users)
	err := parallel(ctx, users, func(_ context.Context, i int) (err error) {
		tokens[i], err = p.auth.token("user-"+strconv.Itoa(i), nil)
		return err
	})
	if err != nil {
		return err
	}
	versions := make([]string, users*each)
	err = parallel(ctx, users*each, func(ctx context.Context, i int) (err error) {
		versions[i], err = p.version(ctx, http.Header{"Authorization": {"Bearer " + tokens[i%users]}})
		return err
	})
	if err != nil {
		return err
	}
	v2, failed, flips := 0, 0, 0
	for i, v := range versions {
		switch {
		case v == "v2":
			v2++
		case v != "v1":
			failed++
		}
		if v != versions[i%users] {
			flips++
		}
	}
	share := 100 * float64(v2) / float64(len(versions))
	// 1.5 to 3 standard deviations, of users whose names do not change.
	off := map[bool]float64{false: 1, true: 3}[p.few]
	r.same("c", fmt.Sprintf("requests that failed, of %d", len(versions)), 0, failed)
	r.holds("c", "share of v2", fmt.Sprintf("10 %% ± %.0f", off), fmt.Sprintf("%.2f %%", share), share >= 10-off && share <= 10+off)
	r.same("c", "requests that left the version of their user", 0, flips)
	chosen := users / 10
	on := make([]string, chosen)
	err = parallel(ctx, chosen, func(ctx context.Context, i int) (err error) {
		on[i], err = p.version(ctx, http.Header{"Authorization": {"Bearer " + tokens[i]}, "X-Canary": {"true"}})
		return err
	})
	if err != nil {
		return err
	}
	r.same("c", fmt.Sprintf("x-canary: true answered by v2, of %d", chosen), chosen, strings.Count(strings.Join(on, " "), "v2"))
	return nil
}

func actPolicy(ctx context.Context, p *platform, r *report) error {
	token, err := p.auth.token("user-1", nil)
	if err != nil {
		return err
	}
	type expect struct {
		call, service, cause string
		status               int
	}
	for _, c := range []struct {
		what, method, path string
		expect             []expect
	}{
		{"order-service: POST", http.MethodPost, "/v1/orders", []expect{
			{"POST https://payment-service/v1/payments/1", "", "", 201},
		}},
		{"order-service: GET", http.MethodGet, "/v1/orders/1", []expect{
			{"GET https://payment-service/v1/payments/1", "payment-service", "method GET is not POST", 403},
		}},
		{"inventory-service", http.MethodPost, "/v1/orders/1/shipments", []expect{
			{"POST https://inventory-service/v1/reservations/1", "", "", 200},
			{"POST https://payment-service/v1/payments/1", "payment-service", "sa/inventory-service is not cluster.local/ns/production/sa/order-service", 403},
			{"GET https://user-service/v1/users/1", "user-service", "sa/inventory-service is not cluster.local/ns/production/sa/main-gateway", 403},
		}},
	} {
		resp, s, err := p.do(ctx, c.method, c.path, http.Header{"Authorization": {"Bearer " + token}})
		if err != nil {
			return err
		}
		for i, e := range c.expect {
			var got outcome
			if i < len(s.Calls) {
				got = s.Calls[i]
			}
			r.same("d", c.what+" → "+e.call, fmt.Sprint(e.status), fmt.Sprint(got.Status)+got.Error)
			if e.cause != "" {
				cause := p.logs.find(e.service, "denied", resp.Header.Get("X-Request-Id"), "cause")
				r.holds("d", "log of "+e.service, "… "+e.cause, cause, strings.Contains(cause, e.cause))
			}
		}
	}
	return nil
}

func actStrangers(ctx context.Context, p *platform, r *report) error {
	foreign, err := stranger()
	if err != nil {
		return err
	}
	member, err := p.mesh.CA().Issue(orderID, time.Hour)
	if err != nil {
		return err
	}
	for _, s := range p.doors() {
		for _, c := range []struct {
			what     string
			certs    []tls.Certificate
			expected string
		}{
			{"no certificate", nil, "no byte"},
			{"order-service's id from another CA", []tls.Certificate{foreign}, "no byte"},
			{"order-service itself", []tls.Certificate{member}, "an answer"},
		} {
			n, err := knock(ctx, s.addr, c.certs)
			if err != nil {
				return err
			}
			got := "no byte"
			if n > 0 {
				got = "an answer"
			}
			r.same("e", s.name+" ← "+c.what, c.expected, got)
		}
	}
	return nil
}

// door is where a service listens.
type door struct{ name, addr string }

// doors returns one replica of each service.
func (p *platform) doors() (doors []door) {
	p.fleet.mu.Lock()
	defer p.fleet.mu.Unlock()
	for _, host := range slices.Sorted(maps.Keys(p.fleet.replicas)) {
		if all := p.fleet.replicas[host]; len(all) > 0 {
			name, _, _ := strings.Cut(host, ".")
			doors = append(doors, door{name, all[0].http})
		}
	}
	return doors
}

// knock sends a request to addr with certs and returns how many bytes of
// application data come back.
func knock(ctx context.Context, addr string, certs []tls.Certificate) (int64, error) {
	d := tls.Dialer{Config: &tls.Config{
		InsecureSkipVerify: true, //nolint:gosec // a stranger does not care whom it talks to
		Certificates:       certs, MinVersion: tls.VersionTLS12,
	}}
	conn, err := d.DialContext(ctx, "tcp", addr)
	var refused *net.OpError
	if errors.As(err, &refused) && refused.Op == "dial" {
		return 0, err // nobody listens, which proves nothing
	}
	if err != nil {
		return 0, nil // refused in the handshake
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return 0, err
	}
	// With TLS 1.3 the server's refusal arrives after our half of the handshake.
	_, _ = io.WriteString(conn, "GET /v1/payments/1 HTTP/1.1\r\nHost: payment-service\r\nConnection: close\r\n\r\n")
	n, err := io.Copy(io.Discard, conn)
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, net.ErrClosed) {
		return n, err
	}
	return n, nil
}

func actLimit(ctx context.Context, p *platform, r *report) error {
	first := http.Header{"X-Api-Key": {p.keys["acme"]}}
	const quota = 1000
	statuses := make([]int, quota)
	err := parallel(ctx, quota, func(ctx context.Context, i int) error {
		resp, _, err := p.get(ctx, "/v1/users/1", first)
		if err == nil {
			statuses[i] = resp.StatusCode
		}
		return err
	})
	if err != nil {
		return err
	}
	passed := 0
	for _, s := range statuses {
		if s == http.StatusOK {
			passed++
		}
	}
	r.same("f", "requests of the first key that passed, of 1,000", quota, passed)
	resp, _, err := p.get(ctx, "/v1/users/1", first)
	if err != nil {
		return err
	}
	wait, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
	r.same("f", "the 1,001st", 429, resp.StatusCode)
	r.holds("f", "Retry-After", "1 to 60", resp.Header.Get("Retry-After"), wait >= 1 && wait <= 60)
	limit := resp.Header.Get("RateLimit")
	r.holds("f", "RateLimit", `"consumer";r=0;t=…`, limit, strings.HasPrefix(limit, `"consumer";r=0;t=`))
	quoted := resp.Header.Get("RateLimit-Policy")
	r.same("f", "RateLimit-Policy", `"consumer";q=1000;w=60`, quoted)
	resp, _, err = p.get(ctx, "/v1/users/1", http.Header{"X-Api-Key": {p.keys["globex"]}})
	if err != nil {
		return err
	}
	r.same("f", "another key", 200, resp.StatusCode)
	return nil
}

// raw sends a request as it stands over TLS and HTTP/1.1.
func (p *platform) raw(ctx context.Context, request string) (*http.Response, seen, error) {
	d := tls.Dialer{Config: &tls.Config{RootCAs: p.edge.ca.Pool(), ServerName: host, MinVersion: tls.VersionTLS12}}
	conn, err := d.DialContext(ctx, "tcp", p.gateway.addr)
	if err != nil {
		return nil, seen{}, err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, request); err != nil {
		return nil, seen{}, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return nil, seen{}, err
	}
	defer resp.Body.Close()
	var s seen
	_ = json.NewDecoder(resp.Body).Decode(&s) // a refusal has another shape
	return resp, s, nil
}

// do sends a request to the gateway over HTTP/2.
func (p *platform) do(ctx context.Context, method, path string, h http.Header) (*http.Response, seen, error) {
	resp, body, err := p.send(ctx, method, path, h)
	var s seen
	_ = json.Unmarshal(body, &s) // a refusal has another shape
	return resp, s, err
}

func (p *platform) get(ctx context.Context, path string, h http.Header) (*http.Response, []byte, error) {
	return p.send(ctx, http.MethodGet, path, h)
}

func (p *platform) send(ctx context.Context, method, path string, h http.Header) (*http.Response, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "https://"+host+path, http.NoBody)
	if err != nil {
		return nil, nil, err
	}
	req.Header = h
	resp, err := p.http.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp, body, err
}

// version returns which version of user-service answers, or the status.
func (p *platform) version(ctx context.Context, h http.Header) (string, error) {
	resp, s, err := p.do(ctx, http.MethodGet, "/v1/users/1", h)
	if err != nil {
		return "", err
	}
	if s.Version == "" {
		return resp.Status, nil
	}
	return s.Version, nil
}

// unverified stands in for auth when act b is broken: it believes tokens.
func unverified(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
	var claims jwt.RegisteredClaims
	token := strings.TrimPrefix(c.Header().Get("Authorization"), "Bearer ")
	_, _, _ = jwt.NewParser().ParseUnverified(token, &claims) // whatever it says
	return gatemesh.Admission{Principal: gatemesh.NewPrincipal(gatemesh.PrincipalInfo{
		Issuer: "nobody", Subject: claims.Subject + "?", Method: "unverified",
	})}, nil
}
