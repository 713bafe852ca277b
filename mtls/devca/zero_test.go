package devca_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/gatemesh-go/gatemesh/mtls/devca"
)

// What was not made by its function has no credentials, gives none and does not
// panic.
func TestZero(t *testing.T) {
	t.Parallel()
	ca := &devca.CA{}
	assert.Empty(t, ca.Bundle())
	assert.Empty(t, ca.BundlePEM())
	_, err := ca.Issue(id, time.Hour)
	assert.Error(t, err)
	_, err = ca.ServerCertificate("bank.example")
	assert.ErrorContains(t, err, "not made by New")
	assert.ErrorContains(t, ca.Rotate(), "not made by New")
	assert.ErrorContains(t, ca.Retire(), "not made by New")
	_, err = devca.NewServer(devca.ServerConfig{CA: ca, Socket: socket(t)})
	assert.ErrorContains(t, err, "ServerConfig.CA")

	s := &devca.Source{}
	assert.Nil(t, s.Credentials())
	assert.ErrorContains(t, s.Renew(), "not made by CA.Source")
	assert.ErrorContains(t, s.WriteFiles(t.TempDir()), "not made by CA.Source")
	assert.NoError(t, s.Close())

	assert.Nil(t, (&devca.Client{}).Credentials())
	assert.NoError(t, (&devca.Client{}).Close())
	assert.NoError(t, (&devca.Server{}).Close())
}
