package auth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gatemesh-go/gatemesh/breaker"
)

// IntrospectionConfig configures an [Introspection]. The zero
// IntrospectionConfig is invalid.
type IntrospectionConfig struct {
	// URL is the introspection endpoint, with https. Redirects are not followed:
	// they would take tokens somewhere else. Required.
	URL string
	// ClientID and ClientSecret are what we authenticate with (RFC 6749 §2.3.1,
	// client_secret_basic). Required, unless Client does it, as with a
	// certificate.
	ClientID, ClientSecret string
	// CredentialsInBody sends them as parameters (client_secret_post), for
	// servers that do not accept the other way.
	CredentialsInBody bool
	// InsecureHTTP allows a URL with http to other hosts than this one. Whoever
	// is on the way then reads tokens, and makes them good.
	InsecureHTTP bool
	// Client makes the requests. Its CheckRedirect is not used. Default: a
	// client of its own that keeps up to 100 connections, with the proxies of
	// the environment.
	Client *http.Client
	// MaxBody bounds an answer in bytes. Those of tokens that are remembered stay
	// in memory, up to [Config.CacheEntries] of them. 1 to 16 MiB. Default: 32
	// KiB.
	MaxBody int64
}

// Format prints the endpoint and the client's id, whatever the verb, and no
// secret.
func (cfg IntrospectionConfig) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "token introspection at %s as %q", bareURL(cfg.URL), cfg.ClientID)
}

// Introspection is a [TokenVerifier] that asks the authorization server about
// each token (RFC 7662). It is safe for concurrent use. [Opaque] remembers what
// it says, bounds how often it is asked, and stands in when it is away.
//
// A token is good if the answer says "active": true, and nothing that speaks
// against an access token: a token_type other than Bearer, which demands a proof
// that we do not check, or a token_use other than access.
type Introspection struct {
	cfg    IntrospectionConfig
	client http.Client
	idle   func()
}

var _ TokenVerifier = (*Introspection)(nil)

// NewIntrospection returns an Introspection. It reports every invalid field at
// once, and asks nobody yet.
func NewIntrospection(cfg IntrospectionConfig) (*Introspection, error) {
	if cfg.MaxBody == 0 {
		cfg.MaxBody = 32 << 10
	}
	var f faults
	checkURL(&f, "IntrospectionConfig.URL", cfg.URL, cfg.InsecureHTTP)
	switch {
	case (cfg.ClientID == "") != (cfg.ClientSecret == ""):
		f.add("IntrospectionConfig needs ClientID and ClientSecret together")
	case cfg.ClientID == "" && cfg.Client == nil:
		f.add("IntrospectionConfig.ClientID is required, or a Client that authenticates")
	}
	checkRange(&f, "IntrospectionConfig.MaxBody", cfg.MaxBody, 1, 16<<20)
	if err := errors.Join(f...); err != nil {
		return nil, err
	}
	in := &Introspection{cfg: cfg}
	in.client, in.idle = httpClient(cfg.Client, 100)
	return in, nil
}

// Close closes the connections that are not in use. Calls under way end as they
// would.
func (in *Introspection) Close() error {
	if in.idle != nil {
		in.idle()
	}
	return nil
}

// Format prints the endpoint, whatever the verb, and no secret.
func (in *Introspection) Format(f fmt.State, _ rune) {
	if in == nil {
		fmt.Fprint(f, "<nil introspection>")
		return
	}
	fmt.Fprintf(f, "token introspection at %s", bareURL(in.cfg.URL))
}

var introspectionNames = append([]string{"active", "token_type", "token_use"}, registeredClaims...)

var (
	// errUnreadable marks an answer that came and says nothing. What is in it may
	// be of the token's owner.
	errUnreadable = errors.New("the introspection response is of no use")
	errNoAnswer   = fmt.Errorf("%w: active is not a boolean", errUnreadable)
	errRefresh    = fmt.Errorf("%w: it is no bearer access token", ErrInactive)
)

// VerifyToken asks about token. It returns [ErrInactive] if the server says that
// it is not active.
func (in *Introspection) VerifyToken(ctx context.Context, token string) (map[string]any, error) {
	if in.client.Transport == nil && in.idle == nil {
		return nil, errors.New("auth: the Introspection was not made by NewIntrospection")
	}
	form := url.Values{"token": {token}, "token_type_hint": {"access_token"}}
	if in.cfg.CredentialsInBody && in.cfg.ClientID != "" {
		form.Set("client_id", in.cfg.ClientID)
		form.Set("client_secret", in.cfg.ClientSecret)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, in.cfg.URL, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, errors.New("URL is invalid")
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	if !in.cfg.CredentialsInBody && in.cfg.ClientID != "" {
		req.SetBasicAuth(url.QueryEscape(in.cfg.ClientID), url.QueryEscape(in.cfg.ClientSecret))
	}
	resp, err := in.client.Do(req)
	if err != nil {
		return nil, withoutURL(err)
	}
	defer func() { _ = resp.Body.Close() }() // the answer is read or given up
	data, err := readAll(resp.Body, in.cfg.MaxBody)
	switch {
	case resp.StatusCode != http.StatusOK:
		return nil, &statusError{resp.StatusCode, breaker.RetryAfter(resp.Header.Get("Retry-After"), time.Now())}
	case errors.Is(err, errTooLong):
		return nil, fmt.Errorf("%w: %w", errUnreadable, err)
	case err != nil:
		return nil, err
	}
	m, err := decodeObject(data, introspectionNames)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	active, ok := m["active"].(bool)
	switch {
	case !ok:
		return nil, errNoAnswer
	case !active:
		return nil, ErrInactive
	case !says(m, "token_type", "bearer"), !says(m, "token_use", "access", "access_token"):
		return nil, errRefresh
	}
	return m, nil
}

// says reports whether a member is absent or one of want, in any case.
func says(m map[string]any, name string, want ...string) bool {
	v, there := m[name]
	s, _ := v.(string)
	for _, w := range want {
		if strings.EqualFold(s, w) {
			return true
		}
	}
	return !there
}
