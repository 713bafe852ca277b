package policytest

import "net/http"

// Mux is an [http.ServeMux] that remembers its patterns, which one cannot be
// asked for. Let the code that registers handlers take an interface with Handle
// and HandleFunc, and hand it a Mux in the test:
//
//	var mux policytest.Mux
//	server.Register(&mux)
//	t.Log(p.Coverage(mux.Routes()...))
//
// The zero Mux is ready for use. It serves like the ServeMux in it; patterns
// given to that one directly are not remembered. Registering is for one
// goroutine.
type Mux struct {
	http.ServeMux
	routes []string
}

// Handle registers h like [http.ServeMux.Handle].
func (m *Mux) Handle(pattern string, h http.Handler) {
	m.ServeMux.Handle(pattern, h)
	m.routes = append(m.routes, pattern)
}

// HandleFunc registers f like [http.ServeMux.HandleFunc].
func (m *Mux) HandleFunc(pattern string, f func(http.ResponseWriter, *http.Request)) {
	m.ServeMux.HandleFunc(pattern, f)
	m.routes = append(m.routes, pattern)
}

// Routes returns the patterns in the order of their registration.
func (m *Mux) Routes() []string { return append([]string(nil), m.routes...) }

// GRPCRoutes returns routes for the full names of gRPC methods, such as
// "/payments.v1.Payments/Charge". gRPC calls are POST requests.
func GRPCRoutes(methods ...string) []string {
	out := make([]string, len(methods))
	for i, m := range methods {
		out[i] = "POST " + m
	}
	return out
}
