package meshtest_test

import (
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/policy"
	"github.com/gatemesh-go/gatemesh/meshtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// onlyOrder allows order-service to POST payments.
var onlyOrder = []policy.Policy{{
	Name: "payment", Namespace: "production", Selector: map[string]string{"app": "payment-service"},
	Rules: []policy.Rule{{
		From: []policy.Source{{Principals: []string{"cluster.local/ns/production/sa/order-service"}}},
		To:   []policy.Operation{{Methods: []string{"POST"}}},
	}},
}}

func ExampleMesh() {
	mesh := gatemesh.Must(meshtest.New(meshtest.Config{Policies: onlyOrder}))
	defer mesh.Close()
	payment := gatemesh.Must(mesh.Join("payment-service"))
	gatemesh.Must(payment.Serve(meshtest.ServiceConfig{
		DisableIdentity: true, // nobody calls on behalf of a user here
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, "paid by ", gatemesh.FromContext(r.Context()).Peer().ServiceAccount())
		}),
	}))
	for _, name := range []string{"order-service", "inventory-service"} {
		member := gatemesh.Must(mesh.Join(name))
		resp, err := member.Client().Post("https://payment-service/v1/payments/1", "", nil)
		if err != nil {
			fmt.Println(err)
			return
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			body = nil
		}
		fmt.Println(name, resp.StatusCode, string(body))
	}
	// Output:
	// order-service 200 paid by order-service
	// inventory-service 403
}

func newMesh(t *testing.T, cfg meshtest.Config) *meshtest.Mesh {
	mesh, err := meshtest.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, mesh.Close()) })
	return mesh
}

func join(t *testing.T, mesh *meshtest.Mesh, name string) *meshtest.Member {
	m, err := mesh.Join(name)
	require.NoError(t, err)
	return m
}

func status(t *testing.T, c *http.Client, method, url string) int {
	r, err := http.NewRequestWithContext(t.Context(), method, url, http.NoBody)
	require.NoError(t, err)
	resp, err := c.Do(r)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return resp.StatusCode
}

func TestIdentityIsDemanded(t *testing.T) {
	mesh := newMesh(t, meshtest.Config{Policies: onlyOrder})
	_, err := join(t, mesh, "payment-service").Serve(meshtest.ServiceConfig{Handler: http.NotFoundHandler()})
	require.NoError(t, err)
	order := join(t, mesh, "order-service")
	assert.Equal(t, 401, status(t, order.Client(), "POST", "https://payment-service/"), "order-service has no user to speak for")

	// The edge has one, and is not order-service.
	user := gatemesh.Layer{Name: "user", Gate: mesh.Minter()}
	assert.Equal(t, 401, status(t, order.Client(user), "POST", "https://payment-service/"), "no call came in, so there is nobody to mint for")
}

// Several replicas take turns.
func TestReplicas(t *testing.T) {
	mesh := newMesh(t, meshtest.Config{Policies: onlyOrder})
	payment := join(t, mesh, "payment-service")
	hits := make([]atomic.Int32, 2)
	for i := range hits {
		_, err := payment.Serve(meshtest.ServiceConfig{DisableIdentity: true, Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits[i].Add(1) })})
		require.NoError(t, err)
	}
	client := join(t, mesh, "order-service").Client()
	for range 10 {
		require.Equal(t, 200, status(t, client, "POST", "https://payment-service/"))
	}
	assert.EqualValues(t, 5, hits[0].Load())
	assert.EqualValues(t, 5, hits[1].Load())
}

func TestGuardsCanBeTakenAway(t *testing.T) {
	for _, c := range []struct {
		name string
		cfg  meshtest.ServiceConfig
		want int
	}{
		{"all there", meshtest.ServiceConfig{}, 401},
		{"no identity", meshtest.ServiceConfig{DisableIdentity: true}, 403},
		{"no identity, no policy", meshtest.ServiceConfig{DisableIdentity: true, DisablePolicy: true}, 404},
	} {
		t.Run(c.name, func(t *testing.T) {
			mesh := newMesh(t, meshtest.Config{})
			c.cfg.Handler = http.NotFoundHandler()
			_, err := join(t, mesh, "payment-service").Serve(c.cfg)
			require.NoError(t, err)
			assert.Equal(t, c.want, status(t, join(t, mesh, "order-service").Client(), "POST", "https://payment-service/"))
		})
	}
}

func TestMistakes(t *testing.T) {
	mesh := newMesh(t, meshtest.Config{})
	_, err := mesh.Join("Not A Name")
	assert.ErrorContains(t, err, "meshtest: Not A Name: ")
	m := join(t, mesh, "a")
	_, err = m.Serve(meshtest.ServiceConfig{})
	assert.ErrorContains(t, err, "ServiceConfig.Handler is required")
	_, err = m.Client().Get("https://nobody/")
	assert.ErrorContains(t, err, "nobody")
	_, err = meshtest.New(meshtest.Config{TrustDomain: "Not A Domain"})
	assert.Error(t, err)
}
