package auth

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/breaker"
)

const wellKnown = "/.well-known/openid-configuration"

type answer = func(*http.Request) (*http.Response, error)

// site is an issuer without a network. What it has no answer for is 404.
type site struct {
	endpoint
	pages map[string]answer // by URL without query
	asked []string
}

func newSite(pages map[string]answer) *site {
	s := &site{pages: pages}
	s.set(func(r *http.Request) (*http.Response, error) {
		u := r.URL.Scheme + "://" + r.URL.Host + r.URL.Path
		s.mu.Lock()
		s.asked = append(s.asked, u)
		page := s.pages[u]
		s.mu.Unlock()
		if page == nil {
			return status(404, "")(r)
		}
		return page(r)
	})
	return s
}

func (s *site) put(u string, page answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pages[u] = page
}

// took returns what was asked for since the last time.
func (s *site) took() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := s.asked
	s.asked = nil
	return asked
}

func metadataOf(issuer, keys string, change m) string {
	doc := m{"issuer": issuer, "jwks_uri": keys, "response_types_supported": []string{"code"}}
	maps.Copy(doc, change)
	maps.DeleteFunc(doc, func(_ string, v any) bool { return v == nil })
	return string(gatemesh.Must(json.Marshal(doc)))
}

// discovering returns a JWKS that discovers the keys of testIssuer on s.
func discovering(t testing.TB, s *site, f ...func(*JWKSConfig)) *JWKS {
	t.Helper()
	return newJWKS(t, nil, append([]func(*JWKSConfig){func(c *JWKSConfig) {
		c.URL, c.Discovery, c.Client = "", testIssuer, &http.Client{Transport: s}
	}}, f...)...)
}

func TestDiscovery(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		issuer string
		at     string // of the metadata
		keys   string
		asked  []string
	}{
		"at the root":        {"https://idp.example", "https://idp.example" + wellKnown, "https://idp.example/jwks", nil},
		"a slash at the end": {"https://idp.example/", "https://idp.example" + wellKnown, "https://idp.example/jwks", nil},
		"with a path":        {"https://idp.example/realms/x", "https://idp.example/realms/x" + wellKnown, "https://idp.example/realms/x/certs", nil},
		"with a path and a slash": {
			"https://idp.example/realms/x/", "https://idp.example/realms/x" + wellKnown, "https://idp.example/realms/x/certs", nil,
		},
		"keys on another host": {"https://accounts.example", "https://accounts.example" + wellKnown, "https://www.apis.example/oauth2/v3/certs", nil},
		"RFC 8414 with a path": {
			"https://idp.example/tenant/", "https://idp.example/.well-known/oauth-authorization-server/tenant", "https://idp.example/jwks",
			[]string{"https://idp.example/tenant" + wellKnown},
		},
		"RFC 8414 at the root": {
			"https://idp.example", "https://idp.example/.well-known/oauth-authorization-server", "https://idp.example/jwks",
			[]string{"https://idp.example" + wellKnown},
		},
		"on this host": {"http://127.0.0.1:9/dex", "http://127.0.0.1:9/dex" + wellKnown, "http://localhost:9/keys", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s, w := newSite(map[string]answer{
					test.at: status(200, metadataOf(test.issuer, test.keys+"?v=SECRET", nil)), test.keys: status(200, edDoc()),
				}), &watcher{}
				j := discovering(t, s, func(c *JWKSConfig) { c.Discovery, c.Observer = test.issuer, w })
				a := newAuth(t, edIssuer(t, func(is *Issuer) { is.Issuer, is.Keys = test.issuer, j }))
				assert.Equal(t, "ok", tokenReason(t, a, edToken(t, payload(time.Now(), m{"iss": test.issuer}))))
				assert.Equal(t, append(test.asked, test.at, test.keys), s.took())
				assert.Empty(t, w.all())
				assert.Contains(t, fmt.Sprint(j), test.issuer)
			})
		})
	}
}

