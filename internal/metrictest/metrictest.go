// Package metrictest reads what a gatemesh.Measurable tells, for tests.
package metrictest

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"

	"github.com/gatemesh-go/gatemesh"
)

var wellFormed = regexp.MustCompile(`^gatemesh(\.[a-z][a-z_]*)+$`)

// Read returns what ms tell, by name and labels, as in
// "gatemesh.breaker.state{destination=a, state=open}", and what is wrong with it:
// a Metric that is incomplete or not among Metrics, something told twice, and a
// counter below 0.
func Read(ms ...gatemesh.Measurable) (map[string]float64, error) {
	told := map[string]float64{}
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, of := range ms {
		all := of.Metrics()
		for _, m := range all {
			if !wellFormed.MatchString(m.Name) || m.Kind.String() == "unknown" || m.Unit == "" || m.Description == "" || strings.HasSuffix(m.Description, ".") {
				fault("%+v is incomplete", *m)
			}
		}
		of.Measure(func(m *gatemesh.Metric, l gatemesh.Labels, value float64) {
			key := m.Name + Labels(l)
			if !slices.Contains(all, m) {
				fault("%s is not among Metrics", key)
			}
			if _, twice := told[key]; twice {
				fault("%s is told twice", key)
			}
			if math.IsNaN(value) || math.IsInf(value, 0) || m.Kind != gatemesh.MetricGauge && value < 0 {
				fault("%s is %v", key, value)
			}
			told[key] = value
		})
	}
	return told, errors.Join(errs...)
}

// Labels writes l as Read does.
func Labels(l gatemesh.Labels) string {
	var set []string
	for _, f := range []struct{ name, value string }{
		{"name", l.Name}, {"destination", l.Destination.String()}, {"state", l.State}, {"was", l.Was}, {"reason", l.Reason},
	} {
		if f.value != "" {
			set = append(set, f.name+"="+f.value)
		}
	}
	if set == nil {
		return ""
	}
	return "{" + strings.Join(set, ", ") + "}"
}
