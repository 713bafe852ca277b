package mtls_test

import (
	"crypto/x509"
	"regexp"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh/mtls"
)

var badIDs = []string{
	"", "spiffe:", "spiffe://", "spiffe:///a", "spiffe://td.example", "spiffe://td.example/",
	"spiffe://td.example/a%2fb", "spiffe://td.example/a%2Fb", "spiffe://td.example/%61",
	"spiffe://td.example:80/a", "spiffe://td.example:/a", "spiffe://u@td.example/a", "spiffe://@td.example/a",
	"spiffe://td.example/a?x=1", "spiffe://td.example/a?", "spiffe://td.example/a#f", "spiffe://td.example/a#",
	"spiffe://td.example//a", "spiffe://td.example/a//b", "spiffe://td.example/a/../b", "spiffe://td.example/a/./b",
	"spiffe://td.example/..", "spiffe://td.example/.", "spiffe://td.example/a/",
	"spiffe:td.example/a", "spiffe:/td.example/a", "https://td.example/a", "//td.example/a", "td.example/a",
	"spiffe://[::1]/a", "spiffe://td%2eexample/a", "spiffe://td.example/a b", "spiffe://td.example/a\n", " spiffe://td.example/a",
	"spiffe://td.ex\u00e4mple/a", "spiffe://td.example/\u00e4", "spiffe://\u212a.example/a", "spiffe://td.example/a\x00",
	"spiffe://" + strings.Repeat("t", 256) + "/a",
	"spiffe://td.example/" + strings.Repeat("a", 2049-len("spiffe://td.example/")),
}

func TestMTLS01_ParseID(t *testing.T) {
	t.Parallel()
	for _, s := range badIDs {
		_, err := mtls.ParseID(s)
		assert.Error(t, err, "%.80q", s)
	}
	for in, want := range map[string]string{
		"spiffe://td.example/a":                                   "spiffe://td.example/a",
		"SPIFFE://TD.example/a":                                   "spiffe://td.example/a",
		"SpIfFe://tD.eXaMpLe/Path/Case":                           "spiffe://td.example/Path/Case",
		"spiffe://td_1-x.example/ns/a_b/sa/c.d-e":                 "spiffe://td_1-x.example/ns/a_b/sa/c.d-e",
		"spiffe://td.example/...":                                 "spiffe://td.example/...",
		"spiffe://" + strings.Repeat("t", 255) + "/a":             "spiffe://" + strings.Repeat("t", 255) + "/a",
		"spiffe://td.example/" + strings.Repeat("a", 2048-20):     "spiffe://td.example/" + strings.Repeat("a", 2048-20),
		"spiffe://td.example/" + strings.Repeat("a/", 1013) + "b": "spiffe://td.example/" + strings.Repeat("a/", 1013) + "b",
	} {
		id, err := mtls.ParseID(in)
		require.NoError(t, err, "%.80q", in)
		assert.Equal(t, want, id.String())
		assert.Equal(t, want, "spiffe://"+id.TrustDomain()+id.Path())
	}
	a, err := mtls.ParseID("SPIFFE://TD.example/a")
	require.NoError(t, err)
	b, err := mtls.ParseID("spiffe://td.example/a")
	require.NoError(t, err)
	c, err := mtls.ParseID("spiffe://td.example/A")
	require.NoError(t, err)
	assert.Equal(t, a, b)
	assert.NotEqual(t, b, c, "paths are case-sensitive")
	assert.True(t, mtls.ID{}.IsZero())
	assert.Empty(t, mtls.ID{}.String())
}

// The same ids as a certificate carries them, where net/url stands in between.
func TestMTLS01_Leaf(t *testing.T) {
	t.Parallel()
	root := newAuthority(t)
	m := newTLS(t, newSource(t, root.leaf(t, callee), bundles(t, root)))
	for _, s := range badIDs {
		if strings.ContainsFunc(s, func(r rune) bool { return r > 127 }) {
			continue // cannot be encoded as IA5String
		}
		c := root.leafURI(t, s)
		if c == nil {
			continue // crypto/x509 does not even parse it
		}
		p, err := m.Peer(received(*c))
		assert.Error(t, err, "%.80q", s)
		assert.Nil(t, p)
	}
	p, err := m.Peer(received(root.leaf(t, "SPIFFE://TD.example/a")))
	require.NoError(t, err)
	assert.Equal(t, "spiffe://td.example/a", p.ID())
}

func TestMTLS01_Bundles(t *testing.T) {
	t.Parallel()
	root := newAuthority(t)
	for _, td := range []string{"", "TD.example", "td.example/a", "spiffe://td.example", "td.example:80", strings.Repeat("t", 256)} {
		_, err := mtls.NewBundles(map[string][]*x509.Certificate{td: {root.cert}})
		assert.Error(t, err, td)
	}
}

var reference = regexp.MustCompile(`^(?:[sS][pP][iI][fF][fF][eE])://([A-Za-z0-9._-]{1,255})((?:/[A-Za-z0-9._-]+)+)$`)

// parseReference is SPIFFE-ID §2 written down a second time.
func parseReference(s string) (td, path string, ok bool) {
	m := reference.FindStringSubmatch(s)
	if m == nil || len(s) > 2048 || strings.HasSuffix(s, "\n") {
		return "", "", false
	}
	for seg := range strings.SplitSeq(m[2], "/") {
		if seg == "." || seg == ".." {
			return "", "", false
		}
	}
	return strings.ToLower(m[1]), m[2], true // the match is ASCII
}

func FuzzParseID(f *testing.F) {
	for _, s := range badIDs {
		f.Add(s)
	}
	f.Add(caller)
	f.Add("SPIFFE://TD.example/A/b")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := mtls.ParseID(s)
		td, path, ok := parseReference(s)
		require.Equal(t, ok, err == nil, "%q: %v", s, err)
		// Go-spiffe agrees, but for the letters of scheme and trust domain, the
		// limits of length, and ids without a path.
		theirs, refused := spiffeid.FromString(s)
		if refused == nil && theirs.Path() != "" && len(s) <= 2048 && len(theirs.TrustDomain().Name()) <= 255 {
			require.NoError(t, err, "%q", s)
			require.Equal(t, theirs.String(), id.String())
		}
		if err == nil {
			theirs, refused = spiffeid.FromString(id.String())
			require.NoError(t, refused)
			require.Equal(t, theirs.String(), id.String())
		}
		if !ok {
			require.True(t, id.IsZero())
			return
		}
		require.Equal(t, td, id.TrustDomain())
		require.Equal(t, path, id.Path())
		again, err := mtls.ParseID(id.String())
		require.NoError(t, err)
		require.Equal(t, id, again)
	})
}
