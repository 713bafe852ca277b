package main

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth"
)

const (
	issuer   = "https://idp.example"
	audience = "https://api.example"
)

// key returns the issuer's key number n, the same one each time.
func key(n int) ed25519.PrivateKey {
	seed := make([]byte, ed25519.SeedSize)
	seed[0], seed[1] = byte(n), byte(n>>8)
	return ed25519.NewKeyFromSeed(seed)
}

func kid(n int) string { return fmt.Sprintf("key-%d", n) }

// sign returns a token of a user, signed with key n.
func sign(n int, user string, expires time.Time) string {
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{
		"iss": issuer, "aud": audience, "sub": user, "exp": expires.Unix(), "scope": "openid orders users",
		"tenant": "acme", "name": strings.Repeat("n", 200),
	})
	t.Header["kid"] = kid(n)
	s, err := t.SignedString(key(n))
	return gatemesh.Must(s, err) // the key and the claims are ours
}

// idp is an issuer's key endpoint that can be made to fail.
type idp struct {
	addr string

	mu      sync.Mutex
	server  *http.Server
	keys    []int
	silent  bool
	fetches []time.Time
	hang    chan struct{} // closed to let go who waits for a silent endpoint
	done    chan struct{} // the server has ended
}

func newIDP(keys ...int) (*idp, error) {
	p := &idp{addr: "127.0.0.1:0", keys: keys, hang: make(chan struct{})}
	return p, p.start()
}

func (p *idp) start() error {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", p.addr)
	if err != nil {
		return err
	}
	p.addr, p.done = l.Addr().String(), make(chan struct{})
	p.server = &http.Server{Handler: p, ReadHeaderTimeout: 10 * time.Second}
	go func(s *http.Server, done chan struct{}) {
		defer close(done)
		_ = s.Serve(l) // ends with Close
	}(p.server, p.done)
	return nil
}

// stop has connections refused.
func (p *idp) stop() {
	p.mu.Lock()
	if p.silent {
		p.silent = false
		close(p.hang)
	}
	p.mu.Unlock()
	_ = p.server.Close() // connections that break are the point
	<-p.done
}

// fallSilent has requests hang.
func (p *idp) fallSilent() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent, p.hang = true, make(chan struct{})
}

func (p *idp) publish(keys ...int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys = keys
}

// fetched returns when the endpoint was asked, in order.
func (p *idp) fetched() []time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.fetches)
}

func (p *idp) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.fetches = append(p.fetches, time.Now())
	keys, silent, hang := slices.Clone(p.keys), p.silent, p.hang
	p.mu.Unlock()
	if silent {
		select {
		case <-hang:
		case <-r.Context().Done():
		}
		return
	}
	set := []map[string]string{}
	for _, n := range keys {
		public := key(n).Public().(ed25519.PublicKey)
		set = append(set, map[string]string{"kty": "OKP", "crv": "Ed25519", "kid": kid(n), "x": base64.RawURLEncoding.EncodeToString(public)})
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"keys": set}) // whoever asked may have gone
}

// world is an issuer, an edge that trusts it, and a client of the edge.
type world struct {
	idp    *idp
	keys   *auth.JWKS
	who    *auth.Authenticator
	opened atomic.Int64 // when the breaker of the key set opened first, in Unix ns

	server *http.Server
	done   chan struct{}
	url    string
	client *http.Client
}

