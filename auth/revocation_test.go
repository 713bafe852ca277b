package auth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

func newRevocations(t testing.TB, f ...func(*RevocationsConfig)) *Revocations {
	t.Helper()
	var cfg RevocationsConfig
	for _, f := range f {
		f(&cfg)
	}
	r, err := NewRevocations(cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, r.Close())
		require.NoError(t, r.Close())
	})
	return r
}

// TestRevoke: what is revoked is refused at once, remembered or not, and nothing
// else is.
func TestRevoke(t *testing.T) {
	t.Parallel()
	now := time.Now().Truncate(time.Second)
	at := func(d time.Duration) int64 { return now.Add(d).Unix() }
	const other = "https://other.example"
	tokens := map[string]string{
		"alice 1":     edToken(t, payload(now, m{"jti": "1", "iat": at(-60 * time.Second)})),
		"alice 2":     edToken(t, payload(now, m{"jti": "2", "iat": at(-30 * time.Second)})),
		"alice, when": edToken(t, payload(now, m{"jti": "3"})),
		"bob 4":       edToken(t, payload(now, m{"jti": "4", "sub": "bob", "iat": at(-60 * time.Second)})),
		"nobody":      edToken(t, payload(now, m{"jti": nil, "sub": nil})),
		"key 2":       sign(t, "EdDSA", otherEd(), m{"alg": "EdDSA", "kid": "two"}, payload(now, m{"jti": "5", "sub": "carol"})),
		"elsewhere":   edToken(t, payload(now, m{"iss": other, "jti": "1", "iat": at(-60 * time.Second)})),
	}
	for _, test := range []struct {
		name string
		rev  Revocation
		ends []string
	}{
		{"a token", Revocation{Credential: "1"}, []string{"alice 1"}},
		{"a user", Revocation{Subject: "alice", IssuedBefore: now.Add(-30 * time.Second)}, []string{"alice 1", "alice, when"}},
		{"a user, a moment later", Revocation{Subject: "alice", IssuedBefore: now.Add(-30*time.Second + 1)}, []string{"alice 1", "alice 2", "alice, when"}},
		{"a key", Revocation{KeyID: "two"}, []string{"key 2"}},
		{"the other key", Revocation{KeyID: "ed"}, []string{"alice 1", "alice 2", "alice, when", "bob 4", "nobody"}},
		{"a user, for ever", Revocation{Subject: "bob", IssuedBefore: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)}, []string{"bob 4"}},
		{"a user, until past the end of nanoseconds", Revocation{Subject: "bob", IssuedBefore: time.Date(2262, 6, 1, 0, 0, 0, 0, time.UTC)}, []string{"bob 4"}},
		{"nobody we know", Revocation{Credential: "alice"}, nil},
		{"of somebody else", Revocation{Issuer: other, Subject: "alice", IssuedBefore: now}, []string{"elsewhere"}},
	} {
		for _, warm := range []bool{true, false} {
			t.Run(fmt.Sprint(test.name, warm), func(t *testing.T) {
				t.Parallel()
				r := newRevocations(t)
				keys := mustKeys(t, StaticKey{ID: "ed", Key: edPublic(edKey())}, StaticKey{ID: "two", Key: edPublic(otherEd())})
				issuer := edIssuer(t, func(is *Issuer) { is.Keys = keys })
				elsewhere := edIssuer(t, func(is *Issuer) { is.Issuer = other })
				a, err := New(Config{Issuers: []Issuer{issuer, elsewhere}, Revocations: r})
				require.NoError(t, err)
				for name, token := range tokens {
					if warm {
						require.Equal(t, "ok", tokenReason(t, a, token), name)
						require.Equal(t, "ok", tokenReason(t, a, token), name)
					}
				}
				rev := test.rev
				if rev.Until = now.Add(time.Hour); rev.Issuer == "" {
					rev.Issuer = testIssuer
				}
				require.NoError(t, r.Revoke(t.Context(), rev))
				for name, token := range tokens {
					want := "ok"
					for _, e := range test.ends {
						if e == name {
							want = "token_revoked"
						}
					}
					for range 2 {
						assert.Equal(t, want, tokenReason(t, a, token), name)
					}
					_, ok, err := a.AdmitCached(t.Context(), bearerCall(t, token))
					assert.Equal(t, want == "ok", ok, name)
					assert.Equal(t, want == "ok", err == nil, name)
					if err != nil {
						assert.Equal(t, `Bearer error="invalid_token"`, fieldOf(gatemesh.AsDenial(t.Context(), err), "WWW-Authenticate"))
					}
				}
			})
		}
	}
}