// Metadata that cannot be used is a failed fetch: at the start, there are no
// keys, and later the last good ones stay. Nothing is ever asked of where such
// metadata points to.
func TestDiscovery_Refused(t *testing.T) {
	t.Parallel()
	good := metadataOf(testIssuer, "https://idp.example/jwks", nil)
	for name, test := range map[string]struct {
		page answer
		want string // in the event's error
	}{
		"another issuer":            {status(200, metadataOf("https://evil.example", "https://idp.example/jwks", nil)), `issuer "https://evil.example" is not`},
		"a slash too many":          {status(200, metadataOf(testIssuer+"/", "https://idp.example/jwks", nil)), "is not the configured one"},
		"issuer in upper case":      {status(200, metadataOf(strings.ToUpper(testIssuer), "https://idp.example/jwks", nil)), "is not the configured one"},
		"no issuer":                 {status(200, metadataOf("", "https://idp.example/jwks", m{"issuer": nil})), "is not the configured one"},
		"issuer is a list":          {status(200, metadataOf("", "https://idp.example/jwks", m{"issuer": []string{testIssuer}})), "is not the configured one"},
		"issuer's twin":             {status(200, metadataOf(testIssuer, "https://idp.example/jwks", m{"Issuer": testIssuer})), "spelled in another case"},
		"jwks_uri missing":          {status(200, metadataOf(testIssuer, "", m{"jwks_uri": nil})), "jwks_uri is missing"},
		"jwks_uri empty":            {status(200, metadataOf(testIssuer, "", nil)), "jwks_uri is missing"},
		"jwks_uri null":             {status(200, `{"issuer":"`+testIssuer+`","jwks_uri":null}`), "jwks_uri is missing"},
		"jwks_uri is a list":        {status(200, metadataOf(testIssuer, "", m{"jwks_uri": []string{"https://idp.example/jwks"}})), "jwks_uri is missing"},
		"jwks_uri's twin":           {status(200, metadataOf(testIssuer, "https://idp.example/jwks", m{"JWKS_URI": "https://idp.example/evil"})), "spelled in another case"},
		"relative":                  {status(200, metadataOf(testIssuer, "/jwks", nil)), "not an absolute https URL"},
		"without scheme":            {status(200, metadataOf(testIssuer, "//idp.example/jwks", nil)), "not an absolute https URL"},
		"opaque":                    {status(200, metadataOf(testIssuer, "https:idp.example/jwks", nil)), "not an absolute https URL"},
		"a file":                    {status(200, metadataOf(testIssuer, "file:///etc/passwd", nil)), "not an absolute https URL"},
		"with a user":               {status(200, metadataOf(testIssuer, "https://u:SECRET@idp.example/jwks", nil)), "not an absolute https URL"},
		"with a fragment":           {status(200, metadataOf(testIssuer, "https://idp.example/jwks#SECRET", nil)), "not an absolute https URL"},
		"no URL":                    {status(200, metadataOf(testIssuer, "https://%zz/SECRET", nil)), "not an absolute https URL"},
		"control characters":        {status(200, metadataOf(testIssuer, "https://idp.example/\r\nSECRET", nil)), "not an absolute https URL"},
		"no host":                   {status(200, metadataOf(testIssuer, "https://:443/jwks", nil)), "not an absolute https URL"},
		"too long":                  {status(200, metadataOf(testIssuer, "https://idp.example/"+strings.Repeat("a", maxKeysURL), nil)), "not an absolute https URL"},
		"plain http":                {status(200, metadataOf(testIssuer, "http://idp.example/jwks", nil)), "jwks_uri is not https"},
		"plain http, loopback":      {status(200, metadataOf(testIssuer, "http://127.0.0.1/jwks", nil)), "on a loopback host"},
		"loopback":                  {status(200, metadataOf(testIssuer, "https://127.0.0.2:8200/v1/SECRET", nil)), "on a loopback host"},
		"localhost":                 {status(200, metadataOf(testIssuer, "https://LOCALHOST./jwks", nil)), "on a loopback host"},
		"below localhost":           {status(200, metadataOf(testIssuer, "https://a.localhost/jwks", nil)), "on a loopback host"},
		"loopback, IPv6":            {status(200, metadataOf(testIssuer, "https://[::1]/jwks", nil)), "on a loopback host"},
		"loopback, mapped":          {status(200, metadataOf(testIssuer, "https://[::ffff:127.0.0.1]/jwks", nil)), "on a loopback host"},
		"loopback, NAT64":           {status(200, metadataOf(testIssuer, "https://[64:ff9b::7f00:1]/jwks", nil)), "on a loopback host"},
		"unspecified":               {status(200, metadataOf(testIssuer, "https://0.0.0.0/jwks", nil)), "on a loopback host"},
		"loopback as a number":      {status(200, metadataOf(testIssuer, "https://2130706433/jwks", nil)), "on a numeric host"},
		"loopback, full width":      {status(200, metadataOf(testIssuer, "https://１２７.０.０.１/jwks", nil)), "on a non-ASCII host"},
		"loopback, soft hyphen":     {status(200, metadataOf(testIssuer, "https://l\u00adocalhost/jwks", nil)), "on a non-ASCII host"},
		"loopback, short":           {status(200, metadataOf(testIssuer, "https://127.1/jwks", nil)), "on a numeric host"},
		"loopback, hexadecimal":     {status(200, metadataOf(testIssuer, "https://0x7f.1/jwks", nil)), "on a numeric host"},
		"loopback, hexadecimal end": {status(200, metadataOf(testIssuer, "https://0x7f000001/jwks", nil)), "on a numeric host"},
		"loopback, octal":           {status(200, metadataOf(testIssuer, "https://0177.0.0.01/jwks", nil)), "on a numeric host"},
		"longer than a number":      {status(200, metadataOf(testIssuer, "https://99999999999999999999999/jwks", nil)), "on a numeric host"},
		"cloud metadata":            {status(200, metadataOf(testIssuer, "https://169.254.169.254/latest/meta-data", nil)), "on a link-local host"},
		"link-local, IPv6":          {status(200, metadataOf(testIssuer, "https://[fe80::1%25eth0]/jwks", nil)), "on a link-local host"},
		"private":                   {status(200, metadataOf(testIssuer, "https://10.0.0.1/jwks", nil)), "on a private host"},
		"private, IPv6":             {status(200, metadataOf(testIssuer, "https://[fd00::1]/jwks", nil)), "on a private host"},
		"shared":                    {status(200, metadataOf(testIssuer, "https://100.64.0.1/jwks", nil)), "on a private host"},
		"shared, mapped":            {status(200, metadataOf(testIssuer, "https://[::ffff:100.64.0.1]/jwks", nil)), "on a private host"},
		"multicast":                 {status(200, metadataOf(testIssuer, "https://224.0.0.1/jwks", nil)), "on a special host"},
		"redirect":                  {status(302, good), "status is 302"},
		"500":                       {status(500, good), "status is 500"},
		"neither document":          {status(404, good), "status is 404"},
		"refused":                   {refused, "connection refused"},
		"black hole":                {blackHole, "deadline exceeded"},
		"100 MB":                    {stream(make([]byte, 1<<15), 0), "longer than MaxBody"},
		"1 byte/s":                  {stream([]byte(" "), time.Second), "deadline exceeded"},
		"truncated":                 {status(200, good[:len(good)-10]), "not a JSON object"},
		"HTML":                      {status(200, "<html>sign in</html>"), "not a JSON object"},
		"empty":                     {status(200, ""), "not a JSON object"},
		"null":                      {status(200, "null"), "not a JSON object"},
		"a list":                    {status(200, "["+good+"]"), "not a JSON object"},
		"two documents":             {status(200, good+good), "not a JSON object"},
		"issuer twice":              {status(200, `{"issuer":"https://evil.example","issuer":"`+testIssuer+`","jwks_uri":"https://idp.example/jwks"}`), "there twice"},
		"jwks_uri twice":            {status(200, `{"issuer":"`+testIssuer+`","jwks_uri":"https://idp.example/jwks","jwks_uri":"https://idp.example/evil"}`), "there twice"},
		"another name twice":        {status(200, `{"issuer":"`+testIssuer+`","jwks_uri":"https://idp.example/jwks","x":{"y":1,"y":2}}`), "there twice"},
		"deep":                      {status(200, `{"issuer":"`+testIssuer+`","jwks_uri":"https://idp.example/jwks","x":`+strings.Repeat("[", 99)+strings.Repeat("]", 99)+`}`), "too deeply"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s, w := newSite(map[string]answer{testIssuer + wellKnown: test.page, "https://idp.example/jwks": status(200, edDoc())}), &watcher{}
				j := discovering(t, s, func(c *JWKSConfig) { c.Observer = w })
				a := newAuth(t, edIssuer(t, func(is *Issuer) { is.Keys = j }))
				later := time.Now().Add(3 * time.Hour).Unix()
				fresh := func() string {
					return edToken(t, payload(time.Now(), m{"exp": later, "jti": time.Now().String()}))
				}
				began := time.Now()
				assert.Equal(t, "token_key_unknown", tokenReason(t, a, fresh()))
				assert.LessOrEqual(t, time.Since(began), 2*time.Second)
				synctest.Wait()
				for _, u := range s.took() {
					assert.Contains(t, u, testIssuer+"/.well-known/", "nothing else was asked for")
				}
				require.Len(t, w.all(), 1)
				assert.Equal(t, gatemesh.EventFault, w.all()[0].Kind)
				require.ErrorContains(t, w.all()[0].Err, test.want)

				// Recovery, and the same fault when there are keys.
				s.put(testIssuer+wellKnown, status(200, good))
				time.Sleep(20 * time.Second)
				require.Equal(t, "ok", tokenReason(t, a, fresh()))
				s.took()
				s.put(testIssuer+wellKnown, test.page)
				time.Sleep(50 * time.Minute)
				assert.Equal(t, "ok", tokenReason(t, a, fresh()), "the last good keys stay")
				assert.NotContains(t, s.took(), "https://idp.example/jwks", "nothing but the metadata says where keys are")
				time.Sleep(11 * time.Minute)
				assert.Equal(t, "token_key_unknown", tokenReason(t, a, fresh()), "but not for ever")
				assert.NotEqual(t, breaker.Closed, j.version.Load().breaker.State(), "open, or probing")
				s.put(testIssuer+wellKnown, status(200, good))
				time.Sleep(23 * time.Second)
				assert.Equal(t, "ok", tokenReason(t, a, fresh()))
				for _, e := range w.all() {
					assert.NotContains(t, fmt.Sprint(e.Message, e.Err), "SECRET")
				}
			})
		})
	}
}

