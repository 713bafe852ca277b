//go:build !race

package routing_test

const racing = false