// TestRevokeKeyWithoutKid: a stolen key signs nothing that passes, by leaving out
// which one it is.
func TestRevokeKeyWithoutKid(t *testing.T) {
	t.Parallel()
	for _, warm := range []bool{true, false} {
		r := newRevocations(t)
		a, err := New(Config{Issuers: []Issuer{edIssuer(t)}, Revocations: r})
		require.NoError(t, err)
		token := sign(t, "EdDSA", edKey(), m{"alg": "EdDSA"}, payload(time.Now(), nil))
		if warm {
			require.Equal(t, "ok", tokenReason(t, a, token))
		}
		require.NoError(t, r.Revoke(t.Context(), Revocation{Issuer: testIssuer, KeyID: "ed", Until: time.Now().Add(time.Hour)}))
		assert.Equal(t, "token_revoked", tokenReason(t, a, token))
	}
}

// TestRevocationsFull: a log that is longer than allowed costs one look at what
// there is, not one for each of its lines, and what is there can still be extended.
func TestRevocationsFull(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRevocations(t, func(c *RevocationsConfig) { c.MaxEntries = 20_000 })
		var list []Revocation
		for i := range 40_000 {
			list = append(list, Revocation{Issuer: testIssuer, Credential: fmt.Sprint(i), Until: time.Now().Add(time.Minute)})
		}
		require.False(t, r.add(list))
		assert.Equal(t, 20_000, r.Len())
		assert.Equal(t, time.Now().Add(time.Minute), r.earliest)
		r.sweepAt = -1 // would be noticed by a look
		list[0].Until = time.Now().Add(time.Hour)
		require.False(t, r.add(list))
		assert.Equal(t, -1, r.sweepAt, "nothing can be over yet")
		time.Sleep(time.Minute)
		require.True(t, r.add([]Revocation{{Issuer: testIssuer, Credential: "new", Until: time.Now().Add(time.Minute)}}))
		assert.Equal(t, 2, r.Len())
		assert.True(t, r.concern(bearing{issuer: testIssuer, credential: "0"}, time.Now()), "extended")
	})
}

func TestRevokeOpaqueAndAPIKeys(t *testing.T) {
	t.Parallel()
	r := newRevocations(t)
	secret, hash := GenerateKey()
	keys, err := NewKeySet([]Key{{ID: "k1", Consumer: "c", Hash: hash}})
	require.NoError(t, err)
	a := newOpaqueAuth(t, newServer(active(time.Hour, m{"iat": time.Now().Add(-time.Second).Unix(), "sub": "alice"})), func(c *Config) {
		c.Revocations, c.APIKeys = r, keys
	})
	key := func() string { return reason(t, a, callWith(t, http.Header{"X-Api-Key": {secret}})) }
	until := time.Now().Add(time.Hour)
	require.Equal(t, "ok", key())
	require.Equal(t, "ok", tokenReason(t, a, "opaque"))
	require.NoError(t, r.Revoke(t.Context(), Revocation{Credential: "k1", Until: until}))
	assert.Equal(t, "key_revoked", key())
	require.Equal(t, "ok", tokenReason(t, a, "opaque"))
	require.NoError(t, r.Revoke(t.Context(), Revocation{Issuer: testIssuer, Subject: "alice", IssuedBefore: time.Now(), Until: until}))
	assert.Equal(t, "token_revoked", tokenReason(t, a, "opaque"))
	assert.Equal(t, "token_revoked", tokenReason(t, a, "another"))
}

// TestRevocationsEnd: they are forgotten when they are over, and are never more
// than allowed; the longer and the later of two about the same counts.
func TestRevocationsEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRevocations(t, func(c *RevocationsConfig) { c.MaxEntries = 10 })
		a, err := New(Config{Issuers: []Issuer{edIssuer(t)}, Revocations: r})
		require.NoError(t, err)
		token := edToken(t, payload(time.Now(), m{"jti": "0", "iat": time.Now().Unix()}))
		begin := time.Now()
		for i := range 10 {
			require.NoError(t, r.Revoke(t.Context(), Revocation{Issuer: testIssuer, Credential: fmt.Sprint(i), Until: begin.Add(time.Minute)}))
		}
		assert.ErrorContains(t, r.Revoke(t.Context(), Revocation{Issuer: testIssuer, KeyID: "k", Until: begin.Add(time.Minute)}), "there are already 10")
		require.NoError(t, r.Revoke(t.Context(), Revocation{Issuer: testIssuer, Credential: "0", Until: begin.Add(time.Second)}), "it is there already")
		time.Sleep(time.Minute - 1)
		assert.Equal(t, "token_revoked", tokenReason(t, a, token))
		time.Sleep(time.Nanosecond)
		assert.Equal(t, "ok", tokenReason(t, a, token))
		subject := Revocation{Issuer: testIssuer, Subject: "alice", IssuedBefore: begin.Add(time.Second), Until: begin.Add(time.Hour)}
		require.NoError(t, r.Revoke(t.Context(), subject), "the others are over")
		assert.Equal(t, 1, r.Len())
		subject.IssuedBefore = begin.Add(-time.Hour)
		require.NoError(t, r.Revoke(t.Context(), subject))
		assert.Equal(t, "token_revoked", tokenReason(t, a, token))
	})
}

