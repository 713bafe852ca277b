package auth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

func keyCall(t testing.TB, secret string) *gatemesh.Call {
	return callWith(t, http.Header{"X-Api-Key": {secret}})
}

// storeAuth returns an Authenticator for the keys of s.
func storeAuth(t testing.TB, s KeyStore, f ...func(*Config)) *Authenticator {
	t.Helper()
	cfg := Config{APIKeys: s}
	for _, f := range f {
		f(&cfg)
	}
	a, err := New(cfg)
	require.NoError(t, err)
	return a
}

// probes counts what a store is asked for.
type probes struct {
	KeyStore
	asked, loaded int
}

func (p *probes) FindKey(digest KeyDigest, now time.Time) (*APIKey, bool) {
	p.asked++
	return p.KeyStore.FindKey(digest, now)
}

func (p *probes) LoadKey(ctx context.Context, digest KeyDigest) (*APIKey, error) {
	p.loaded++
	return p.KeyStore.LoadKey(ctx, digest)
}

// KEY-01: whatever is wrong with a key, it costs one hash and one probe of a
// map by the hash, as a good one does. That the medians of the times are near
// each other follows from that; they are printed, because no test depends on
// how fast the machine is. Not parallel: it measures.
func TestKEY01_OneHashOneProbe(t *testing.T) {
	secret, hash := GenerateKey()
	keys := make([]Key, 100)
	for i := range keys {
		keys[i] = Key{ID: fmt.Sprint(i), Consumer: fmt.Sprint("c", i/2), Hash: HashKey(fmt.Sprint("secret", i))}
	}
	set, err := NewKeySet(append(keys, Key{ID: "k", Consumer: "shop", Hash: hash}))
	require.NoError(t, err)
	other, _ := GenerateKey()
	swap := func(i int) string { // another byte at i
		b := []byte(secret)
		b[i] ^= 1
		return string(b)
	}
	p := &probes{KeyStore: set}
	a := storeAuth(t, p)
	variants := []struct{ name, secret, want string }{
		{"good", secret, "ok"},
		{"unknown", other, "key_unknown"},
		{"wrong first byte", swap(0), "key_unknown"},
		{"wrong last byte", swap(len(secret) - 1), "key_unknown"},
		{"of the same consumer, wrong", "secret0x", "key_unknown"},
		{"truncated", secret[:len(secret)-1], "key_unknown"},
		{"one byte", "x", "key_unknown"},
	}
	const rounds, batch = 200, 100 // 20,000 calls each, interleaved
	times := make([][]time.Duration, len(variants))
	for i, v := range variants {
		require.Equal(t, v.want, reason(t, a, keyCall(t, v.secret)), v.name)
		assert.Equal(t, 1, p.asked, v.name)
		assert.Zero(t, p.loaded, "a set in memory is not asked twice")
		p.asked = 0
		times[i] = make([]time.Duration, 0, rounds)
	}
	for range rounds {
		for i, v := range variants {
			c, ctx := keyCall(t, v.secret), t.Context()
			began := time.Now()
			for range batch {
				_, _ = a.Admit(ctx, c)
			}
			times[i] = append(times[i], time.Since(began)/batch)
		}
	}
	assert.Equal(t, rounds*batch*len(variants), p.asked, "one probe a call")
	for i, v := range variants {
		slices.Sort(times[i])
		t.Logf("%-28s median %v", v.name, times[i][rounds/2])
	}
	// Stored hashed, and found by all of the hash.
	assert.NotContains(t, fmt.Sprintf("%v %+v %#v", set, set, set), secret)
	k, known := set.FindKey(digestOf(secret), time.Time{})
	require.True(t, known)
	assert.Equal(t, hash, k.digest.String())
}

// KEY-02 for a store that compares sloppily, as a database may that cuts or
// folds what it compares: the key it finds is of another secret.
func TestKEY02_SloppyStore(t *testing.T) {
	t.Parallel()
	k, err := NewAPIKey(Key{ID: "k", Consumer: "c", Hash: HashKey("good")})
	require.NoError(t, err)
	for name, s := range map[string]*remote{
		"from memory": {found: k, known: true},
		"loaded":      {load: func(context.Context, KeyDigest) (*APIKey, error) { return k, nil }},
		"zero key":    {found: &APIKey{}, known: true},
		"zero key, loaded": {load: func(context.Context, KeyDigest) (*APIKey, error) {
			return &APIKey{}, nil
		}},
		"none":         {known: true},
		"none, loaded": {load: func(context.Context, KeyDigest) (*APIKey, error) { return nil, nil }},
	} {
		a := storeAuth(t, s)
		assert.Equal(t, "key_unknown", reason(t, a, keyCall(t, "bad")), name)
		if !strings.HasPrefix(name, "zero") && !strings.HasPrefix(name, "none") {
			assert.Equal(t, "ok", reason(t, a, keyCall(t, "good")), name)
		}
		asked := s.asked.Load()
		for _, malformed := range []string{"", " ", "a b", strings.Repeat("k", maxSecret+1)} {
			assert.Equal(t, "key_malformed", reason(t, a, keyCall(t, malformed)), name)
		}
		assert.Equal(t, asked, s.asked.Load(), "what cannot be a key is not asked for")
	}
}

