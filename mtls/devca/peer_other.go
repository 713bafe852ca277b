//go:build !linux

package devca

import "net"

// samePeer leaves it to the mode of the folder who can connect.
func samePeer(net.Conn) error { return nil }
