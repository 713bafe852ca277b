package pool

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh/internal/metrictest"
)

func metricsOf(t testing.TB, p *Pool) map[string]float64 {
	t.Helper()
	told, err := metrictest.Read(p)
	require.NoError(t, err)
	return told
}

// What was counted of an endpoint stays counted when the endpoint goes.
func TestMetrics(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &book{}
		b.set("a:1", "b:1", "c:1", "d:1")
		p := newPool(t, b, func(c *Config) { c.Interval, c.MaxStale = time.Second, time.Hour })
		synctest.Wait()
		want := map[string]float64{
			"gatemesh.pool.endpoints{name=orders, state=in}": 4, "gatemesh.pool.endpoints{name=orders, state=warming}": 0,
			"gatemesh.pool.endpoints{name=orders, state=ejected}": 0, "gatemesh.pool.endpoints{name=orders, state=unhealthy}": 0,
			"gatemesh.pool.in_flight{name=orders}": 0, "gatemesh.pool.panicking{name=orders}": 0, "gatemesh.pool.lookup.age{name=orders}": 0,
			"gatemesh.pool.lookups{name=orders, state=found}": 1, "gatemesh.pool.lookups{name=orders, state=failed}": 0,
			"gatemesh.pool.ejections{name=orders, reason=failures}": 0, "gatemesh.pool.ejections{name=orders, reason=rate}": 0,
			"gatemesh.pool.ejections{name=orders, reason=unreachable}": 0,
		}
		assert.Equal(t, want, metricsOf(t, p))

		try(t, at(t, p, "a:1"), Unreachable)
		for range 5 {
			try(t, at(t, p, "b:1"), Failure)
		}
		at(t, p, "c:1").Begin(t.Context(), time.Now())
		told := metricsOf(t, p)
		assert.EqualValues(t, 1, told["gatemesh.pool.ejections{name=orders, reason=unreachable}"])
		assert.EqualValues(t, 1, told["gatemesh.pool.ejections{name=orders, reason=failures}"])
		assert.EqualValues(t, 2, told["gatemesh.pool.endpoints{name=orders, state=ejected}"])
		assert.EqualValues(t, 2, told["gatemesh.pool.endpoints{name=orders, state=in}"])
		assert.EqualValues(t, 1, told["gatemesh.pool.in_flight{name=orders}"])
		assert.EqualValues(t, 0, told["gatemesh.pool.panicking{name=orders}"])

		b.set("a:1", "b:1", "c:1")
		time.Sleep(1100 * time.Millisecond)
		told = metricsOf(t, p)
		assert.EqualValues(t, 1, told["gatemesh.pool.panicking{name=orders}"], "one of three is in")
		b.set("c:1")
		b.fail(errors.New("no DNS"))
		looked := told["gatemesh.pool.lookups{name=orders, state=found}"]
		time.Sleep(10 * time.Second)
		told = metricsOf(t, p)
		assert.InDelta(t, 10, told["gatemesh.pool.lookup.age{name=orders}"], 1.1)
		assert.InDelta(t, 10, told["gatemesh.pool.lookups{name=orders, state=failed}"], 3)
		assert.InDelta(t, looked, told["gatemesh.pool.lookups{name=orders, state=found}"], 1)

		require.NoError(t, p.Update(Config{Name: "orders", Resolver: Static("e:1")}))
		told = metricsOf(t, p)
		assert.EqualValues(t, 1, told["gatemesh.pool.endpoints{name=orders, state=in}"]+told["gatemesh.pool.endpoints{name=orders, state=warming}"])
		assert.EqualValues(t, 1, told["gatemesh.pool.ejections{name=orders, reason=failures}"])
	})
	assert.Empty(t, metricsOf(t, &Pool{}))
}