// remote is a store that has to be waited for.
type remote struct {
	found *APIKey
	known bool
	load  func(context.Context, KeyDigest) (*APIKey, error)
	asked atomic.Int32
}

func (r *remote) FindKey(KeyDigest, time.Time) (*APIKey, bool) {
	r.asked.Add(1)
	return r.found, r.known
}

func (r *remote) LoadKey(ctx context.Context, digest KeyDigest) (*APIKey, error) {
	r.asked.Add(1)
	return r.load(ctx, digest)
}

func TestKeyStoreRemote(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		end := time.Now().Add(time.Minute)
		var loads atomic.Int32
		s := &remote{}
		a := storeAuth(t, s, func(c *Config) { c.APIKeyScopes = []string{"a"} })
		key := func(k Key) func(context.Context, KeyDigest) (*APIKey, error) {
			k.ID, k.Consumer = "k", "shop"
			return func(_ context.Context, digest KeyDigest) (*APIKey, error) {
				loads.Add(1)
				time.Sleep(time.Second)
				k.Hash = digest.String()
				return NewAPIKey(k)
			}
		}
		c := keyCall(t, "secret")
		s.load = key(Key{Scopes: []string{"a"}, Expires: end, Metadata: map[string]string{"plan": "gold"}})

		// A store that may wait is not asked by those who must not.
		adm, ok, err := a.AdmitCached(t.Context(), c)
		require.NoError(t, err)
		assert.False(t, ok)
		assert.Zero(t, adm)
		assert.Zero(t, loads.Load())
		assert.EqualValues(t, 1, s.asked.Load())

		adm, err = a.Admit(t.Context(), c)
		require.NoError(t, err)
		assert.EqualValues(t, 1, loads.Load())
		assert.Equal(t, "shop", adm.Principal.Consumer())
		assert.Equal(t, []string{"X-Api-Key"}, adm.Consumed)
		assert.True(t, adm.Until.Equal(end))

		// What memory knows, AdmitCached decides, refusals included.
		s.found, _ = NewAPIKey(Key{ID: "k", Consumer: "shop", Hash: HashKey("secret"), Scopes: []string{"a"}})
		s.known = true
		adm, ok, err = a.AdmitCached(t.Context(), c)
		require.NoError(t, err)
		assert.True(t, ok)
		assert.Equal(t, "shop", adm.Principal.Consumer())
		s.found = nil
		_, ok, err = a.AdmitCached(t.Context(), c)
		assert.False(t, ok)
		assert.Error(t, err)
		s.known = false

		// The rules are the same for a key that was loaded.
		s.load = key(Key{Scopes: []string{"b"}})
		assert.Equal(t, "scope_missing", reason(t, a, c))
		s.load = key(Key{Scopes: []string{"a"}, Expires: time.Now().Add(time.Second)})
		assert.Equal(t, "key_expired", reason(t, a, c), "it expired while we waited")
		s.load = key(Key{Scopes: []string{"a"}, Expires: time.Now().Add(2 * time.Second)})
		assert.Equal(t, "ok", reason(t, a, c))

		// An outage refuses, whatever the store returns beside the error.
		good, err := NewAPIKey(Key{ID: "k", Consumer: "shop", Hash: HashKey("secret"), Scopes: []string{"a"}})
		require.NoError(t, err)
		s.load = func(context.Context, KeyDigest) (*APIKey, error) { return good, errors.New("db down") }
		_, err = a.Admit(t.Context(), c)
		d := gatemesh.AsDenial(t.Context(), err)
		assert.Equal(t, "key_unavailable", d.Reason)
		assert.Equal(t, http.StatusUnauthorized, d.HTTPStatus())
		assert.NotContains(t, d.Detail, "db down")
		require.ErrorContains(t, errors.Unwrap(d), "db down")

		// A caller who leaves is neither an outage nor a refusal.
		s.load = func(ctx context.Context, _ KeyDigest) (*APIKey, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, err = a.Admit(ctx, c)
		assert.Equal(t, gatemesh.DeadlineExceeded, gatemesh.AsDenial(ctx, err).Code)
	})
}

