// Package devca is a certificate authority in memory, for development, demos
// and tests. It is not a production authority: its key lives in the process
// that uses it, nothing is persisted, logged or revoked, and whoever holds the
// [CA] gets any identity. In production use SPIRE, Istio's or cert-manager's
// authority and follow its files with mtls.Files.
package devca
