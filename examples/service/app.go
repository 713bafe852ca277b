package main

import (
	"encoding/json"
	"log/slog"
	"net/http"

	"github.com/gatemesh-go/gatemesh"
)

// caller names the workload that calls. There is none in plain text, which a
// PeerAuthentication may let in.
func caller(call *gatemesh.Call) string {
	if p := call.Peer(); p != nil {
		return p.ID()
	}
	return "unknown"
}

// app is your application. What reaches it was admitted: the Call says by whom.
func app(log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/payments/{id}", func(w http.ResponseWriter, r *http.Request) {
		call := gatemesh.FromContext(r.Context())
		log.InfoContext(r.Context(), "payment", "id", r.PathValue("id"))
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(map[string]string{ // the client may be gone
			"payment": r.PathValue("id"), "user": call.Principal().Subject(), "caller": caller(call),
			"requestId": call.RequestID(),
		})
	})
	return mux
}
