package gatemesh

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Position is where a piece of configuration was written, for errors and
// explanations. The zero Position is unknown, as for configuration made in Go.
type Position struct {
	File string
	Line int
}

// String returns "file:line", or "" if the position is unknown.
func (p Position) String() string {
	if p.File == "" {
		return ""
	}
	return p.File + ":" + strconv.Itoa(p.Line)
}

// Workload says who we are. Policy selectors are matched against it.
type Workload struct {
	Name           string            // the service, such as "payment-service"
	TrustDomain    string            // such as "cluster.local"
	Namespace      string            // such as "production"
	ServiceAccount string            // such as "payment-service"
	Labels         map[string]string // pod labels, such as app=payment-service
}

// SPIFFEID returns the id in Istio's layout,
// spiffe://TRUSTDOMAIN/ns/NAMESPACE/sa/SERVICEACCOUNT.
func (w Workload) SPIFFEID() string {
	return "spiffe://" + w.TrustDomain + "/ns/" + w.Namespace + "/sa/" + w.ServiceAccount
}

// GatewayLabel is the label of a workload that serves a Gateway: its name, in
// the workload's namespace (Gateway API, GEP-1762).
const GatewayLabel = "gateway.networking.k8s.io/gateway-name"

// HasLabels reports whether w has all of labels, as a selector asks for them.
func (w Workload) HasLabels(labels map[string]string) bool {
	for name, want := range labels {
		if got, ok := w.Labels[name]; !ok || got != want {
			return false
		}
	}
	return true
}

// Serves reports whether w serves one of the Gateways of its namespace with
// these names, which its label [GatewayLabel] says.
func (w Workload) Serves(gateways []string) bool {
	name, ok := w.Labels[GatewayLabel]
	return ok && slices.Contains(gateways, name)
}

// Clone returns a copy that shares nothing with w.
func (w Workload) Clone() Workload {
	w.Labels = maps.Clone(w.Labels)
	return w
}

// Validate reports every field that is missing or cannot be part of a SPIFFE id.
func (w Workload) Validate() error {
	var errs []error
	for _, f := range []struct{ name, value string }{
		{"Name", w.Name}, {"TrustDomain", w.TrustDomain},
		{"Namespace", w.Namespace}, {"ServiceAccount", w.ServiceAccount},
	} {
		switch {
		case f.value == "":
			errs = append(errs, fmt.Errorf("gatemesh: Workload.%s is required", f.name))
		case strings.Trim(f.value, "abcdefghijklmnopqrstuvwxyz0123456789-._") != "":
			errs = append(errs, fmt.Errorf("gatemesh: Workload.%s %q is not a lower-case name", f.name, f.value))
		}
	}
	return errors.Join(errs...)
}

// WorkloadFromEnv reads a Workload from the environment, as the Kubernetes
// downward API fills it: SERVICE_NAME (else the label app), TRUST_DOMAIN
// (default cluster.local), POD_NAMESPACE, SERVICE_ACCOUNT, and POD_LABELS as
// comma-separated key=value pairs. It reports every variable that is missing.
func WorkloadFromEnv() (Workload, error) {
	w := Workload{
		Name: os.Getenv("SERVICE_NAME"), TrustDomain: os.Getenv("TRUST_DOMAIN"),
		Namespace: os.Getenv("POD_NAMESPACE"), ServiceAccount: os.Getenv("SERVICE_ACCOUNT"),
		Labels: map[string]string{},
	}
	var errs []error
	for _, pair := range strings.Split(os.Getenv("POD_LABELS"), ",") {
		if pair = strings.TrimSpace(pair); pair == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			errs = append(errs, fmt.Errorf("gatemesh: POD_LABELS: %q is not key=value", pair))
		}
		w.Labels[key] = value
	}
	if w.TrustDomain == "" {
		w.TrustDomain = "cluster.local"
	}
	if w.Name == "" {
		w.Name = w.Labels["app"]
	}
	errs = append(errs, w.Validate())
	return w, errors.Join(errs...)
}
