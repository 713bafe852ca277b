package devca

import (
	"net"

	"github.com/gatemesh-go/gatemesh"
)

var (
	SamePeer = samePeer
	SameUser = sameUser
)

// Guarded returns a listener for processes of the same user.
func Guarded(l net.Listener, o gatemesh.Observer) net.Listener { return guarded{l, o} }
