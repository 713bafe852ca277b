package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"

	"google.golang.org/grpc/codes"

	"github.com/gatemesh-go/gatemesh"
)

// seen is what a service says about a request, so that an act, and a person
// with curl, can look at what reached it.
type seen struct {
	Service   string              `json:"service"`
	Version   string              `json:"version,omitempty"`
	Replica   string              `json:"replica,omitempty"`
	Method    string              `json:"method"`
	Path      string              `json:"path"`
	RequestID string              `json:"requestId"`
	Peer      string              `json:"peer"`
	Subject   string              `json:"subject,omitempty"`
	Consumer  string              `json:"consumer,omitempty"`
	Header    map[string][]string `json:"header"`
	Calls     []outcome           `json:"calls,omitempty"`
}

// outcome is how a call of a service to another one ended.
type outcome struct {
	Call    string `json:"call"`
	Status  int    `json:"status"` // of HTTP, or the code of gRPC
	Replica string `json:"replica,omitempty"`
	Said    string `json:"said,omitempty"` // by the callee
	Error   string `json:"error,omitempty"`
}

func look(self *replica, r *http.Request) seen {
	s := seen{Service: self.name, Version: self.version, Replica: self.ip.String(), Method: r.Method, Path: r.URL.Path, Header: r.Header}
	c := gatemesh.FromContext(r.Context())
	s.RequestID = c.RequestID()
	if p := c.Peer(); p != nil {
		s.Peer = p.ID()
	}
	if p := c.Principal(); p != nil {
		s.Subject, s.Consumer = p.Subject(), p.Consumer()
	}
	return s
}

// userService answers with what it saw.
func userService(log *slog.Logger) func(*replica) http.Handler {
	return func(self *replica) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			log.InfoContext(r.Context(), "user read", "version", self.version)
			writeJSON(w, http.StatusOK, look(self, r))
		})
	}
}

// orderService takes orders. Placing one charges payment-service directly,
// with no proxy between; charging one does it over gRPC; reading one asks
// payment-service in a way that its policy does not allow; shipping one goes
// through inventory-service.
func orderService(log *slog.Logger) func(*replica) http.Handler {
	return func(self *replica) http.Handler {
		mux := http.NewServeMux()
		calling := func(method, url string) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				log.InfoContext(r.Context(), "order", "method", r.Method)
				s := look(self, r)
				got, nested := self.calls.call(r, method, url)
				s.Calls = append(append(s.Calls, got), nested...)
				writeJSON(w, got.Status, s)
			}
		}
		mux.HandleFunc("POST /v1/orders", calling(http.MethodPost, "https://payment-service/v1/payments/1"))
		mux.HandleFunc("GET /v1/orders/1", calling(http.MethodGet, "https://payment-service/v1/payments/1"))
		mux.HandleFunc("POST /v1/orders/1/shipments", calling(http.MethodPost, "https://inventory-service/v1/reservations/1"))
		mux.HandleFunc("POST /v1/orders/1/charges", func(w http.ResponseWriter, r *http.Request) {
			log.InfoContext(r.Context(), "order", "method", "charge")
			s := look(self, r)
			s.Calls = self.calls.charge(r.Context())
			status := http.StatusOK
			for _, c := range s.Calls {
				if c.Status == int(codes.Unavailable) { // the gateway makes the attempts, so it has to see that
					status = http.StatusServiceUnavailable
				}
			}
			writeJSON(w, status, s)
		})
		return mux
	}
}

// inventoryService reserves stock. On the way it tries what it may not do: to
// charge a payment, over HTTP and over gRPC, and to read a user.
func inventoryService(log *slog.Logger) func(*replica) http.Handler {
	return func(self *replica) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			log.InfoContext(r.Context(), "reservation")
			s := look(self, r)
			payment, _ := self.calls.call(r, http.MethodPost, "https://payment-service/v1/payments/1")
			user, _ := self.calls.call(r, http.MethodGet, "https://user-service/v1/users/1")
			s.Calls = append([]outcome{payment, user}, self.calls.charge(r.Context())...)
			writeJSON(w, http.StatusOK, s)
		})
	}
}

// call makes a call on behalf of r. The context carries the Call that identity
// and request id are taken from. What is done for one order is done once.
func (c *caller) call(r *http.Request, method, url string) (outcome, []outcome) {
	o := outcome{Call: method + " " + url, Status: http.StatusBadGateway}
	req, err := http.NewRequestWithContext(r.Context(), method, url, http.NoBody)
	if err != nil {
		o.Error = err.Error()
		return o, nil
	}
	req.Header.Set("Idempotency-Key", gatemesh.FromContext(r.Context()).RequestID())
	resp, err := c.client.Do(req)
	if err != nil {
		o.Error = err.Error()
		return o, nil
	}
	defer resp.Body.Close()
	o.Status = resp.StatusCode
	var s seen
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&s); err != nil {
		o.Error = fmt.Sprintf("answer of %s: %v", url, err)
	}
	o.Replica = s.Replica
	return o, s.Calls
}