// TestRevocationsReplaced: what was looked up in others counts for nothing.
func TestRevocationsReplaced(t *testing.T) {
	t.Parallel()
	first, second := newRevocations(t), newRevocations(t)
	until := time.Now().Add(time.Hour)
	a, err := New(Config{Issuers: []Issuer{edIssuer(t)}, Revocations: first})
	require.NoError(t, err)
	require.NoError(t, first.Revoke(t.Context(), Revocation{Issuer: testIssuer, KeyID: "x", Until: until}))
	token := edToken(t, payload(time.Now(), nil))
	require.Equal(t, "ok", tokenReason(t, a, token))
	require.NoError(t, second.Revoke(t.Context(), Revocation{Issuer: testIssuer, Credential: "t1", Until: until}))
	require.NoError(t, a.Update(Config{Issuers: []Issuer{edIssuer(t, func(is *Issuer) { is.Keys = a.state.Latest().cfg.Issuers[0].Keys })}, Revocations: second}))
	assert.Equal(t, "token_revoked", tokenReason(t, a, token))
}

// TestRevokeRace: whoever asks after Revoke has returned is refused.
func TestRevokeRace(t *testing.T) {
	t.Parallel()
	r := newRevocations(t)
	a, err := New(Config{Issuers: []Issuer{edIssuer(t)}, Revocations: r})
	require.NoError(t, err)
	until := time.Now().Add(time.Hour)
	for i := range 20 {
		token := edToken(t, payload(time.Now(), m{"jti": fmt.Sprint(i)}))
		var gone atomic.Bool
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for {
					was := gone.Load()
					got := tokenReason(t, a, token)
					if was {
						assert.Equal(t, "token_revoked", got)
						return
					}
				}
			})
		}
		require.NoError(t, r.Revoke(t.Context(), Revocation{Issuer: testIssuer, Credential: fmt.Sprint(i), Until: until}))
		gone.Store(true)
		wg.Wait()
	}
}

// board is a RevocationLog in memory, which can be cut.
type board struct {
	mu    sync.Mutex
	list  []Revocation
	more  chan struct{} // closed when there is more
	cut   chan struct{} // closed when the connection breaks
	err   error         // if it cannot be reached
	panic bool
}

func newBoard() *board { return &board{more: make(chan struct{}), cut: make(chan struct{})} }

var errAway = errors.New("away")

func (b *board) Append(_ context.Context, r Revocation) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return b.err
	}
	b.list = append(b.list, r)
	close(b.more)
	b.more = make(chan struct{})
	return nil
}

