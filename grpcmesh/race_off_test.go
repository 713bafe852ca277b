//go:build !race

package grpcmesh_test

const lifecycles = 1000
