package match

import "strings"

// Tree finds those of many texts that a string begins with, in a time that
// depends on the string and not on how many texts there are. Each text has a
// value. The zero Tree is empty. It may be built by one goroutine, and is safe
// for concurrent reading once it has been sealed.
type Tree[T any] struct {
	// FoldCase compares ASCII letters without regard to case. The texts must be
	// in lower case.
	FoldCase bool
	root     Node[T]
}

// Node is a text in a Tree.
type Node[T any] struct {
	Value T
	Len   int // of the text
	// Up is the next shorter text that this one begins with, or nil.
	Up *Node[T]

	text     bool   // else it is where texts part
	label    string // what follows on the parent's
	first    []byte // of the labels of children
	children []*Node[T]
}

// At returns the node of a text, which it adds if need be.
func (t *Tree[T]) At(text string) *Node[T] {
	n, rest := &t.root, text
	for rest != "" {
		i := strings.IndexByte(string(n.first), rest[0])
		if i < 0 {
			n = n.add(rest, &Node[T]{label: rest, Len: len(text)})
			break
		}
		child := n.children[i]
		same := common(child.label, rest)
		if same < len(child.label) { // they part within the label
			fork := &Node[T]{label: rest[:same], Len: len(text) - len(rest) + same}
			child.label = child.label[same:]
			fork.add(child.label, child)
			n.children[i], child = fork, fork
		}
		n, rest = child, rest[same:]
	}
	n.text = true
	return n
}

func (n *Node[T]) add(label string, child *Node[T]) *Node[T] {
	n.first, n.children = append(n.first, label[0]), append(n.children, child)
	return child
}

func common(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// Seal makes the tree ready to be read.
func (t *Tree[T]) Seal() { t.root.seal(nil) }

func (n *Node[T]) seal(up *Node[T]) {
	n.Up = up
	if n.text {
		up = n
	}
	for _, child := range n.children {
		child.seal(up)
	}
}

// Longest returns the longest text that s begins with, or nil. The others are
// above it.
func (t *Tree[T]) Longest(s string) *Node[T] {
	n := &t.root
	if t.FoldCase {
		for len(s) > 0 {
			child := n.child(lower(s[0]))
			if child == nil || len(s) < len(child.label) || !sameFolded(s[:len(child.label)], child.label) {
				break
			}
			n, s = child, s[len(child.label):]
		}
	} else {
		for len(s) > 0 {
			child := n.child(s[0])
			if child == nil || !strings.HasPrefix(s, child.label) {
				break
			}
			n, s = child, s[len(child.label):]
		}
	}
	if n.text {
		return n
	}
	return n.Up
}

func (n *Node[T]) child(first byte) *Node[T] {
	for i, c := range n.first {
		if c == first {
			return n.children[i]
		}
	}
	return nil
}

// sameFolded reports whether s in lower case is folded, which is as long.
func sameFolded(s, folded string) bool {
	for i := 0; i < len(s); i++ {
		if lower(s[i]) != folded[i] {
			return false
		}
	}
	return true
}
