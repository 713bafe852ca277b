package trace_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/gatemesh-go/gatemesh/trace"
)

// meter is a provider whose metrics can be read.
type meter struct {
	*sdkmetric.MeterProvider
	reader *sdkmetric.ManualReader
}

func newMeter() *meter {
	r := sdkmetric.NewManualReader()
	return &meter{sdkmetric.NewMeterProvider(sdkmetric.WithReader(r)), r}
}

// collect returns the value of each series, or of a histogram its count, by
// name and attributes.
func (m *meter) collect(t testing.TB) map[string]float64 {
	t.Helper()
	var rm metricdata.ResourceMetrics
	require.NoError(t, m.reader.Collect(context.Background(), &rm))
	got := map[string]float64{}
	for _, s := range rm.ScopeMetrics {
		for _, of := range s.Metrics {
			switch data := of.Data.(type) {
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					got[series(of.Name, values(p.Attributes.ToSlice()))] = float64(p.Count)
				}
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					got[series(of.Name, values(p.Attributes.ToSlice()))] = float64(p.Value)
				}
			case metricdata.Sum[float64]:
				for _, p := range data.DataPoints {
					got[series(of.Name, values(p.Attributes.ToSlice()))] = p.Value
				}
			case metricdata.Gauge[float64]:
				for _, p := range data.DataPoints {
					got[series(of.Name, values(p.Attributes.ToSlice()))] = p.Value
				}
			default:
				require.Fail(t, fmt.Sprintf("%s is a %T", of.Name, data))
			}
		}
	}
	return got
}

func series(name string, attrs map[string]any) string {
	set := fmt.Sprint(attrs) // map[…], in the order of the keys
	return strings.TrimPrefix(name, "gatemesh.") + strings.ReplaceAll(strings.TrimPrefix(set, "map"), "gatemesh.", "")
}

func newMetrics(t testing.TB, cfg trace.MetricsConfig) *trace.Metrics {
	t.Helper()
	m, err := trace.NewMetrics(cfg)
	require.NoError(t, err)
	return m
}

// seriesOf returns the series of the metrics with these names as lines, in order.
func seriesOf(rm *metricdata.ResourceMetrics, names []string) (lines []string) {
	add := func(name string, value any, set attribute.Set) {
		var attrs []string
		for _, kv := range set.ToSlice() {
			attrs = append(attrs, string(kv.Key)+"="+kv.Value.AsString())
		}
		lines = append(lines, fmt.Sprintf("%s: %v {%s}", name, value, strings.Join(attrs, " ")))
	}
	for _, s := range rm.ScopeMetrics {
		for _, of := range s.Metrics {
			if !slices.Contains(names, of.Name) {
				continue
			}
			switch data := of.Data.(type) {
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					add(of.Name, p.Count, p.Attributes)
				}
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					add(of.Name, p.Value, p.Attributes)
				}
			case metricdata.Sum[float64]:
				for _, p := range data.DataPoints {
					add(of.Name, p.Value, p.Attributes)
				}
			}
		}
	}
	slices.Sort(lines)
	return lines
}
