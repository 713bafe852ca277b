//go:build !unix

package follow

const nonblock = 0 // no named pipes among the files