func newWorld(jwks auth.JWKSConfig, entries int) (w *world, err error) {
	w = &world{}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if w.idp, err = newIDP(1); err != nil {
		return w, err
	}
	jwks.URL = "http://" + w.idp.addr + "/jwks"
	jwks.Observer = observer(func(e gatemesh.Event) {
		if e.Layer == "breaker" && e.Kind == gatemesh.EventFault {
			w.opened.CompareAndSwap(0, time.Now().UnixNano())
		}
	})
	if w.keys, err = auth.NewJWKS(jwks); err != nil {
		return w, err
	}
	w.who, err = auth.New(auth.Config{
		Issuers:      []auth.Issuer{{Issuer: issuer, Audience: []string{audience}, Algorithms: []string{"EdDSA"}, Keys: w.keys}},
		CacheEntries: entries,
	})
	if err != nil {
		return w, err
	}
	entry, err := gatemesh.NewEntry(gatemesh.EntryConfig{})
	if err != nil {
		return w, err
	}
	chain, err := gatemesh.NewChain(entry, w.who.Layer())
	if err != nil {
		return w, err
	}
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return w, err
	}
	w.url = "http://" + l.Addr().String() + "/v1/orders"
	w.server = &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: chain.Handler(http.HandlerFunc(
		func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusNoContent) }))}
	w.done = make(chan struct{})
	go func() {
		defer close(w.done)
		_ = w.server.Serve(l) // ends with Close
	}()
	w.client = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 1000}}
	return w, nil
}

func (w *world) close() {
	if w.server != nil {
		w.client.CloseIdleConnections()
		_ = w.server.Close() // nothing is under way
		<-w.done
	}
	if w.keys != nil {
		_ = w.keys.Close() // it is never in error
	}
	if w.idp != nil {
		w.idp.stop()
	}
}

type observer func(gatemesh.Event)

func (o observer) Observe(_ context.Context, e gatemesh.Event) { o(e) }

// answer is what became of a request. A status of 0 is none.
type answer struct {
	i          int
	status     int
	sent, done time.Time
}

func (a answer) took() time.Duration { return a.done.Sub(a.sent) }

// ask makes one request.
func (w *world) ask(ctx context.Context, token string) answer {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url, nil)
	if err != nil {
		return answer{}
	}
	r.Header["Authorization"] = []string{"Bearer " + token}
	a := answer{sent: time.Now()}
	resp, err := w.client.Do(r)
	a.done = time.Now()
	if err != nil {
		return a
	}
	_, _ = io.Copy(io.Discard, resp.Body) // there is none, or a problem document
	_ = resp.Body.Close()
	a.status = resp.StatusCode
	return a
}

// load asks at a rate for d, each time with the next token, and tells got about
// the answers, from many goroutines. It does not wait for answers to ask on.
func (w *world) load(ctx context.Context, rate int, d time.Duration, token func(i int) string, got func(answer)) {
	const callers = 64
	var next atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for range callers {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				due := time.Duration(i) * time.Second / time.Duration(rate)
				if due >= d || !sleep(ctx, due-time.Since(began)) || time.Since(began) > 2*d {
					return
				}
				a := w.ask(ctx, token(i))
				a.i = i
				got(a)
			}
		})
	}
	wg.Wait()
}

// sleep reports whether ctx allowed it.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// times collects latencies.
type times struct {
	mu  sync.Mutex
	all []time.Duration
}

func (t *times) add(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all = append(t.all, d)
}

// at returns a quantile; 1 is the largest.
func (t *times) at(q float64) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.all) == 0 {
		return 0
	}
	slices.Sort(t.all)
	return t.all[min(int(q*float64(len(t.all))), len(t.all)-1)]
}

// remembered counts the tokens that are decided from memory.
func remembered(ctx context.Context, who *auth.Authenticator, tokens []string) (n int) {
	for _, token := range tokens {
		c, err := callOf(token)
		if err != nil {
			continue
		}
		if adm, ok, err := who.AdmitCached(ctx, c); ok && err == nil && adm.Principal != nil {
			n++
		}
	}
	return n
}

func callOf(token string) (*gatemesh.Call, error) {
	return gatemesh.NewCall(gatemesh.CallInfo{Host: "api.example", Header: http.Header{"Authorization": {"Bearer " + token}}})
}

// warm has n tokens accepted once.
func (w *world) warm(ctx context.Context, n int, token func(i int) string) error {
	var refused, next atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if w.ask(ctx, token(i)).status != http.StatusNoContent {
					refused.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if n := refused.Load(); n > 0 {
		return errors.Join(ctx.Err(), fmt.Errorf("%d tokens were refused while all was well", n))
	}
	return nil
}
