package devca_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
)

// events counts what an Observer hears, by message.
type events struct{ faults, notices atomic.Int64 }

func (e *events) Observe(_ context.Context, ev gatemesh.Event) {
	switch ev.Kind {
	case gatemesh.EventFault:
		e.faults.Add(1)
	case gatemesh.EventNotice:
		e.notices.Add(1)
	}
}

func good(t *testing.T, roots []*x509.Certificate, s mtls.Source) {
	t.Helper()
	pool := x509.NewCertPool()
	for _, r := range roots {
		pool.AddCert(r)
	}
	_, err := s.Credentials().Certificate.Leaf.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: time.Now()})
	require.NoError(t, err)
}

func TestSource_RenewsAtTwoThirds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ca := gatemesh.Must(devca.New("cluster.local"))
		s := gatemesh.Must(ca.Source(devca.WorkloadConfig{ID: id}))
		first := s.Credentials()
		time.Sleep(40*time.Minute - time.Second)
		synctest.Wait()
		assert.Same(t, first, s.Credentials())
		time.Sleep(time.Second)
		synctest.Wait()
		second := s.Credentials()
		assert.NotSame(t, first, second)
		assert.NotEqual(t, first.Certificate.Leaf.PublicKey, second.Certificate.Leaf.PublicKey, "a new key")
		assert.Same(t, first.Bundles, second.Bundles, "peers need not be verified anew")

		seen, last := 0, second
		for range 2 * 24 * 6 { // two days
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			good(t, ca.Bundle(), s)
			if now := s.Credentials(); now != last {
				seen, last = seen+1, now
			}
		}
		assert.Equal(t, 2*24*60/40, seen)

		require.NoError(t, s.Close())
		require.NoError(t, s.Close())
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		assert.Same(t, last, s.Credentials())
		require.NoError(t, s.Renew())
		good(t, ca.Bundle(), s)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		assert.True(t, time.Now().After(s.Credentials().Certificate.Leaf.NotAfter), "Renew has not set the timer again")

		by := gatemesh.Must(ca.Source(devca.WorkloadConfig{ID: id, DisableRenewal: true}))
		last = by.Credentials()
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		assert.Same(t, last, by.Credentials())
		require.NoError(t, by.Close())
	})
}

func TestSource_RetriesAfterFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ca := gatemesh.Must(devca.New("cluster.local"))
		var heard events
		s := gatemesh.Must(ca.Source(devca.WorkloadConfig{ID: id, Observer: &heard}))
		defer func() { assert.NoError(t, s.Close()) }()
		first := s.Credentials()
		var tried []time.Duration
		start := time.Now()
		devca.SetIssue(s, func(string, time.Duration) (tls.Certificate, error) {
			tried = append(tried, time.Since(start).Round(time.Second)-40*time.Minute)
			return tls.Certificate{}, errors.New("no entropy")
		})
		time.Sleep(44 * time.Minute)
		synctest.Wait()
		assert.Equal(t, []time.Duration{
			0, time.Second, 3 * time.Second, 7 * time.Second, 15 * time.Second, 31 * time.Second, 63 * time.Second,
			123 * time.Second, 183 * time.Second,
		}, tried)
		assert.Same(t, first, s.Credentials(), "the last good one")
		assert.EqualValues(t, 1, heard.faults.Load(), "once")

		devca.SetIssue(s, ca.Issue)
		time.Sleep(time.Minute)
		synctest.Wait()
		second := s.Credentials()
		assert.NotSame(t, first, second)
		devca.SetIssue(s, func(string, time.Duration) (tls.Certificate, error) {
			return tls.Certificate{}, errors.New("no entropy")
		})
		time.Sleep(time.Hour)
		synctest.Wait()
		assert.Same(t, second, s.Credentials())
		assert.EqualValues(t, 2, heard.faults.Load(), "and again after a success")
	})
}

// TestCA_RootRotation follows two workloads through three lives of a root: each
// trusts the other's certificate of any moment, also with the roots of ten
// minutes ago.
func TestCA_RootRotation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const life = 30 * time.Hour
		ca := gatemesh.Must(devca.NewCA(devca.Config{TrustDomain: "cluster.local", RootLifetime: life}))
		a := gatemesh.Must(ca.Source(devca.WorkloadConfig{ID: id}))
		b := gatemesh.Must(ca.Source(devca.WorkloadConfig{ID: "spiffe://cluster.local/b"}))
		start, first := time.Now(), ca.Bundle()
		roots := map[string]bool{string(first[0].Raw): true}
		was := ca.Bundle()
		for range 3 * 30 * 6 {
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			good(t, was, a) // by who has not heard of the roots of now
			good(t, was, b)
			good(t, ca.Bundle(), a)
			was = ca.Bundle()
			require.LessOrEqual(t, len(was), 2)
			for _, r := range was {
				roots[string(r.Raw)] = true
			}
			switch at := time.Since(start); {
			case at < life*2/3:
				require.Len(t, was, 1, at)
			case at < life*5/6:
				require.Len(t, was, 2, at)
				require.NoError(t, a.Credentials().Certificate.Leaf.CheckSignatureFrom(first[0]), "the old root signs still")
			case at > life*5/6+time.Hour && at < life:
				require.NoError(t, a.Credentials().Certificate.Leaf.CheckSignatureFrom(was[1]), "the new root signs")
			case at > life && at < life+time.Hour:
				require.NotContains(t, was, first[0], "the old root has ended")
			}
		}
		assert.Len(t, roots, 5, "one about every 20 hours")
		require.NoError(t, a.Close())
		require.NoError(t, b.Close())

		time.Sleep(10 * life) // all roots end while nobody looks
		assert.Len(t, ca.Bundle(), 1)
		require.NoError(t, a.Renew())
		good(t, ca.Bundle(), a)
	})
}

func TestCA_LeafEndsWithItsRoot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ca := gatemesh.Must(devca.NewCA(devca.Config{TrustDomain: "cluster.local", RootLifetime: time.Hour}))
		cert := gatemesh.Must(ca.Issue(id, 24*time.Hour))
		assert.Equal(t, ca.Bundle()[0].NotAfter, cert.Leaf.NotAfter)
	})
}

func TestSource_FollowsRetire(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ca := gatemesh.Must(devca.New("cluster.local"))
		s := gatemesh.Must(ca.Source(devca.WorkloadConfig{ID: id}))
		defer func() { assert.NoError(t, s.Close()) }()
		require.NoError(t, ca.Rotate())
		first := s.Credentials()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		assert.Same(t, first, s.Credentials(), "both roots are trusted")
		require.NoError(t, ca.Retire())
		time.Sleep(time.Minute)
		synctest.Wait()
		good(t, ca.Bundle(), s)
	})
}

func TestSource_CollectedUnclosed(t *testing.T) {
	t.Parallel()
	ca := gatemesh.Must(devca.New("cluster.local"))
	w := weak.Make(gatemesh.Must(ca.Source(devca.WorkloadConfig{ID: id})))
	require.Eventually(t, func() bool { runtime.GC(); return w.Value() == nil }, time.Minute, time.Millisecond)
}

func TestNewCA_Invalid(t *testing.T) {
	t.Parallel()
	_, err := devca.NewCA(devca.Config{RootLifetime: time.Second})
	assert.ErrorContains(t, err, "TrustDomain")
	assert.ErrorContains(t, err, "RootLifetime")
}