func TestKeyStoreNil(t *testing.T) {
	t.Parallel()
	for _, s := range []KeyStore{(*KeySet)(nil), (*KeyFile)(nil), (*remote)(nil)} {
		for _, issuers := range [][]Issuer{nil, {edIssuer(t)}} {
			_, err := New(Config{APIKeys: s, Issuers: issuers})
			assert.ErrorContains(t, err, fmt.Sprintf("Config.APIKeys is a nil %T", s))
		}
	}
	_, err := New(Config{})
	assert.ErrorContains(t, err, "Config.Issuers, Config.Opaque or Config.APIKeys is required")

	// Zero values refuse every key, one with an empty secret and the zero hash included.
	for _, s := range []KeyStore{&KeySet{}, &KeyFile{}} {
		a := storeAuth(t, s)
		assert.Equal(t, "key_unknown", reason(t, a, keyCall(t, "x")))
		assert.Equal(t, "key_malformed", reason(t, a, keyCall(t, "")))
		k, known := s.FindKey(KeyDigest{}, time.Now())
		assert.Nil(t, k)
		assert.True(t, known)
		k, err := s.LoadKey(t.Context(), KeyDigest{})
		assert.Nil(t, k)
		assert.NoError(t, err)
	}
}

func TestNewAPIKey(t *testing.T) {
	t.Parallel()
	_, err := NewAPIKey(Key{Scopes: []string{"a b"}, Metadata: map[string]string{"": "x"}})
	for _, want := range []string{"Key.ID is required", "Key.Consumer is", "Key.Hash is", "Key.Scopes:", "Key.Metadata has a name"} {
		assert.ErrorContains(t, err, want)
	}
	in := Key{ID: "k", Consumer: "c", Hash: HashKey("s"), Scopes: []string{"a"}, Metadata: map[string]string{"plan": "gold"}}
	k, err := NewAPIKey(in)
	require.NoError(t, err)
	in.Scopes[0], in.Metadata["plan"] = "admin", "free"
	assert.Equal(t, []string{"a"}, k.principal.Scopes(), "a copy")
	plan, _ := k.principal.ClaimString("metadata", "plan")
	assert.Equal(t, "gold", plan, "a copy")
	assert.Equal(t, in.Hash, digestOf("s").String())
}

func TestKeyMetadata(t *testing.T) {
	t.Parallel()
	secret, hash := GenerateKey()
	admit := func(metadata map[string]string) *gatemesh.Principal {
		a := keyAuth(t, nil, Key{ID: "k", Consumer: "shop", Hash: hash, Metadata: metadata})
		adm, err := a.Admit(t.Context(), keyCall(t, secret))
		require.NoError(t, err)
		return adm.Principal
	}
	p := admit(map[string]string{"plan": "gold", "owner": "Zoë <z@shop.example>", "scope": "admin", "sub": "root"})
	got, ok := p.Claim("metadata")
	require.True(t, ok)
	assert.Equal(t, m{"plan": "gold", "owner": "Zoë <z@shop.example>", "scope": "admin", "sub": "root"}, got)
	assert.Empty(t, p.Subject(), "no metadata becomes what decides")
	assert.Empty(t, p.Scopes())
	_, ok = p.Claim("scope")
	assert.False(t, ok)
	for _, v := range []string{"%v", "%+v", "%#v", "%s"} {
		printed := fmt.Sprintf(v, p)
		assert.NotContains(t, printed, "gold")
		assert.NotContains(t, printed, secret)
	}
	for range admit(nil).ClaimNames() {
		t.Error("no metadata, no claim")
	}

	many := map[string]string{}
	for i := range maxMetadata + 1 {
		many[fmt.Sprint("n", i)] = "v"
	}
	for want, metadata := range map[string]map[string]string{
		"more than 16 entries":            many,
		"Metadata has a name":             {"a b": "v"},
		"Metadata has a name that is not": {strings.Repeat("n", maxMetadataName+1): "SECRET"},
		`value of "empty"`:                {"empty": ""},
		`value of "long"`:                 {"long": strings.Repeat("v", maxMetadataValue+1)},
		`value of "line"`:                 {"line": "SECRET\nb"},
		`value of "utf8"`:                 {"utf8": "SECRET\xff"},
	} {
		_, err := NewKeySet([]Key{{ID: "k", Consumer: "c", Hash: hash, Metadata: metadata}})
		assert.ErrorContains(t, err, want)
		assert.NotContains(t, fmt.Sprint(err), "SECRET")
	}
	delete(many, "n0")
	many["n1"], many[strings.Repeat("n", maxMetadataName)] = strings.Repeat("v", maxMetadataValue), "v"
	delete(many, "n2")
	admit(many)
}

