package main

import (
	"context"
	"io"
	"net/http"
	"time"
)

// lookup is what an introspection takes when the auth service is well.
const lookup = 10 * time.Millisecond

// service is one of the six behind each gateway. Nothing is ever wrong with
// them; work is what they take for a request.
type service struct {
	name string
	work time.Duration
}

var services = []service{
	{"cards", 20 * time.Millisecond},
	{"wallets", 25 * time.Millisecond},
	{"refunds", 30 * time.Millisecond},
	{"payouts", 30 * time.Millisecond},
	{"ledger", 35 * time.Millisecond},
	{"invoices", 40 * time.Millisecond},
}

// meanWork is what a request takes behind the gateway.
func meanWork() (sum time.Duration) {
	for _, s := range services {
		sum += s.work
	}
	return sum / time.Duration(len(services))
}

// start serves on a port of its own.
func (s service) start(ctx context.Context) (*http.Server, string, error) {
	return serve(ctx, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(s.work):
			_, _ = io.WriteString(w, "paid by "+s.name+"\n") // the client may be gone
		case <-r.Context().Done():
		}
	}))
}