func (b *board) Follow(ctx context.Context, apply func([]Revocation)) error {
	for n := 0; ; {
		b.mu.Lock()
		list, more, cut, err := b.list[n:], b.more, b.cut, b.err
		boom := b.panic
		b.mu.Unlock()
		if boom {
			panic("oh")
		}
		if err != nil {
			return err
		}
		apply(list)
		n += len(list)
		select {
		case <-more:
		case <-cut:
			return errAway
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (b *board) set(err error, boom bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err, b.panic = err, boom
	close(b.cut)
	b.cut = make(chan struct{})
}

// TestRevocationLog: replicas share revocations. Without the log, nothing is
// accepted before it was read once, and for MaxBlind after it was lost.
func TestRevocationLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, w := newBoard(), &watcher{}
		b.set(errAway, false)
		var replicas []*Authenticator
		var all []*Revocations
		for range 3 {
			r := newRevocations(t, func(c *RevocationsConfig) { c.Log, c.MaxBlind, c.Observer = b, time.Minute, w })
			a, err := New(Config{Issuers: []Issuer{edIssuer(t)}, Revocations: r})
			require.NoError(t, err)
			replicas, all = append(replicas, a), append(all, r)
		}
		later := time.Now().Add(24 * time.Hour)
		one, two := edToken(t, payload(time.Now(), m{"jti": "1", "exp": later.Unix()})), edToken(t, payload(time.Now(), m{"jti": "2", "exp": later.Unix()}))
		say := func(token, want string) {
			t.Helper()
			synctest.Wait()
			for _, a := range replicas {
				assert.Equal(t, want, tokenReason(t, a, token))
			}
		}
		say(one, "token_unverifiable")
		b.set(nil, false)
		time.Sleep(6 * time.Second)
		say(one, "ok")
		require.NoError(t, all[1].Revoke(t.Context(), Revocation{Issuer: testIssuer, Credential: "1", Until: later}))
		say(one, "token_revoked")
		say(two, "ok")

		b.set(errAway, false)
		err := all[0].Revoke(t.Context(), Revocation{Issuer: testIssuer, Credential: "2", Until: later})
		require.ErrorIs(t, err, errAway)
		assert.ErrorContains(t, err, "holds here alone")
		assert.Equal(t, "token_revoked", tokenReason(t, replicas[0], two))
		assert.Equal(t, "ok", tokenReason(t, replicas[1], two))
		time.Sleep(time.Minute - time.Second)
		assert.Equal(t, "ok", tokenReason(t, replicas[1], two))
		say(one, "token_revoked")
		time.Sleep(2 * time.Second)
		say(two, "token_unverifiable")
		say(one, "token_unverifiable")

		b.set(nil, true) // it panics
		time.Sleep(time.Minute)
		say(two, "token_unverifiable")
		b.set(nil, false)
		time.Sleep(6 * time.Second)
		assert.Equal(t, "ok", tokenReason(t, replicas[1], two))
		say(one, "token_revoked")
		require.NoError(t, all[0].Revoke(t.Context(), Revocation{Issuer: testIssuer, Credential: "2", Until: later}), "tried again")
		say(two, "token_revoked")

		told := map[string]int{}
		for _, e := range w.all() {
			told[e.Message]++
		}
		assert.Equal(t, map[string]int{"the revocation log cannot be followed": 6, "the revocation log can be followed again": 6}, told)
		require.NoError(t, all[2].Close())
		time.Sleep(2 * time.Minute)
		assert.Equal(t, "token_unverifiable", tokenReason(t, replicas[2], two), "who does not follow is blind")
	})
}

// A log with more than there is room for is as good as none.
func TestRevocationLogTooLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, w := newBoard(), &watcher{}
		for i := range 20 {
			require.NoError(t, b.Append(t.Context(), Revocation{Issuer: testIssuer, Credential: fmt.Sprint(i), Until: time.Now().Add(time.Minute)}))
		}
		r := newRevocations(t, func(c *RevocationsConfig) { c.Log, c.MaxBlind, c.MaxEntries, c.Observer = b, time.Second, 10, w })
		a, err := New(Config{Issuers: []Issuer{edIssuer(t)}, Revocations: r})
		require.NoError(t, err)
		synctest.Wait()
		token := edToken(t, payload(time.Now(), nil))
		assert.Equal(t, "token_unverifiable", tokenReason(t, a, token))
		assert.Equal(t, 10, r.Len())
		time.Sleep(70 * time.Second) // until they are over
		assert.Equal(t, "ok", tokenReason(t, a, token))
	})
}

func TestRevocationFaults(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		cfg  RevocationsConfig
		want string
	}{
		{RevocationsConfig{MaxBlind: time.Second}, "MaxBlind has a meaning only with Log"},
		{RevocationsConfig{Log: newBoard()}, "MaxBlind 0s is not between"},
		{RevocationsConfig{Log: (*board)(nil), MaxBlind: time.Second}, "Log is nil"},
		{RevocationsConfig{MaxEntries: -1}, "MaxEntries -1 is not between"},
	} {
		_, err := NewRevocations(test.cfg)
		assert.ErrorContains(t, err, test.want)
	}
	r, until := newRevocations(t), time.Now().Add(time.Hour)
	for want, rev := range map[string]Revocation{
		"exactly one of":                         {Issuer: "i", Until: until},
		"exactly one of Credential, Subject and": {Issuer: "i", Credential: "c", KeyID: "k", Until: until},
		"Issuer is required":                     {KeyID: "k", Until: until},
		"Until is required":                      {Issuer: "i", KeyID: "k"},
		"IssuedBefore is required":               {Issuer: "i", Subject: "s", Until: until},
		"and an error without":                   {Issuer: "i", KeyID: "k", IssuedBefore: until, Until: until},
	} {
		assert.ErrorContains(t, r.Revoke(t.Context(), rev), want)
	}
	assert.Zero(t, r.Len())
	assert.Error(t, new(Revocations).Revoke(t.Context(), Revocation{Issuer: "i", KeyID: "k", Until: until}))
	assert.NoError(t, new(Revocations).Close())
	_, err := New(Config{Issuers: []Issuer{edIssuer(t)}, Revocations: &Revocations{}})
	assert.ErrorContains(t, err, "not made by NewRevocations")
}
