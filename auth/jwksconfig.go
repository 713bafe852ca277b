package auth

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"reflect"
	"strings"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// JWKSConfig configures a [JWKS]. The zero JWKSConfig is invalid: exactly
// one of URL, Discovery and File is required. All of it can be changed with [JWKS.Update].
type JWKSConfig struct {
	// URL is where the issuer publishes its keys, with https. Redirects are
	// not followed: the keys would be somebody else's.
	URL string
	// Discovery is an issuer's URL, with https and without query and fragment.
	// The keys are where its metadata says (OpenID Connect Discovery 1.0 §4, RFC
	// 8414 §3): that is read from Discovery + "/.well-known/openid-configuration"
	// and, if there is none (404), from the same host's
	// "/.well-known/oauth-authorization-server" + the path of Discovery. A slash
	// at the end of Discovery is left out there.
	//
	// The issuer in the metadata must equal Discovery byte for byte, and its
	// jwks_uri must be absolute and https; InsecureHTTP and this host are excepted
	// as for URL. The jwks_uri may be on another host, as Google's is, and
	// whoever can write the metadata chooses it. If the issuer's own host is not
	// an inner one, that must not be one either: localhost, an address that is
	// loopback, unspecified, link-local, private (RFC 1918, 4193, 6598) or
	// multicast, or a number in another spelling. Names are not resolved for
	// that: what they may resolve to is for the network, or for Client, to bound.
	// What a Client of yours adds to requests, such as credentials, goes to both
	// hosts.
	//
	// Metadata and keys are one fetch: one FetchTimeout, Cooldown and breaker, and
	// MaxBody for each; no redirect is followed for either. Fetches on the
	// schedule, the first one, and one after a failure read the metadata; those
	// for unknown key ids in between read the keys alone, so a new jwks_uri is in
	// use within two RefreshIntervals. If one of the two documents cannot be had
	// or used, the fetch has failed, and the last good keys stay up to MaxStale.
	Discovery string
	// File is read instead of URL. It must be readable and valid from the
	// start, while an endpoint may still be down.
	File string
	// InsecureHTTP allows a URL, Discovery or jwks_uri with http to other hosts than this one.
	// Whoever is on the way can then put in keys of his own.
	InsecureHTTP bool
	// Client makes the requests. Its CheckRedirect is not used. Default: a
	// client of its own, with the proxies of the environment.
	Client *http.Client
	// RefreshInterval is the longest time between two successful fetches, and
	// so the time after which a withdrawn key is refused. Fetches come up to a
	// tenth earlier, so that replicas do not march in step. Default: 5 minutes.
	RefreshInterval time.Duration
	// FetchTimeout bounds a fetch and every wait for one. Default: 2 seconds.
	FetchTimeout time.Duration
	// MaxStale is how long the last good keys are used when no fetch succeeds.
	// Default: 1 hour. Not shorter than RefreshInterval.
	MaxStale time.Duration
	// Cooldown is the shortest time between two fetches, whatever key ids
	// callers invent; only [JWKS.Update] can begin one earlier. After a failed
	// fetch, the next one follows within two cool-downs, unless the third failure
	// in a row opened the breaker and the endpoint asked for more with
	// Retry-After, which is granted up to a minute.
	// An issuer that signs with a key sooner after it has published it may see
	// its tokens refused until the cool-down is over.
	// Default: 10 seconds, or RefreshInterval if that is less, which is also its
	// upper limit.
	Cooldown time.Duration
	// MaxBody bounds the document in bytes. Default: 1 MiB.
	MaxBody int64
	// Observer hears of fetches that failed or work again, of the breaker, and
	// of keys that cannot be used. Default: nobody.
	Observer gatemesh.Observer
}

// Format prints where the keys come from, whatever the verb, without what may
// be secret.
func (cfg JWKSConfig) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "JWKS of %s%s%s", bareURL(cfg.URL), bareURL(cfg.Discovery), cfg.File)
}

