package canary

import (
	"hash/fnv"
	"math/bits"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestVectors pins the numbers: a release that changes one deals every user
// anew, in the middle of a rollout of replicas.
func TestVectors(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"", "a", "user-1", "https://idp.example"} {
		want := fnv.New64a()
		_, _ = want.Write([]byte(s + "\xff"))
		assert.Equal(t, want.Sum64(), uint64(fnvOffset.add(s)), s)
	}
	// The first output of SplitMix64 with seed 0.
	assert.Equal(t, uint64(0xe220a8397b1dcdaf), hash(0x9e3779b97f4a7c15).point())
	assert.Equal(t, uint64(0x326d56ff47e98df7), fnvOffset.add(DefaultSalt).add("split").add("user-service").add("production").
		add("subject").add("https://idp.example").add("user-1").point())
}

// chosen is choose by the weights themselves.
func chosen(point uint64, weights ...uint32) int {
	i, _ := choose(point, len(weights), func(i int) uint64 { return uint64(weights[i]) })
	return i
}

func TestChooseBounds(t *testing.T) {
	t.Parallel()
	const top = ^uint64(0)
	tests := []struct {
		name    string
		point   uint64
		weights []uint32
		want    int
	}{
		{"none", 0, nil, -1},
		{"all zero", 0, []uint32{0, 0}, -1},
		{"lowest point", 0, []uint32{9, 1}, 1},
		{"highest point", top, []uint32{9, 1}, 0},
		{"last of the canary", top/10 - 1, []uint32{9, 1}, 1},
		{"first of the stable", top/10 + 2, []uint32{9, 1}, 0},
		{"zero in front", 0, []uint32{9, 0}, 0},
		{"third from the top", top, []uint32{1, 1, 1}, 2},
		{"third zero", top, []uint32{1, 1, 0}, 0},
		{"fourth inside the second", top / 4, []uint32{1, 1, 1, 1}, 1},
		{"fifth inside the third", top / 10 * 7, []uint32{1, 1, 1, 1, 1}, 4},
		{"largest weights", top, []uint32{1<<32 - 1, 1<<32 - 1, 1<<32 - 1}, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, tt.want, chosen(tt.point, tt.weights...))
		})
	}
}

// FuzzChoose checks what the order of targets promises.
func FuzzChoose(f *testing.F) {
	f.Add(uint64(0), uint32(90), uint32(10), uint32(0), uint32(10))
	f.Add(^uint64(0), uint32(1), uint32(1), uint32(1), uint32(1))
	f.Add(uint64(1)<<62, uint32(1<<31), uint32(1<<31), uint32(3), uint32(1<<30))
	f.Fuzz(func(t *testing.T, point uint64, w0, w1, w2, delta uint32) {
		before := []uint32{w0, w1, w2}
		got := chosen(point, before...)
		if got < 0 {
			require.Zero(t, uint64(w0)+uint64(w1)+uint64(w2))
			return
		}
		require.NotZero(t, before[got], "a weight of 0 is never chosen")

		// Two targets, and the second one's weight grows by any means: by
		// itself or at the cost of the first.
		if uint64(w0)+uint64(w1) > 0 {
			two := chosen(point, w0, w1)
			require.Equal(t, two, chosen(point, w0, w1))
			if grown, carry := bits.Add32(w1, delta, 0); carry == 0 {
				require.GreaterOrEqual(t, chosen(point, w0, grown), two)
				require.GreaterOrEqual(t, chosen(point, w0-min(w0, delta), grown), two)
			}
		}
		// Three, and one of them grows at the cost of the first: nobody moves
		// but from the first to it.
		if delta > w0 {
			return
		}
		for i := 1; i <= 2; i++ {
			grown, carry := bits.Add32(before[i], delta, 0)
			if carry != 0 {
				continue
			}
			after := []uint32{w0 - delta, w1, w2}
			after[i] = grown
			if now := chosen(point, after...); now != got {
				require.Equal(t, 0, got)
				require.Equal(t, i, now)
			}
		}
	})
}