// An issuer that is inside may have its keys inside, and InsecureHTTP allows
// plain http and nothing else.
func TestDiscovery_Inside(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		issuer, keys string
		insecure     bool
		want         string
	}{
		{"https://10.0.0.1", "https://10.0.0.2/keys", false, ""},
		{"https://[fd00::1]/dex", "https://127.0.0.1/keys", false, ""},
		{"https://localhost:8443", "https://127.0.0.1:8443/keys", false, ""},
		{"https://8.8.8.8", "https://9.9.9.9/keys", false, ""},
		{"https://8.8.8.8", "https://10.0.0.2/keys", false, "private"},
		{"https://dex.auth.svc", "https://10.0.0.2/keys", false, "private"}, // what the name resolves to is not asked
		{"https://dex.auth.svc", "http://dex.auth.svc/keys", false, "not https"},
		{"http://dex.auth.svc", "http://dex.auth.svc/keys", true, ""},
		{"http://dex.auth.svc", "http://169.254.169.254/keys", true, "link-local"},
		{"https://10.0.0.1", "http://10.0.0.1/keys", false, "not https"},
	} {
		u, err := absoluteURL(test.issuer)
		require.NoError(t, err)
		got, err := keysURL([]byte(metadataOf(test.issuer, test.keys, nil)), test.issuer, u.Hostname(), test.insecure)
		if test.want == "" {
			assert.NoError(t, err, test.keys)
			assert.Equal(t, test.keys, got)
		} else {
			assert.ErrorContains(t, err, test.want, test.keys)
			assert.Empty(t, got)
		}
	}
}

