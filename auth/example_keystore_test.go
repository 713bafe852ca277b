package auth_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth"
)

// tableKeys is a KeyStore that asks a database, one question at a time, and
// remembers each answer for a while: a key, and that there is none.
type tableKeys struct {
	query func(ctx context.Context, hash string) (auth.Key, error) // sql.ErrNoRows if there is none
	turn  chan struct{}                                            // of one, so that floods wait for us and not for the database

	mu       sync.Mutex
	answers  map[auth.KeyDigest]tableAnswer
	refusals map[auth.KeyDigest]tableAnswer // bounded apart, so that strangers cannot push out keys
}

type tableAnswer struct {
	key   *auth.APIKey
	until time.Time
}

func (s *tableKeys) FindKey(digest auth.KeyDigest, now time.Time) (*auth.APIKey, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.answers[digest]
	if !ok {
		a, ok = s.refusals[digest]
	}
	return a.key, ok && now.Before(a.until)
}

func (s *tableKeys) LoadKey(ctx context.Context, digest auth.KeyDigest) (*auth.APIKey, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if k, known := s.FindKey(digest, time.Now()); known { // somebody asked while we waited
		return k, nil
	}
	row, err := s.query(ctx, digest.String())
	if errors.Is(err, sql.ErrNoRows) {
		s.remember(s.refusals, digest, nil)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	k, err := auth.NewAPIKey(row)
	if err != nil {
		return nil, err
	}
	s.remember(s.answers, digest, k)
	return k, nil
}

func (s *tableKeys) remember(in map[auth.KeyDigest]tableAnswer, digest auth.KeyDigest, k *auth.APIKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(in) >= 10_000 {
		clear(in)
	}
	delete(s.answers, digest) // it may have been withdrawn
	delete(s.refusals, digest)
	in[digest] = tableAnswer{k, time.Now().Add(30 * time.Second)}
}

// A KeyStore for keys that are in a database. The database sees hashes alone.
func ExampleKeyStore() {
	rows := map[string]auth.Key{auth.HashKey("secret-of-acme"): {
		ID: "acme-1", Consumer: "acme", Hash: auth.HashKey("secret-of-acme"), Metadata: map[string]string{"plan": "gold"},
	}}
	asked := 0
	store := &tableKeys{
		turn: make(chan struct{}, 1), answers: map[auth.KeyDigest]tableAnswer{}, refusals: map[auth.KeyDigest]tableAnswer{},
		query: func(_ context.Context, hash string) (auth.Key, error) {
			asked++
			if k, ok := rows[hash]; ok {
				return k, nil
			}
			return auth.Key{}, sql.ErrNoRows
		},
	}
	who := gatemesh.Must(auth.New(auth.Config{APIKeys: store}))
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	h := entry.Handler(who.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := gatemesh.FromContext(r.Context()).Principal()
		plan, _ := p.ClaimString("metadata", "plan")
		fmt.Fprintf(w, "%s has plan %s", p.Consumer(), plan)
	})))
	for _, secret := range []string{"secret-of-acme", "secret-of-acme", "invented", "invented"} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("X-Api-Key", secret)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code == http.StatusOK {
			fmt.Println(w.Code, w.Body)
		} else {
			fmt.Println(w.Code)
		}
	}
	fmt.Println("asked the database", asked, "times")
	// Output:
	// 200 acme has plan gold
	// 200 acme has plan gold
	// 401
	// 401
	// asked the database 2 times
}
