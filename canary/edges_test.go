package canary

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

// TestGroups: who is counted by name, by address, or with those who are vouched
// for.
func TestGroups(t *testing.T) {
	t.Parallel()
	front, err := gatemesh.NewPeer("cluster.local", "/ns/shop/sa/front", nil)
	require.NoError(t, err)
	peer := func(in *gatemesh.CallInfo) { in.Peer = front }
	user := func(in *gatemesh.CallInfo) {
		in.Principal = gatemesh.NewPrincipal(gatemesh.PrincipalInfo{Issuer: "i", Subject: "s"})
	}
	for _, tt := range []struct {
		name    string
		address bool
		with    []func(*gatemesh.CallInfo)
		vouched bool
	}{
		{"an address", true, nil, false},
		{"nobody", false, nil, true},
		{"a workload that acts for no user", true, []func(*gatemesh.CallInfo){peer}, true},
		{"a workload that acts for a user", true, []func(*gatemesh.CallInfo){peer, user}, false},
		{"a user behind no address", false, []func(*gatemesh.CallInfo){user}, false},
	} {
		in := gatemesh.CallInfo{}
		if tt.address {
			in.RemoteAddr = netip.MustParseAddrPort("192.0.2.1:1")
		}
		for _, w := range tt.with {
			w(&in)
		}
		parent, err := gatemesh.NewCall(in)
		require.NoError(t, err)
		out, err := gatemesh.NewCall(gatemesh.CallInfo{Parent: parent})
		require.NoError(t, err)
		for kind, c := range map[string]*gatemesh.Call{"inbound": parent, "outbound": out} {
			assert.Equal(t, tt.vouched, groupOf(1, c) == vouched, "%s, %s", tt.name, kind)
		}
	}
	ours, err := gatemesh.NewCall(gatemesh.CallInfo{Destination: gatemesh.Destination{Service: "s"}})
	require.NoError(t, err)
	assert.Equal(t, vouched, groupOf(1, ours), "a call of our own")
}

// TestLatencyOfInboundCalls: where nobody tells of answers, the end of a good
// call is one.
func TestLatencyOfInboundCalls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := start(t, threeSteps(NewMemoryStore()))
		c, err := gatemesh.NewCall(gatemesh.CallInfo{
			RemoteAddr:  netip.MustParseAddrPort("192.0.2.1:1"),
			Destination: gatemesh.Destination{Service: "orders", Namespace: "production", Subset: "v2"},
		})
		require.NoError(t, err)
		for range 10 {
			(*listener)(r).Finish(c, gatemesh.Outcome{Status: 200, Duration: 80 * time.Millisecond})
			(*listener)(r).Finish(c, gatemesh.Outcome{Status: 500, Duration: time.Second})
			(*listener)(r).Answered(c, gatemesh.Attempt{Outcome: gatemesh.Outcome{Status: 500, Reached: true, Duration: time.Second}})
		}
		time.Sleep(1100 * time.Millisecond)
		v := r.Status().Versions[canary]
		assert.Equal(t, 20, v.Calls)
		assert.InDelta(t, 80*time.Millisecond, v.P99, float64(16*time.Millisecond), "failures have no latency")
	})
}

// TestANewShareBeginsAnew: users, samples and the time in the step are those of
// the share there is.
func TestANewShareBeginsAnew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cfg := threeSteps(NewMemoryStore())
		r := start(t, cfg)
		for slot := range 100 {
			r.users[stable].add(slot * 100)
		}
		r.serve(20, 0)
		time.Sleep(5500 * time.Millisecond)
		require.InDelta(t, 100, r.Status().Versions[stable].Users, 3)
		require.Equal(t, 5*time.Second, r.Status().State.Elapsed.Round(time.Second))
		require.NoError(t, r.Promote(t.Context()))
		time.Sleep(3 * time.Second)
		s := r.Status()
		assert.Zero(t, s.Versions[stable].Users)
		assert.Zero(t, s.Versions[stable].Calls)
		assert.Zero(t, s.State.Elapsed, "it has ended")
	})
}

// TestActionsThatChangeNothing are no entries of the history.
func TestActionsThatChangeNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cfg := threeSteps(NewMemoryStore())
		r := start(t, cfg)
		require.NoError(t, r.Resume(t.Context()))
		assert.Len(t, r.Status().State.History, 1, "it runs already")
		time.Sleep(12 * time.Second) // without a call it halts
		require.NotEmpty(t, r.Status().State.Halt)
		require.NoError(t, r.Pause(t.Context()))
		require.NoError(t, r.Pause(t.Context()))
		s := r.Status().State
		assert.Len(t, s.History, 3)
		assert.Empty(t, s.Halt, "it stays for another reason now")
	})
}

// watched is a Store that looks at what was saved.
type watched struct {
	Store
	seen func(before, after document)
}

func (w *watched) Save(ctx context.Context, key string, value []byte, revision string) (string, error) {
	var before, after document
	old, _, err := w.Load(ctx, key)
	if err == nil && len(old) > 0 {
		err = json.Unmarshal(old, &before)
	}
	if err != nil || json.Unmarshal(value, &after) != nil {
		return "", fmt.Errorf("not a document")
	}
	if revision, err = w.Store.Save(ctx, key, value, revision); err == nil { // and nobody was faster
		w.seen(before, after)
	}
	return revision, err
}

// TestSamplesAreOfTheirShare: what was seen at the share before is not told as
// seen at the new one, by whoever takes the step either.
func TestSamplesAreOfTheirShare(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		steps := 0
		cfg := threeSteps(&watched{NewMemoryStore(), func(before, after document) {
			if before.State.Since == after.State.Since {
				return
			}
			steps++
			for id, r := range after.Replicas {
				if r.Since == after.State.Since {
					assert.Zero(t, r.Samples[canary].Groups[0][nCalls], id)
				}
			}
		}})
		a, b := start(t, cfg), start(t, cfg)
		for range 40 {
			a.serve(20, 0)
			b.serve(20, 0)
			time.Sleep(time.Second)
		}
		assert.Equal(t, []uint32{whole, whole}, shares(a, b))
		assert.Equal(t, 4, steps)
	})
}

