package gatemesh_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

func setWorkload(t *testing.T, env map[string]string) {
	t.Helper()
	for _, name := range []string{"SERVICE_NAME", "TRUST_DOMAIN", "POD_NAMESPACE", "SERVICE_ACCOUNT", "POD_LABELS"} {
		t.Setenv(name, env[name])
	}
}

func TestWorkloadFromEnv(t *testing.T) {
	setWorkload(t, map[string]string{"POD_NAMESPACE": "prod", "SERVICE_ACCOUNT": "orders-sa", "POD_LABELS": "app=orders, version=v=2 ,,flag="})
	w, err := gatemesh.WorkloadFromEnv()
	require.NoError(t, err)
	assert.Equal(t, gatemesh.Workload{
		Name: "orders", TrustDomain: "cluster.local", Namespace: "prod", ServiceAccount: "orders-sa",
		Labels: map[string]string{"app": "orders", "version": "v=2", "flag": ""},
	}, w)
	assert.Equal(t, "spiffe://cluster.local/ns/prod/sa/orders-sa", w.SPIFFEID())
	c := w.Clone()
	c.Labels["app"] = "changed"
	assert.Equal(t, "orders", w.Labels["app"])

	setWorkload(t, map[string]string{"SERVICE_NAME": "a", "TRUST_DOMAIN": "td.example", "POD_NAMESPACE": "n", "SERVICE_ACCOUNT": "s", "POD_LABELS": "app=b"})
	w, err = gatemesh.WorkloadFromEnv()
	require.NoError(t, err)
	assert.Equal(t, "a", w.Name)
	assert.Equal(t, "spiffe://td.example/ns/n/sa/s", w.SPIFFEID())
}

func TestWorkloadFromEnvReportsAllFaults(t *testing.T) {
	setWorkload(t, map[string]string{"POD_NAMESPACE": "Prod/../x", "POD_LABELS": "app,=x"})
	_, err := gatemesh.WorkloadFromEnv()
	assert.EqualError(t, err, `gatemesh: POD_LABELS: "app" is not key=value
gatemesh: POD_LABELS: "=x" is not key=value
gatemesh: Workload.Name is required
gatemesh: Workload.Namespace "Prod/../x" is not a lower-case name
gatemesh: Workload.ServiceAccount is required`)
}

func TestPositionAndMust(t *testing.T) {
	t.Parallel()
	assert.Equal(t, "a.yaml:3", gatemesh.Position{File: "a.yaml", Line: 3}.String())
	assert.Empty(t, gatemesh.Position{Line: 3}.String())
	assert.Equal(t, 1, gatemesh.Must(1, nil))
	err := errors.New("x")
	assert.PanicsWithValue(t, err, func() { gatemesh.Must(1, err) })
	for d, want := range map[gatemesh.Destination]string{
		{Service: "a"}:                         "a",
		{Service: "a", Namespace: "n"}:         "a.n",
		{Service: "a", Subset: "v2", Port: 80}: "a/v2:80",
		{}:                                     "",
	} {
		assert.Equal(t, want, d.String())
	}
	assert.Equal(t, "grpc unknown", gatemesh.GRPC.String()+" "+gatemesh.Protocol(0).String())
}
