//go:build race

package grpcmesh_test

// lifecycles is how often TestLC01_Lifecycle makes everything: less than without
// the race detector, with which a handshake takes ten times as long.
const lifecycles = 250
