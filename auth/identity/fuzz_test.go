package identity_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/identity"
)

// Whatever principal is minted is read back equal, and what cannot be is refused.
func FuzzRoundTrip(f *testing.F) {
	f.Add("https://idp.example", "alice", "shop", "orders:read orders:write", "jwt", "v2", `"acme"`)
	f.Add("", "\xff", "", "a  b", "", "", `{"a":[1,1.5e300,null,true,"<&>\u2028"]}`)
	f.Add("", "", "", "", "", "", ``)
	m := newMinter(f, func(c *identity.MinterConfig) { c.Claims = []string{"c"} })
	v := newVerifier(f, m, nil)
	f.Fuzz(func(t *testing.T, iss, sub, consumer, scopes, method, lane, claim string) {
		in := gatemesh.PrincipalInfo{Issuer: iss, Subject: sub, Consumer: consumer, Method: method}
		if scopes != "" {
			in.Scopes = strings.Split(scopes, "|")
		}
		dec := json.NewDecoder(strings.NewReader(claim))
		dec.UseNumber()
		var value any
		if dec.Decode(&value) == nil {
			in.Claims = map[string]any{"c": value}
		}
		adm, err := m.Admit(t.Context(), outbound(t, gatemesh.NewPrincipal(in), lane))
		if err != nil {
			assert.Equal(t, "internal identity_unmintable", reason(err))
			assert.Empty(t, adm.Header)
			return
		}
		got, err := verify(t, v, adm.Header[0].Value)
		require.NoError(t, err, cause(err))
		p := got.Principal
		assert.Equal(t, []string{iss, sub, consumer, "identity", lane}, []string{p.Issuer(), p.Subject(), p.Consumer(), p.Method(), got.Lane})
		assert.Equal(t, in.Scopes, p.Scopes())
		how, _ := p.ClaimString(identity.MethodClaim)
		assert.Equal(t, method, how)
		c, ok := p.Claim("c")
		assert.Equal(t, in.Claims != nil, ok)
		assert.Equal(t, value, c)
	})
}

// Any token but the ones that were minted is refused: cut, spliced and edited
// ones as well as whole inventions.
func FuzzForgery(f *testing.F) {
	// A key of this process: inputs that earlier runs or other workers left hold
	// tokens that were genuine there.
	_, private, err := ed25519.GenerateKey(nil)
	require.NoError(f, err)
	m := newMinter(f, func(c *identity.MinterConfig) { c.Key.Private = private })
	good := mint(f, m, alice(), "v2")
	other := mint(f, m, gatemesh.NewPrincipal(gatemesh.PrincipalInfo{Subject: "bob"}), "")
	v := newVerifier(f, m, func(c *identity.VerifierConfig) { c.Optional = true })
	f.Add(good, uint16(0), uint16(0), "")
	f.Add(other, uint16(10), uint16(1), "A")
	f.Add("", uint16(len(good)-1), uint16(1), "B")
	f.Add(strings.Replace(good, ".", "\n.", 1), uint16(5), uint16(0), "\r\n")
	f.Fuzz(func(t *testing.T, whole string, at, cut uint16, put string) {
		from := min(int(at), len(good))
		to := min(from+int(cut), len(good))
		for _, token := range []string{whole, good[:from] + put + good[to:], good[:from] + other[min(from, len(other)):]} {
			adm, err := verify(t, v, token)
			if token == good || token == other {
				assert.NoError(t, err)
				continue
			}
			assert.Equal(t, invalid, reason(err))
			assert.Nil(t, adm.Principal)
		}
	})
}

// Nothing that stands beside the claims of a signed payload changes them:
// names that fold to ours are ignored, names that are ours are refused.
func FuzzPayload(f *testing.F) {
	key := signingKey(1)
	v := newVerifier(f, staticKeys(f, key.Public()), nil)
	f.Add(`,"SUB":"admin","Client_id":"x"`)
	f.Add(`,"sub":"admin"`)
	f.Add(`,"claims":{"x":{"x":1}},"scp":["a"]`)
	f.Add(`}{"sub":"admin"`)
	f.Add(`,"\u0073ub":"admin"`)
	f.Fuzz(func(t *testing.T, more string) {
		body := payload(time.Now(), more)
		adm, err := verify(t, v, forge(key, goodHeader, body))
		if err != nil {
			assert.Equal(t, invalid, reason(err))
			return
		}
		assert.True(t, json.Valid([]byte(body)))
		assert.Equal(t, "alice", adm.Principal.Subject())
		var exact map[string]json.RawMessage
		require.NoError(t, json.Unmarshal([]byte(body), &exact))
		for name, got := range map[string]string{"client_id": adm.Principal.Consumer(), "lane": adm.Lane, "orig_iss": adm.Principal.Issuer()} {
			var want string
			if exact[name] != nil {
				require.NoError(t, json.Unmarshal(exact[name], &want))
			}
			assert.Equal(t, want, got, name)
		}
	})
}

// Whatever set is accepted has usable keys, and is found again in what a Minter
// publishes of them.
func FuzzParseJWKS(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"` + rfcX + `"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"RSA"},null,{"d":null}]}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		set, err := identity.ParseJWKS(doc)
		if err != nil {
			assert.Zero(t, set.Len())
			return
		}
		require.Positive(t, set.Len())
		var in struct{ Keys []struct{ Kid, X string } }
		require.NoError(t, json.Unmarshal(doc, &in))
		found := 0
		for _, k := range in.Keys {
			key, ok := set.Key(k.Kid)
			if !ok {
				continue
			}
			found++
			m, err := identity.NewMinter(identity.MinterConfig{
				Issuer: issuer, Audience: []string{trustDomain}, Key: signingKey(1),
				Next: []identity.PublicKey{{ID: k.Kid + "x", Key: key}},
			})
			if err != nil { // the longer ID may be too long, or the one of Key
				continue
			}
			again, err := identity.ParseJWKS(m.JWKS())
			require.NoError(t, err)
			got, ok := again.Key(k.Kid + "x")
			assert.True(t, ok)
			assert.Equal(t, base64.RawURLEncoding.EncodeToString(key), base64.RawURLEncoding.EncodeToString(got))
		}
		assert.GreaterOrEqual(t, found, set.Len())
	})
}
