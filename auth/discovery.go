package auth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// maxKeysURL bounds a jwks_uri in bytes.
const maxKeysURL = 2048

var (
	errNoKeysURL    = errors.New("jwks_uri is missing")
	errKeysURL      = errors.New("jwks_uri is not an absolute https URL")
	errKeysURLPlain = errors.New("jwks_uri is not https; InsecureHTTP would allow it")
)

// registeredMetadata are the members of an issuer's metadata that decide.
var registeredMetadata = []string{"issuer", "jwks_uri"}

// discovery finds an issuer's keys through its metadata. It belongs to the
// fetching goroutine alone.
type discovery struct {
	cfg    JWKSConfig
	issuer *url.URL
	client *http.Client

	// Where the keys are, as the metadata said at found; "" if that is not known
	// or has failed since.
	keysURL string
	found   time.Time
}

// load reads the metadata, unless it is fresh, and then the keys. All of it is
// one fetch, under one context.
func (d *discovery) load(ctx context.Context) (document, error) {
	// Fetches on schedule come up to a tenth early, so all of them read the
	// metadata; those for unknown key ids, in between, do not.
	now := time.Now()
	if d.keysURL == "" || now.Sub(d.found) >= d.cfg.RefreshInterval-d.cfg.RefreshInterval/10 {
		keysURL, err := d.discover(ctx)
		if err != nil {
			d.keysURL = ""
			return document{}, fmt.Errorf("discovery: %w", err)
		}
		d.keysURL, d.found = keysURL, now
	}
	doc := document{from: origin(d.keysURL)}
	data, err := httpGet(ctx, d.client, d.keysURL, d.cfg.MaxBody)
	if err == nil {
		doc.keys, doc.bad, err = parseJWKS(data, false)
	}
	if err != nil {
		d.keysURL = "" // they may have moved
		return doc, fmt.Errorf("keys at %q: %w", cut(doc.from), err)
	}
	return doc, nil
}

// discover returns the jwks_uri of the issuer's metadata.
func (d *discovery) discover(ctx context.Context) (string, error) {
	data, err := httpGet(ctx, d.client, strings.TrimSuffix(d.cfg.Discovery, "/")+"/.well-known/openid-configuration", d.cfg.MaxBody)
	var answer *statusError
	if errors.As(err, &answer) && answer.status == http.StatusNotFound {
		// RFC 8414 §3.1: between host and path.
		data, err = httpGet(ctx, d.client, d.issuer.Scheme+"://"+d.issuer.Host+"/.well-known/oauth-authorization-server"+
			strings.TrimSuffix(d.issuer.EscapedPath(), "/"), d.cfg.MaxBody)
	}
	if err != nil {
		return "", err
	}
	return keysURL(data, d.cfg.Discovery, d.issuer.Hostname(), d.cfg.InsecureHTTP)
}

// keysURL returns the jwks_uri of metadata (OpenID Connect Discovery 1.0 §3)
// that is to be of issuer, which is on host. Its errors quote no URL.
func keysURL(metadata []byte, issuer, host string, insecure bool) (string, error) {
	m, err := decodeObject(metadata, registeredMetadata)
	if err != nil {
		return "", err
	}
	// OpenID Connect Discovery 1.0 §4.3, RFC 8414 §3.3: else whoever can put a
	// document there could speak for others.
	if name, _ := m["issuer"].(string); name != issuer {
		return "", fmt.Errorf("issuer %q is not the configured one", cut(name))
	}
	s, ok := m["jwks_uri"].(string)
	if !ok || s == "" {
		return "", errNoKeysURL
	}
	u, err := absoluteURL(s)
	if err != nil || len(s) > maxKeysURL {
		return "", errKeysURL
	}
	if u.Scheme == "http" && !insecure && !isLoopback(u.Hostname()) {
		return "", errKeysURLPlain
	}
	// Another host is legal: Google's keys are not where its issuer is. But the
	// document must not make us look behind our own firewall.
	if kind := innerHost(u.Hostname()); kind != "" && innerHost(host) == "" {
		return "", fmt.Errorf("jwks_uri is on a %s host, and the issuer is not", kind)
	}
	return s, nil
}

// absoluteURL parses an http or https URL without user and fragment.
func absoluteURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || strings.Contains(s, "#") {
		return nil, errors.New("not an absolute https URL") // the parser's own error quotes it
	}
	return u, nil
}

// innerHost says of a host, by its spelling alone, what kind of inner network
// it is in, or "" if it may be a public one. Names are not resolved.
func innerHost(host string) string {
	if strings.ContainsFunc(host, func(r rune) bool { return r >= 0x80 }) {
		return "non-ASCII" // which net/http maps to ASCII, full-width digits to an address
	}
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	if name == "localhost" || strings.HasSuffix(name, ".localhost") { // RFC 6761 §6.3
		return "loopback"
	}
	a, err := netip.ParseAddr(name)
	if err != nil {
		// What ends in a number is an address to resolvers that know
		// the spellings of inet_aton, such as 2130706433, 127.1 and 0x7f.1.
		last := name[strings.LastIndexByte(name, '.')+1:]
		if _, err := strconv.ParseUint(last, 0, 64); err == nil || last != "" && strings.Trim(last, "0123456789") == "" {
			return "numeric"
		}
		return ""
	}
	a = a.WithZone("").Unmap()
	if b := a.As16(); nat64.Contains(a) { // RFC 6052 §2.1
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	switch {
	case a.IsLoopback(), a.IsUnspecified():
		return "loopback"
	case a.IsLinkLocalUnicast():
		return "link-local"
	case a.IsPrivate(), sharedSpace.Contains(a):
		return "private"
	case !a.IsGlobalUnicast():
		return "special"
	}
	return ""
}

var (
	nat64       = netip.MustParsePrefix("64:ff9b::/96")
	sharedSpace = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598
)

// origin is a URL without what may be secret.
func origin(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return ""
	}
	return u.Scheme + "://" + u.Host + u.EscapedPath()
}