// within answers after d, if the request has that long.
func within(d time.Duration, doc string) answer {
	return func(r *http.Request) (*http.Response, error) {
		select {
		case <-time.After(d):
			return status(200, doc)(r)
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
}

// The metadata is there and the keys are not.
func TestDiscovery_KeysDown(t *testing.T) {
	t.Parallel()
	for name, outage := range map[string]answer{
		"500": status(500, ""), "404": status(404, ""), "refused": refused, "black hole": blackHole, "redirect": status(302, edDoc()),
		"100 MB": stream(make([]byte, 1<<15), 0), "1 byte/s": stream([]byte(" "), time.Second), "empty": status(200, `{"keys":[]}`),
		"truncated": status(200, edDoc()[:40]), "both slow": within(2*time.Second-1, edDoc()),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				keys := "https://keys.example/jwks?token=SECRET"
				page := status(200, metadataOf(testIssuer, keys, nil))
				if name == "both slow" { // one timeout for both of them
					page = within(2*time.Second-1, metadataOf(testIssuer, keys, nil))
				}
				s, w := newSite(map[string]answer{testIssuer + wellKnown: page, "https://keys.example/jwks": outage}), &watcher{}
				j := discovering(t, s, func(c *JWKSConfig) { c.Observer = w })
				a := newAuth(t, edIssuer(t, func(is *Issuer) { is.Keys = j }))
				began := time.Now()
				assert.Equal(t, "token_key_unknown", tokenReason(t, a, edToken(t, payload(time.Now(), nil))))
				assert.LessOrEqual(t, time.Since(began), 2*time.Second, "one timeout for both documents")
				synctest.Wait()
				require.Len(t, w.all(), 1)
				assert.ErrorContains(t, w.all()[0].Err, `keys at "https://keys.example/jwks": `)
				assert.NotContains(t, w.all()[0].Err.Error(), "SECRET")
				time.Sleep(time.Minute)
				assert.NotEqual(t, breaker.Closed, j.version.Load().breaker.State(), "open, or probing")

				s.put(testIssuer+wellKnown, status(200, metadataOf(testIssuer, keys, nil)))
				s.put("https://keys.example/jwks", status(200, edDoc()))
				time.Sleep(25 * time.Second)
				assert.Equal(t, "ok", tokenReason(t, a, edToken(t, payload(time.Now(), nil))))
			})
		})
	}
}

