package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// naive asks the auth service about every token of every request. It does so
// properly: connections are kept, there is a timeout, nobody asks on behalf of a
// client that has left, and nothing passes that was not said to be active.
type naive struct {
	url, id, secret string
	client          *http.Client
	timeout         time.Duration
}

func (n *naive) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !ok {
			w.Header().Set("WWW-Authenticate", "Bearer")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		switch active, err := n.introspect(r.Context(), token); {
		case err != nil:
			w.WriteHeader(http.StatusServiceUnavailable)
		case !active:
			w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
			w.WriteHeader(http.StatusUnauthorized)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

func (n *naive) introspect(ctx context.Context, token string) (active bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, n.timeout)
	defer cancel()
	body := strings.NewReader(url.Values{"token": {token}}.Encode())
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, n.url, body)
	if err != nil {
		return false, err
	}
	r.SetBasicAuth(n.id, n.secret)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := n.client.Do(r)
	if err != nil {
		return false, err
	}
	defer func() { _ = resp.Body.Close() }() // it is read or given up
	var answer struct {
		Active   bool   `json:"active"`
		Issuer   string `json:"iss"`
		Audience string `json:"aud"`
		Expiry   int64  `json:"exp"`
	}
	if resp.StatusCode != http.StatusOK {
		return false, fmt.Errorf("introspection: status is %d", resp.StatusCode)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // to its end, so that the connection is kept
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return false, err
	}
	return answer.Active && answer.Issuer == issuer && answer.Audience == audience && time.Now().Unix() < answer.Expiry, nil
}
