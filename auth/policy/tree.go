package policy

import (
	"slices"
	"strings"
)

// tree finds, among many strings, the one that equals a text and all those
// that are a prefix of it, in logarithmic time: sorted keys, each linked to
// the longest prefix key that it starts with.
type tree[T any] struct {
	nodes []node[T]
}

type node[T any] struct {
	key    string
	exact  []T // for texts that equal key
	prefix []T // for texts that start with key
	parent int // the longest other key with a prefix list that key starts with, or -1
}

// newTree returns the tree of nodes whose keys may repeat. Parents are set here.
func newTree[T any](nodes []node[T]) tree[T] {
	slices.SortStableFunc(nodes, func(a, b node[T]) int { return strings.Compare(a.key, b.key) })
	out := nodes[:0:0]
	for _, n := range nodes {
		if last := len(out) - 1; last >= 0 && out[last].key == n.key {
			out[last].exact = append(out[last].exact, n.exact...)
			out[last].prefix = append(out[last].prefix, n.prefix...)
			continue
		}
		out = append(out, n)
	}
	var open []int // the prefix keys that the current key may start with
	for i := range out {
		n := &out[i]
		for len(open) > 0 && !strings.HasPrefix(n.key, out[open[len(open)-1]].key) {
			open = open[:len(open)-1]
		}
		n.parent = -1
		if len(open) > 0 {
			n.parent = open[len(open)-1]
		}
		if len(n.prefix) > 0 {
			open = append(open, i)
		}
	}
	return tree[T]{slices.Clip(out)}
}

// find returns a node whose key t starts with, or -1. If a key equals t, it is
// that node. Every other prefix key that t starts with is an ancestor of it.
func (tr *tree[T]) find(t *text) int {
	// Every prefix of t sorts at or before t, and is also a prefix of whatever
	// sorts between the two, hence among the parents of t's predecessor.
	low, high := 0, len(tr.nodes)
	for low < high {
		mid := int(uint(low+high) >> 1)
		if t.compare(tr.nodes[mid].key) >= 0 {
			low = mid + 1
		} else {
			high = mid
		}
	}
	i := low - 1
	for i >= 0 && !t.hasPrefix(tr.nodes[i].key) {
		i = tr.nodes[i].parent
	}
	return i
}

// has reports whether t equals an exact key or starts with a prefix key.
func (tr *tree[T]) has(t *text) bool {
	i := tr.find(t)
	if i < 0 {
		return false
	}
	n := &tr.nodes[i]
	return len(n.prefix) > 0 || n.parent >= 0 || len(n.exact) > 0 && len(n.key) == t.len()
}