// Retry-After is heeded from either document.
func TestDiscovery_RetryAfter(t *testing.T) {
	t.Parallel()
	for _, busy := range []string{testIssuer + wellKnown, "https://idp.example/jwks"} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(map[string]answer{
				testIssuer + wellKnown:     status(200, metadataOf(testIssuer, "https://idp.example/jwks", nil)),
				"https://idp.example/jwks": status(200, edDoc()),
			})
			s.put(busy, retryLater("40"))
			discovering(t, s)
			time.Sleep(time.Minute) // three fetches open the breaker
			synctest.Wait()
			before := s.took()
			time.Sleep(20 * time.Second)
			assert.NotEmpty(t, before)
			assert.LessOrEqual(t, len(s.took()), 2, "at most one fetch in a Retry-After")
		})
	}
}

// The metadata is read on the schedule and after a failure, not for key ids
// that callers invent; so a jwks_uri that moves is followed.
func TestDiscovery_Schedule(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const doc, one, two = testIssuer + wellKnown, "https://idp.example/one", "https://other.example/two"
		s, w := newSite(map[string]answer{doc: status(200, metadataOf(testIssuer, one, nil)), one: status(200, edDoc())}), &watcher{}
		j := discovering(t, s, func(c *JWKSConfig) { c.Observer = w })
		a := newAuth(t, edIssuer(t, func(is *Issuer) { is.Keys = j }))
		synctest.Wait()
		assert.Equal(t, []string{doc, one}, s.took())
		for i := range 3 {
			time.Sleep(11 * time.Second)
			assert.Equal(t, "token_key_unknown", tokenReason(t, a, kidToken(t, fmt.Sprint(i))))
			assert.Equal(t, []string{one}, s.took(), "the keys alone")
		}
		time.Sleep(5 * time.Minute)
		assert.Equal(t, []string{doc, one}, s.took(), "both on the schedule")
		for range 12 {
			time.Sleep(5 * time.Minute)
		}
		asked := s.took()
		assert.Equal(t, len(asked)/2, strings.Count(fmt.Sprint(asked), doc), "every time")

		// It moves, and the old place is still there with old keys.
		s.put(doc, status(200, metadataOf(testIssuer, two, nil)))
		s.put(two, status(200, nextDoc()))
		for s.took(); len(s.took()) == 0; { // it comes some time within the interval
			time.Sleep(time.Second)
		}
		assert.Equal(t, "ok", tokenReason(t, a, kidToken(t, "next")))
		assert.Equal(t, "token_key_unknown", tokenReason(t, a, edToken(t, payload(time.Now(), nil))), "the old place has gone")
		require.Len(t, w.all(), 1)
		assert.Equal(t, gatemesh.EventNotice, w.all()[0].Kind)
		assert.Contains(t, w.all()[0].Message, `is read from "`+two+`" now`)

		// It moves back, and the place it is at has gone: the next fetch
		// finds out, and not only the next one on the schedule.
		time.Sleep(30 * time.Second)
		s.put(doc, status(200, metadataOf(testIssuer, one, nil)))
		s.put(two, status(410, ""))
		s.took()
		assert.Equal(t, "token_key_unknown", tokenReason(t, a, kidToken(t, "x")))
		assert.Equal(t, []string{two}, s.took())
		assert.Equal(t, "ok", tokenReason(t, a, kidToken(t, "next")), "the last good keys stay")
		time.Sleep(20 * time.Second)
		assert.Equal(t, []string{doc, one}, s.took())
		assert.Equal(t, "ok", tokenReason(t, a, edToken(t, payload(time.Now(), nil))))
	})
}

