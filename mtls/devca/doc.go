// Package devca is a certificate authority in memory, for development, demos
// and tests. It is not a production authority: its key lives in the process
// that uses it, nothing is persisted, logged or revoked, and whoever holds the
// [CA] or reaches its [Server] gets any identity. In production use SPIRE, with
// package spire, or cert-manager or another authority that writes files, with
// mtls.Files.
//
// Within one process a [Source] is what [mtls.Config] wants:
//
//	ca := gatemesh.Must(devca.New("cluster.local"))
//	source := gatemesh.Must(ca.Source(devca.WorkloadConfig{Workload: self}))
//
// Several processes of one user on one machine share the CA of a [Server], of
// their own or of the command cmd/devca, over a unix socket; each of them has a
// [Client]:
//
//	source, err := devca.NewClient(ctx, devca.ClientConfig{Workload: self})
//
// Sources and clients replace their certificates at two thirds of their life,
// and follow when the root is replaced.
package devca