// Two live keys of one consumer, and the change from one to the next, as in the
// package's documentation of [Key]: nobody is refused on the way.
func TestKeyRotation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		old, oldHash := GenerateKey()
		next, nextHash := GenerateKey()
		f := newKeyFileTest(t, "shop-1 shop "+oldHash+"\n")
		a := storeAuth(t, f.KeyFile)
		assert.Equal(t, "ok", reason(t, a, keyCall(t, old)))

		// The next key is added, and the old one gets an end.
		end := time.Now().Add(time.Hour)
		f.write("shop-1 shop " + oldHash + " expires=" + end.UTC().Format(time.RFC3339) + "\nshop-2 shop " + nextHash + "\n")
		time.Sleep(10*time.Second + 1)
		for _, secret := range []string{old, next} {
			adm, err := a.Admit(t.Context(), keyCall(t, secret))
			require.NoError(t, err)
			assert.Equal(t, "shop", adm.Principal.Consumer(), "both are the same consumer")
		}
		time.Sleep(time.Until(end) - 1)
		assert.Equal(t, "ok", reason(t, a, keyCall(t, old)))
		time.Sleep(time.Nanosecond)
		assert.Equal(t, "key_expired", reason(t, a, keyCall(t, old)), "whether or not the file is read")
		assert.Equal(t, "ok", reason(t, a, keyCall(t, next)))

		f.write("shop-2 shop " + nextHash + "\n")
		time.Sleep(10*time.Second + 1)
		assert.Equal(t, "key_unknown", reason(t, a, keyCall(t, old)))
		assert.Equal(t, "ok", reason(t, a, keyCall(t, next)))
	})
}

// Keys in memory cost no allocation through any store. Not parallel: it counts.
func TestKeyStoreAllocations(t *testing.T) {
	secret, hash := GenerateKey()
	f := newKeyFileTest(t, "k c "+hash+" scopes=a meta.plan=gold\n")
	for name, s := range map[string]KeyStore{"set": f.set(), "file": f.KeyFile} {
		a := storeAuth(t, s)
		for _, c := range []*gatemesh.Call{keyCall(t, secret), keyCall(t, secret+"x")} {
			ctx := t.Context()
			assert.Zero(t, testing.AllocsPerRun(1000, func() { _, _ = a.Admit(ctx, c) }), name)
			assert.Zero(t, testing.AllocsPerRun(1000, func() { _, _, _ = a.AdmitCached(ctx, c) }), name)
		}
	}
}

// Calls go on while the keys change: each sees one file or the other.
func TestKeyFileRace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		one, oneHash := GenerateKey()
		both, bothHash := GenerateKey()
		other := "a1 shop " + bothHash + " meta.file=b\n"
		first := "a1 shop " + bothHash + " meta.file=a\nb1 shop " + oneHash + " meta.file=a\n"
		f := newKeyFileTest(t, first)
		a := storeAuth(t, f.KeyFile)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		var refused, admitted atomic.Int32
		for range 4 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(time.Millisecond):
					}
					adm, err := a.Admit(t.Context(), keyCall(t, both))
					if assert.NoError(t, err, "a key that is in both is never refused") {
						assert.Equal(t, "a1", adm.Principal.Credential())
					}
					if adm, err := a.Admit(t.Context(), keyCall(t, one)); err != nil {
						refused.Add(1)
					} else {
						admitted.Add(1)
						from, _ := adm.Principal.ClaimString("metadata", "file")
						assert.Equal(t, "a", from)
					}
				}
			})
		}
		wg.Go(func() {
			for range 20 {
				assert.NoError(t, f.Update(f.config()))
				time.Sleep(97 * time.Millisecond)
			}
		})
		for i := range 20 {
			f.write([]string{other, first}[i%2])
			time.Sleep(101 * time.Millisecond)
		}
		close(stop)
		wg.Wait()
		assert.Positive(t, refused.Load())
		assert.Positive(t, admitted.Load())
	})
}