func TestDiscovery_Update(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const doc, keys = testIssuer + wellKnown, "https://idp.example/jwks"
		s := newSite(map[string]answer{
			doc: status(200, metadataOf(testIssuer, keys, nil)), keys: status(200, edDoc()),
			"https://new.example" + wellKnown: status(200, metadataOf("https://new.example", "http://new.example/keys", nil)),
			"http://new.example/keys":         status(200, nextDoc()),
		})
		cfg := JWKSConfig{URL: keys, Client: &http.Client{Transport: s}}
		j := following(t, cfg)
		synctest.Wait()
		assert.Equal(t, []string{keys}, s.took())
		cfg.URL, cfg.Discovery = "", testIssuer
		require.NoError(t, j.Update(cfg))
		synctest.Wait()
		assert.Equal(t, []string{doc, keys}, s.took(), "at once")
		require.NoError(t, j.Update(cfg))
		synctest.Wait()
		assert.Empty(t, s.took(), "nothing has changed")
		cfg.Discovery = "https://new.example"
		require.NoError(t, j.Update(cfg))
		synctest.Wait()
		assert.Equal(t, []string{cfg.Discovery + wellKnown}, s.took())
		_, known := j.Keys(time.Now()).find("ed", "EdDSA")
		assert.True(t, known, "the old keys stay until the new place was read")
		cfg.InsecureHTTP = true
		require.NoError(t, j.Update(cfg))
		time.Sleep(20 * time.Second)
		_, known = j.Keys(time.Now()).find("next", "EdDSA")
		assert.True(t, known)
		// A shorter interval counts for the metadata, too.
		cfg.RefreshInterval = 10 * time.Second
		require.NoError(t, j.Update(cfg))
		s.took()
		time.Sleep(11 * time.Second)
		assert.Contains(t, s.took(), cfg.Discovery+wellKnown)
	})
}

