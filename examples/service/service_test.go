package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/gatemesh-go/gatemesh/examples/service/paymentspb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDev(t *testing.T) {
	folder := t.TempDir()
	key, elsewhere := filepath.Join(folder, "order-service-key.pem"), filepath.Join(t.TempDir(), "open")
	require.NoError(t, os.WriteFile(elsewhere, nil, 0o644)) // for all to read
	require.NoError(t, os.Symlink(elsewhere, key))
	ctx, cancel := context.WithCancel(context.Background())
	started, ended := make(chan map[string]net.Addr, 1), make(chan error, 1)
	var logs strings.Builder // read when the service has ended
	go func() {
		ended <- run(ctx, []string{"-dev", folder, "-listen", "127.0.0.1:0", "-grpc", "127.0.0.1:0", "-health", "127.0.0.1:0"}, &logs, func(a map[string]net.Addr) { started <- a })
	}()
	addrs := <-started
	stopped := false
	stop := func() {
		if !stopped {
			cancel()
			require.NoError(t, <-ended)
			stopped = true
		}
	}
	defer stop()

	cert, err := tls.LoadX509KeyPair(filepath.Join(folder, "order-service.pem"), key)
	require.NoError(t, err)
	info, err := os.Lstat(key)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode(), "nobody else's file is filled with a key")
	line, err := os.ReadFile(filepath.Join(folder, "identity.header"))
	require.NoError(t, err)
	name, value, ok := strings.Cut(strings.TrimSpace(string(line)), ": ")
	require.True(t, ok)
	ask := func(method string, identity bool, certs ...tls.Certificate) (*http.Response, []byte, error) {
		// As curl -k does: the certificate names a workload and no host.
		tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: certs, MinVersion: tls.VersionTLS13}}
		defer tr.CloseIdleConnections()
		r, err := http.NewRequestWithContext(t.Context(), method, "https://"+addrs["payment-service"].String()+"/v1/payments/7", http.NoBody)
		require.NoError(t, err)
		if identity {
			r.Header.Set(name, value)
		}
		resp, err := tr.RoundTrip(r)
		if err != nil {
			return nil, nil, err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return resp, body, err
	}
	resp, body, err := ask(http.MethodPost, true, cert)
	require.NoError(t, err)
	require.Equal(t, 201, resp.StatusCode)
	var got map[string]string
	require.NoError(t, json.Unmarshal(body, &got))
	assert.Equal(t, map[string]string{
		"payment": "7", "user": "user-1", "caller": "spiffe://cluster.local/ns/production/sa/order-service",
		"requestId": resp.Header.Get("X-Request-Id"),
	}, got)

	resp, _, err = ask(http.MethodGet, true, cert)
	require.NoError(t, err)
	assert.Equal(t, 403, resp.StatusCode)
	refused := resp.Header.Get("X-Request-Id")
	resp, _, err = ask(http.MethodPost, false, cert)
	require.NoError(t, err)
	assert.Equal(t, 401, resp.StatusCode)
	_, _, err = ask(http.MethodPost, true)
	assert.Error(t, err, "no certificate, no answer")

	// The same layers over gRPC.
	dial := func(certs ...tls.Certificate) paymentspb.PaymentsClient {
		conn, err := grpc.NewClient(addrs["payment-service grpc"].String(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
			InsecureSkipVerify: true, Certificates: certs, MinVersion: tls.VersionTLS13,
		})))
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, conn.Close()) })
		return paymentspb.NewPaymentsClient(conn)
	}
	forUser := metadata.AppendToOutgoingContext(t.Context(), name, value)
	order := dial(cert)
	charged, err := order.Charge(forUser, &paymentspb.ChargeRequest{Payment: "8"})
	require.NoError(t, err)
	assert.Equal(t, "8 user-1 spiffe://cluster.local/ns/production/sa/order-service", charged.Payment+" "+charged.User+" "+charged.Caller)
	watched, err := order.Watch(forUser, &paymentspb.WatchRequest{Payment: "8"})
	require.NoError(t, err)
	var states []string
	for {
		state, err := watched.Recv()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		states = append(states, state.State+" for "+state.User)
	}
	assert.Equal(t, []string{"authorized for user-1", "captured for user-1", "settled for user-1"}, states)
	_, err = order.Charge(t.Context(), &paymentspb.ChargeRequest{Payment: "8"})
	assert.Equal(t, codes.Unauthenticated, status.Code(err), "for nobody: %v", err)
	_, err = dial().Charge(forUser, &paymentspb.ChargeRequest{Payment: "8"})
	assert.Equal(t, codes.Unavailable, status.Code(err), "no certificate, no connection: %v", err)

	// What operators watch, from the port of the probes.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err = client.Get("http://" + addrs["health"].String() + "/metrics")
	require.NoError(t, err)
	page, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	const from = `gatemesh_server_call_duration_seconds_count{gatemesh_code_class="%s",gatemesh_destination="payment-service.production",gatemesh_protocol="%s",gatemesh_source="order-service.production"} %d` + "\n"
	assert.Contains(t, string(page), fmt.Sprintf(from, "2xx", "http", 1))
	assert.Contains(t, string(page), fmt.Sprintf(from, "4xx", "http", 2))
	assert.Contains(t, string(page), fmt.Sprintf(from, "2xx", "grpc", 2))
	assert.Regexp(t, `gatemesh_mtls_certificate_remaining_seconds\{gatemesh_name="spiffe://cluster.local/ns/production/sa/payment-service"\} [0-9.e+]+\n`, string(page))
	assert.Contains(t, string(page), `gatemesh_call_denied_total{gatemesh_code="permission_denied",gatemesh_layer="policy"`)
	assert.NotContains(t, string(page), value, "the identity is a secret")

	stop()
	assert.Contains(t, logs.String(), "$as_order")
	why := ""
	for l := range strings.Lines(logs.String()) {
		if strings.Contains(l, refused) && strings.Contains(l, `"msg":"denied"`) {
			why = l
		}
	}
	assert.Contains(t, why, "method GET is not POST")
	assert.NotContains(t, logs.String(), value, "the identity is a secret")
}

