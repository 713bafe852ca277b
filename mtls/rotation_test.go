package mtls_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
)

// load makes requests one after another until the test has seen enough.
type load struct {
	mu   sync.Mutex
	cond *sync.Cond
	made map[string]int
	over bool
}

// run calls ask for a client until stop.
func (l *load) run(t *testing.T, name string, ask func() (int, string, string, error)) {
	for {
		status, _, _, err := ask()
		ok := assert.NoError(t, err, name) && assert.Equal(t, 200, status, name)
		l.mu.Lock()
		l.made[name]++
		over := l.over || !ok
		l.over = over // one failure is enough
		l.cond.Broadcast()
		l.mu.Unlock()
		if over {
			return
		}
	}
}

// each waits until every client has made a whole request from now on: the one
// under way may have begun before.
func (l *load) each() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, n := range l.made {
		for l.made[name] < n+2 && !l.over {
			l.cond.Wait()
		}
	}
}

func (l *load) stop() (total int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
	for _, n := range l.made {
		total += n
	}
	return total
}

// 100 renewed certificates and 5 new roots under load, on connections that stay
// (HTTP/1.1 and HTTP/2) and on one for each request: nothing fails, and who
// connects anew sees the new certificate.
func TestMTLS06_F04_RotationUnderLoad(t *testing.T) {
	t.Parallel()
	ca := gatemesh.Must(devca.New(domain))
	us := gatemesh.Must(ca.Source(devca.WorkloadConfig{ID: callee}))
	them := gatemesh.Must(ca.Source(devca.WorkloadConfig{ID: caller}))
	server, client := newTLS(t, us), newTLS(t, them)
	h := mesh(t, server, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.TLS.PeerCertificates[0].SerialNumber.String())
	})
	http1, _ := serve(t, server.ServerConfig(), false, h)
	http2, _ := serve(t, server.ServerConfig(), true, h)

	l := &load{made: map[string]int{"http/1.1": 0, "http/2": 0, "new": 0}}
	l.cond = sync.NewCond(&l.mu)
	var wg sync.WaitGroup
	keep1, keep2 := transport(t, client, exactly(t, callee)), transport(t, client, exactly(t, callee))
	for name, ask := range map[string]func() (int, string, string, error){
		"http/1.1": func() (int, string, string, error) { return get(t, keep1, http1) },
		"http/2":   func() (int, string, string, error) { return get(t, keep2, http2) },
		"new": func() (int, string, string, error) {
			once, err := client.Transport(exactly(t, callee))
			if err != nil {
				return 0, "", "", err
			}
			defer once.CloseIdleConnections()
			return get(t, once, http2)
		},
	} {
		wg.Go(func() { l.run(t, name, ask) })
	}
	for i := range 100 {
		steps := []func() error{func() error { return errors.Join(us.Renew(), them.Renew()) }}
		if i%20 == 10 { // with overlap, as roots are replaced
			steps = []func() error{ca.Rotate, steps[0], ca.Retire}
		}
		for _, step := range steps {
			require.NoError(t, step())
			if i%5 == 0 {
				l.each()
			}
		}
		if i%10 == 0 {
			cfg, err := client.ClientConfig(exactly(t, callee))
			require.NoError(t, err)
			cfg.NextProtos = []string{"http/1.1"}
			fresh := &http.Transport{TLSClientConfig: cfg}
			status, _, serial, err := get(t, fresh, http1)
			fresh.CloseIdleConnections()
			require.NoError(t, err)
			require.Equal(t, fmt.Sprint("200 ", them.Credentials().Certificate.Leaf.SerialNumber), fmt.Sprint(status, " ", serial))
		}
	}
	total := l.stop()
	wg.Wait()
	assert.GreaterOrEqual(t, total, 3*2*30)
}