func TestDiscovery_Faults(t *testing.T) {
	t.Parallel()
	for _, cfg := range []JWKSConfig{
		{}, {URL: testIssuer, Discovery: testIssuer}, {File: "x", Discovery: testIssuer}, {URL: testIssuer, File: "x", Discovery: testIssuer},
	} {
		_, err := NewJWKS(cfg)
		assert.ErrorContains(t, err, "exactly one of URL, Discovery and File")
	}
	for value, want := range map[string]string{
		"idp.example": "absolute https URL", "ftp://idp.example": "absolute https URL", "https://%zz": "absolute https URL",
		"http://idp.example": "is not https", "https://idp.example?x=SECRET": "neither user nor query nor fragment",
		"https://idp.example#SECRET": "neither user nor query nor fragment", "https://u:SECRET@idp.example": "neither user nor query nor fragment",
		"https://:443": "neither user nor",
	} {
		_, err := NewJWKS(JWKSConfig{Discovery: value})
		assert.ErrorContains(t, err, "JWKSConfig.Discovery", value)
		assert.ErrorContains(t, err, want, value)
		assert.NotContains(t, fmt.Sprint(err), "SECRET")
	}
}

// One real issuer: redirects go nowhere, and no connection is left behind.
func TestDiscovery_OverHTTP(t *testing.T) {
	t.Parallel()
	var elsewhere atomic.Int32
	mux := http.NewServeMux()
	srv := httptest.NewServer(mux)
	defer srv.Close()
	mux.HandleFunc(wellKnown, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(metadataOf(srv.URL, srv.URL+"/keys", nil)))
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(edDoc())) })
	mux.Handle("/moved"+wellKnown, http.RedirectHandler("/elsewhere", http.StatusFound))
	mux.HandleFunc("/keysmoved"+wellKnown, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(metadataOf(srv.URL+"/keysmoved", srv.URL+"/keysmoved/keys", nil)))
	})
	mux.Handle("/keysmoved/keys", http.RedirectHandler("/elsewhere", http.StatusFound))
	mux.HandleFunc("/elsewhere", func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) })
	for path, want := range map[string]int{"": 1, "/moved": 0, "/keysmoved": 0, "/missing": 0} {
		j, err := NewJWKS(JWKSConfig{Discovery: srv.URL + path})
		require.NoError(t, err)
		assert.Equal(t, want, j.Refresh(t.Context(), "ed").Len(), path)
		require.NoError(t, j.Close())
	}
	assert.Zero(t, elsewhere.Load())
}

// Metadata that is accepted names its issuer and an absolute URL, on which
// another JSON reader agrees, and never leads from outside to the inside.
func FuzzDiscovery(f *testing.F) {
	for _, s := range []string{
		metadataOf(testIssuer, "https://idp.example/jwks", nil), metadataOf(testIssuer, "https://127.0.0.1/", nil),
		metadataOf(testIssuer, "https://[::ffff:10.0.0.1]:1/", nil), metadataOf(testIssuer, "https://0x7f.1", m{"ISSUER": 1}),
		metadataOf(testIssuer, "http://localhost", nil), `{"issuer":"` + testIssuer + `","jwks_uri":"https://a","jwks_uri":"https://b"}`, "{}", "[",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := keysURL(data, testIssuer, "idp.example", false)
		if err != nil {
			require.Empty(t, got)
			return
		}
		var loose struct {
			Issuer string
			URI    string `json:"jwks_uri"`
		}
		require.NoError(t, json.Unmarshal(data, &loose))
		require.Equal(t, []string{testIssuer, got}, []string{loose.Issuer, loose.URI})
		req, err := http.NewRequest(http.MethodGet, got, nil)
		require.NoError(t, err)
		require.Equal(t, "https", req.URL.Scheme)
		require.NotEmpty(t, req.URL.Hostname())
		require.Nil(t, req.URL.User)
		require.Empty(t, innerHost(req.URL.Hostname()))
	})
}