// TestAStepTakesSamplesOfItsOwn, also for who learns of it from another replica.
func TestAStepTakesSamplesOfItsOwn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cfg := threeSteps(NewMemoryStore())
		for i := range cfg.Steps {
			cfg.Steps[i].Duration = 0
		}
		a, b := start(t, cfg), start(t, cfg)
		time.Sleep(1100 * time.Millisecond)
		a.serve(10, 0)
		b.serve(10, 0)
		for range 10 {
			time.Sleep(time.Second)
		}
		assert.Equal(t, []uint32{2500, 2500}, shares(a, b))
	})
}

// TestReplicasStayHeard: as long as they report, and no longer.
func TestReplicasStayHeard(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cfg := threeSteps(NewMemoryStore())
		cfg.Steps[0].Pause = true
		a, b := start(t, cfg), start(t, cfg)
		for range 40 {
			a.serve(1, 0)
			b.serve(1, 0)
			time.Sleep(time.Second)
		}
		assert.Equal(t, 2, a.Status().Replicas)
		assert.InDelta(t, 2*40*vouched, a.Status().Versions[canary].Calls, 4*vouched)
		require.NoError(t, b.Close())
		time.Sleep(7 * time.Second)
		assert.InDelta(t, 40*vouched, a.Status().Versions[canary].Calls, 2*vouched, "what one that is gone has seen counts no more")
		time.Sleep(7 * time.Second)
		assert.Equal(t, 1, a.Status().Replicas)
	})
}

// TestLateReplica goes on from how long the others have been in a step.
func TestLateReplica(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cfg := threeSteps(NewMemoryStore())
		a, err := NewRollout(cfg)
		require.NoError(t, err)
		time.Sleep(8 * time.Second)
		b := start(t, cfg)
		require.NoError(t, a.Close())
		for range 4 {
			b.serve(20, 0)
			time.Sleep(time.Second)
		}
		assert.Equal(t, uint32(2500), b.share.Load())
	})
}

// TestManyReplicas: 64 are counted, and further ones follow without a word.
func TestManyReplicas(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := NewMemoryStore()
		doc := document{
			State: State{ID: "v2", Phase: Running, Since: 1, Changes: 1, Share: 500}, Stable: "v1", Canary: "v2", Seed: "s",
			Replicas: map[string]*report{},
		}
		for i := range maxReplicas {
			doc.Replicas[fmt.Sprint(i)] = &report{Since: 1}
		}
		data, err := json.Marshal(doc)
		require.NoError(t, err)
		_, err = store.Save(t.Context(), "orders.production", data, "")
		require.NoError(t, err)
		cfg := threeSteps(store)
		cfg.Replica = "late"
		r := start(t, cfg)
		time.Sleep(2500 * time.Millisecond)
		assert.False(t, r.Status().StoreAway)
		assert.Equal(t, uint32(500), r.share.Load())
		value, revision, err := store.Load(t.Context(), "orders.production")
		require.NoError(t, err)
		var now document
		require.NoError(t, json.Unmarshal(value, &now))
		assert.Len(t, now.Replicas, maxReplicas)
		assert.NotContains(t, now.Replicas, "late")

		now.Replicas["late"] = &report{}
		data, err = json.Marshal(now)
		require.NoError(t, err)
		_, err = store.Save(t.Context(), "orders.production", data, revision)
		require.NoError(t, err)
		time.Sleep(1100 * time.Millisecond)
		assert.True(t, r.Status().StoreAway, "nobody here writes so many")
	})
}

// broken is a Store that panics.
type broken struct {
	Store
	panics atomic.Bool
}

func (b *broken) Load(ctx context.Context, key string) ([]byte, string, error) {
	if b.panics.Load() {
		panic("store")
	}
	return b.Store.Load(ctx, key)
}

func TestStoreThatPanics(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &broken{Store: NewMemoryStore()}
		r := start(t, threeSteps(store))
		store.panics.Store(true)
		time.Sleep(1100 * time.Millisecond)
		assert.True(t, r.Status().StoreAway)
		assert.Equal(t, uint32(500), r.share.Load())
		store.panics.Store(false)
		time.Sleep(1100 * time.Millisecond)
		assert.False(t, r.Status().StoreAway)
	})
}

// TestHangingStoreIsAskedOnce: while it has not answered, nobody waits for it
// again, so that samples are looked at every Interval.
func TestHangingStoreIsAskedOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		away := &shaky{Store: NewMemoryStore(), release: make(chan struct{})}
		log := &lines{}
		cfg := threeSteps(away)
		cfg.Observer = log
		r := start(t, cfg)
		away.hangs.Store(true)
		time.Sleep(4 * time.Second)
		for range 5 {
			time.Sleep(time.Second)
			assert.LessOrEqual(t, time.Since(r.Status().At), time.Second)
		}
		away.hangs.Store(false)
		close(away.release)
		time.Sleep(3 * time.Second)
		require.False(t, r.Status().StoreAway)

		// Closed while the store is asked: that is no fault of it.
		away.release = make(chan struct{})
		away.hangs.Store(true)
		log.take()
		time.Sleep(1500 * time.Millisecond)
		require.NoError(t, r.Close())
		select {
		case <-r.done:
		default:
			assert.Fail(t, "its goroutine has not ended")
		}
		assert.Empty(t, log.take())
		close(away.release)
	})
}
