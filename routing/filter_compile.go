package routing

import (
	"reflect"

	"github.com/gatemesh-go/gatemesh"
)

// filters are compiled Filters.
type filters struct{}

func (f *faults) filters(at gatemesh.Position, field string, in *Filters, _ *Route) *filters {
	if !reflect.DeepEqual(*in, Filters{}) {
		f.add(at, "%s: filters are not supported", field)
	}
	return nil
}

// versions returns how the API version of a call is found, or nil.
func (f *faults) versions() func(*gatemesh.Call) string { return nil }