func (cfg JWKSConfig) withDefaults() JWKSConfig {
	if cfg.RefreshInterval == 0 {
		cfg.RefreshInterval = 5 * time.Minute
	}
	if cfg.FetchTimeout == 0 {
		cfg.FetchTimeout = 2 * time.Second
	}
	if cfg.MaxStale == 0 {
		cfg.MaxStale = time.Hour
	}
	if cfg.Cooldown == 0 {
		cfg.Cooldown = min(10*time.Second, cfg.RefreshInterval)
	}
	if cfg.MaxBody == 0 {
		cfg.MaxBody = 1 << 20
	}
	if cfg.Client != nil {
		c := *cfg.Client
		cfg.Client = &c
	}
	return cfg
}

// fetchesLike reports whether a fetch with o, and what follows from its end, is
// one with cfg, too.
func (cfg *JWKSConfig) fetchesLike(o *JWKSConfig) bool {
	return cfg.URL == o.URL && cfg.File == o.File && cfg.Discovery == o.Discovery &&
		(cfg.Discovery == "" || cfg.RefreshInterval == o.RefreshInterval && cfg.InsecureHTTP == o.InsecureHTTP) && cfg.FetchTimeout == o.FetchTimeout && cfg.Cooldown == o.Cooldown &&
		cfg.MaxBody == o.MaxBody && sameClient(cfg.Client, o.Client)
}

// sameClient compares what clients do, as they are copies.
func sameClient(a, b *http.Client) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Timeout == b.Timeout && sameValue(a.Transport, b.Transport) && sameValue(a.Jar, b.Jar)
}

// sameValue compares values, of which foreign ones may not be comparable.
func sameValue(a, b any) bool {
	if a == nil || b == nil {
		return a == b
	}
	return reflect.ValueOf(a).Comparable() && reflect.ValueOf(b).Comparable() && a == b
}

// validate returns how to name the source in events, without what may be secret.
func (cfg *JWKSConfig) validate() (name string, err error) {
	var f faults
	places := 0
	for _, p := range []string{cfg.URL, cfg.Discovery, cfg.File} {
		if p != "" {
			places++
		}
	}
	if places != 1 {
		f.add("JWKSConfig needs exactly one of URL, Discovery and File")
	}
	if cfg.File != "" {
		name = cfg.File
	}
	for _, p := range []struct{ field, value string }{{"URL", cfg.URL}, {"Discovery", cfg.Discovery}} {
		if p.value == "" {
			continue
		}
		checkURL(&f, "JWKSConfig."+p.field, p.value, cfg.InsecureHTTP)
		u, err := url.Parse(p.value)
		if p.field == "Discovery" && err == nil && u.Host != "" && (u.Hostname() == "" || u.User != nil || strings.ContainsAny(p.value, "?#")) {
			f.add("JWKSConfig.Discovery is not an issuer's URL, which has neither user nor query nor fragment")
		}
		name = bareURL(p.value)
	}
	checkRange(&f, "JWKSConfig.RefreshInterval", cfg.RefreshInterval, time.Second, 24*time.Hour)
	checkRange(&f, "JWKSConfig.FetchTimeout", cfg.FetchTimeout, time.Millisecond, time.Minute)
	checkRange(&f, "JWKSConfig.MaxStale", cfg.MaxStale, cfg.RefreshInterval, 30*24*time.Hour)
	checkRange(&f, "JWKSConfig.Cooldown", cfg.Cooldown, 100*time.Millisecond, cfg.RefreshInterval)
	if cfg.MaxBody < 1 || cfg.MaxBody > 64<<20 {
		f.add("JWKSConfig.MaxBody %d is not between 1 and 64 MiB", cfg.MaxBody)
	}
	return name, errors.Join(f...)
}

// checkURL reports what is wrong with the URL of an endpoint that we have to
// believe.
func checkURL(f *faults, field, raw string, insecure bool) {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		f.add("%s is not an absolute https URL", field)
	case u.Scheme == "http" && !insecure && !isLoopback(u.Hostname()):
		f.add("%s is not https; InsecureHTTP would allow it", field)
	}
}

// bareURL returns a URL without what may be secret.
func bareURL(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || raw == "" {
		return ""
	}
	return u.Scheme + "://" + u.Host + u.EscapedPath()
}

func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}
