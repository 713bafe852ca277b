//go:build !unix

package serve

import "net"

// acceptQueued cannot be done here.
func acceptQueued(net.Listener) ([]net.Conn, bool) { return nil, false }
