package pool

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// HealthCheck is a kind of health check.
type HealthCheck uint8

// The kinds of health checks.
const (
	// NoCheck asks nobody.
	NoCheck HealthCheck = iota
	// CheckHTTP makes a GET.
	CheckHTTP
	// CheckGRPC calls grpc.health.v1.Health/Check; SERVING passes.
	CheckGRPC
	// CheckTCP connects, and closes the connection again.
	CheckTCP
)

// Health configures active health checks. The zero Health makes none. An
// endpoint is in until Unhealthy checks in a row have failed, and then out until
// Healthy ones in a row have passed. Ejections stand beside that: an endpoint is
// used when neither keeps it out, and passed checks do not end an ejection.
type Health struct {
	// Check says how an endpoint is asked. Default: [NoCheck].
	Check HealthCheck
	// Path is what [CheckHTTP] asks for, with a query if it has one. Default:
	// "/".
	Path string
	// Host is the Host field or authority of the question. Default: the address.
	Host string
	// Statuses pass [CheckHTTP]. Default: 200 to 299. 200 to 599.
	Statuses []int
	// Service is what [CheckGRPC] asks about. Default: "", the whole server.
	Service string
	// TLS asks with https. It needs a Transport that says what it verifies.
	TLS bool
	// Transport sends the questions of [CheckHTTP] and [CheckGRPC] to the
	// address of the endpoint. For CheckGRPC it has to speak HTTP/2. Default:
	// one without TLS that makes a connection for each question.
	Transport http.RoundTripper
	// Interval is the longest time between two checks of an endpoint. They come
	// up to a fifth earlier, so that replicas do not march in step. Default: 10
	// s; 10 ms to 1 h.
	Interval time.Duration
	// Timeout bounds a check. Default: 1 s, or Interval if that is less, which
	// is also its upper limit; at least 1 ms.
	Timeout time.Duration
	// Unhealthy is how many checks in a row have to fail. Default: 3; 1 to 100.
	Unhealthy int
	// Healthy is how many in a row have to pass then. Default: 2; 1 to 100.
	Healthy int
	// Concurrency bounds how many endpoints are asked at the same time. Default:
	// 16; 1 to 1,000.
	Concurrency int
}

func (h Health) withDefaults() Health {
	if h.Check == NoCheck {
		return h
	}
	if h.Check == CheckHTTP && h.Path == "" {
		h.Path = "/"
	}
	if h.Interval == 0 {
		h.Interval = 10 * time.Second
	}
	if h.Timeout == 0 {
		h.Timeout = min(time.Second, h.Interval)
	}
	setDefault(&h.Unhealthy, 3)
	setDefault(&h.Healthy, 2)
	setDefault(&h.Concurrency, 16)
	h.Statuses = slices.Clone(h.Statuses)
	return h
}

// validate reports every fault of h, which has its defaults.
func (h *Health) validate() []error {
	f := faults{prefix: "Health."}
	if h.Check == NoCheck {
		if h.Path != "" || h.Host != "" || len(h.Statuses) > 0 || h.Service != "" || h.TLS || h.Transport != nil ||
			h.Interval != 0 || h.Timeout != 0 || h.Unhealthy != 0 || h.Healthy != 0 || h.Concurrency != 0 {
			f.add("Check is required with the other fields of Health")
		}
		return f.errs
	}
	if h.Check > CheckTCP {
		f.add("Check %d is unknown", h.Check)
	}
	only := func(field string, set bool, of HealthCheck, name string) {
		if set && h.Check != of {
			f.add("%s is for %s only", field, name)
		}
	}
	only("Path", h.Path != "", CheckHTTP, "CheckHTTP")
	only("Statuses", len(h.Statuses) > 0, CheckHTTP, "CheckHTTP")
	only("Service", h.Service != "", CheckGRPC, "CheckGRPC")
	if h.Check == CheckTCP && (h.Host != "" || h.TLS || h.Transport != nil) {
		f.add("Host, TLS and Transport are not for CheckTCP")
	}
	if h.Path != "" && (h.Path[0] != '/' || len(h.Path) > 4096 || !visible(h.Path) || strings.ContainsAny(h.Path, "#")) {
		f.add("Path %q is not a path", short(h.Path))
	}
	if h.Host != "" && (len(h.Host) > maxNameLen || !visible(h.Host) || strings.ContainsAny(h.Host, "/@?#")) {
		f.add("Host %q is not a host", short(h.Host))
	}
	if len(h.Service) > maxNameLen {
		f.add("Service is longer than %d bytes", maxNameLen)
	}
	for _, s := range h.Statuses {
		f.between("Statuses", s, 200, 599)
	}
	if h.TLS && h.Transport == nil && h.Check != CheckTCP {
		f.add("TLS needs a Transport that says what it verifies")
	}
	f.within("Interval", h.Interval, 10*time.Millisecond, time.Hour)
	f.within("Timeout", h.Timeout, time.Millisecond, h.Interval)
	f.between("Unhealthy", h.Unhealthy, 1, 100)
	f.between("Healthy", h.Healthy, 1, 100)
	f.between("Concurrency", h.Concurrency, 1, 1_000)
	return f.errs
}

// visible reports whether s is printable ASCII without spaces.
func visible(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

func short(s string) string { return s[:min(len(s), maxNameLen)] }

// faults collects what is wrong with a Config.
type faults struct {
	prefix string // of the fields
	errs   []error
}

func (f *faults) add(format string, args ...any) {
	f.errs = append(f.errs, fmt.Errorf("pool: Config."+f.prefix+format, args...))
}

func (f *faults) within(field string, d, low, high time.Duration) {
	if d < low || d > high {
		f.add("%s %v is not between %v and %v", field, d, low, high)
	}
}

func (f *faults) between(field string, n, low, high int) {
	if n < low || n > high {
		f.add("%s %d is not between %d and %d", field, n, low, high)
	}
}

func setDefault[T comparable](field *T, v T) {
	if *field == *new(T) {
		*field = v
	}
}
