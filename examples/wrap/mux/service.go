// Package mux is a service on the ServeMux of net/http, before and after.
package mux

import (
	"fmt"
	"io"
	"net/http"

	"golang.org/x/net/websocket"
)

// routes is the service as it was written. It knows nothing of gatemesh.
func routes() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /items/{id}", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "item %s of %q", r.PathValue("id"), r.Pattern)
	})
	mux.HandleFunc("POST /items", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Location", "/items/7")
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, "got %q", body)
	})
	mux.HandleFunc("GET /events", func(w http.ResponseWriter, r *http.Request) {
		flusher, ok := w.(http.Flusher)
		if !ok {
			http.Error(w, "streaming is not supported", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "data: hello\n\n")
		flusher.Flush()
		<-r.Context().Done()
	})
	mux.HandleFunc("GET /export", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Trailer", "X-Rows")
		fmt.Fprint(w, "a,b\n1,2\n")
		w.Header().Set("X-Rows", "1")
	})
	mux.HandleFunc("POST /trailer", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, r.Trailer.Get("X-Sum"))
	})
	mux.Handle("GET /socket", websocket.Handler(func(c *websocket.Conn) { _, _ = io.Copy(c, c) }))
	mux.Handle("GET /old/", http.RedirectHandler("/items/1", http.StatusMovedPermanently))
	return mux
}