func TestMistakes(t *testing.T) {
	err := run(t.Context(), nil, io.Discard, nil)
	for _, flag := range []string{"-manifests", "-identity-jwks", "-identity-issuer"} {
		assert.ErrorContains(t, err, flag+" is required (or -dev FOLDER to try it)")
	}
	assert.ErrorContains(t, err, "-cert, -key and -ca, or -spire, or -dev-ca; one of them is required")
	assert.NotContains(t, err.Error(), "-cert is required", "there are others")
	err = run(t.Context(), []string{"-cert", "x"}, io.Discard, nil)
	for _, flag := range []string{"-key", "-ca"} {
		assert.ErrorContains(t, err, flag+" is required")
	}
	for _, flag := range []string{"-manifests", "-identity-jwks", "-identity-issuer", "-cert", "-key", "-ca", "-spire", "-dev-ca"} {
		err := run(t.Context(), []string{"-dev", t.TempDir(), flag, "x"}, io.Discard, nil)
		assert.ErrorContains(t, err, "leave out "+flag, "nothing is ignored")
	}
	assert.ErrorContains(t, run(t.Context(), []string{"-dev", t.TempDir(), "-workload", "Payment"}, io.Discard, nil), "-workload Payment: ")
	assert.ErrorContains(t, run(t.Context(), []string{"-dev", t.TempDir(), "extra"}, io.Discard, nil), `unexpected argument "extra"`)
	missing := filepath.Join(t.TempDir(), "missing")
	err = run(t.Context(), []string{
		"-cert", missing, "-key", missing, "-ca", missing, "-manifests", missing, "-identity-jwks", missing, "-identity-issuer", "i",
	}, io.Discard, nil)
	assert.ErrorContains(t, err, missing)
}
