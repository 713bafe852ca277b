// Package wrap shows how to put gatemesh around code that is there already.
//
// Each folder has a service as it was written (service.go), how it was wired
// (before.go), and the same wiring with what gatemesh adds (after*.go), between
// the comments "gatemesh: begin" and "gatemesh: end". Tests in the folders run
// both over real sockets; those here hold that nothing but the marked lines
// differs, that they are fewer than 15, and that README.md shows them.
package wrap
