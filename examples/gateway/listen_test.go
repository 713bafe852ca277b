package main

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh/mtls/devca"
)

// twoPorts is a Gateway that redirects from HTTP to HTTPS, and serves there.
const twoPorts = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: main-gateway}
spec:
  gatewayClassName: gatemesh
  listeners:
    - {name: http, port: 80, protocol: HTTP}
    - {name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: secure}
spec:
  parentRefs: [{name: main-gateway, sectionName: https}]
  rules:
    - backendRefs: [{name: a, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: plain}
spec:
  parentRefs: [{name: main-gateway, sectionName: http}]
  rules:
    - filters: [{type: RequestRedirect, requestRedirect: {scheme: https, port: 443, statusCode: 301}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: all}
spec:
  rules: [{}]
`

// Each port of the Gateway has an address, and serves what is for it alone:
// what is for HTTPS is not to be had in plain text.
func TestPortsOfTheGateway(t *testing.T) {
	ca, err := devca.New("public.test")
	require.NoError(t, err)
	dir, certs := t.TempDir(), t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "all.yaml"), []byte(twoPorts), 0o600))
	site(t, ca, certs, "api.example.com")
	o, err := parseFlags([]string{
		"-listen", "80=127.0.0.1:0", "-listen", "443=127.0.0.1:0", "-manifests", dir, "-gateway", "default/main-gateway",
		"-tls-dir", certs, "-upstream", "a=" + upstream(t),
	}, nil)
	require.NoError(t, err)
	addrs := serveWith(t, o, io.Discard)
	client := plainClient(t)
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, body := get(t, client, "http://"+addrs["public 80"].String()+"/x", nil)
	assert.Equal(t, 301, resp.StatusCode)
	assert.Equal(t, "https://127.0.0.1/x", resp.Header.Get("Location"))
	assert.NotContains(t, body, "upstream")
	resp, body = get(t, tlsClient(t, ca, addrs["public 443"], func(*http.Transport) {}), "https://api.example.com/x", nil)
	assert.Equal(t, 200, resp.StatusCode)
	assert.Equal(t, "upstream", body)
}

func TestListenMistakes(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "all.yaml"), []byte(twoPorts), 0o600))
	ca, err := devca.New("public.test")
	require.NoError(t, err)
	certs := t.TempDir()
	site(t, ca, certs, "api.example.com")
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no address":     {[]string{"-manifests", dir}, "the Gateway has the ports 80, 443; say where each is, as in -listen 80=ADDR -listen 443=ADDR"},
		"one is missing": {[]string{"-manifests", dir, "-listen", "80=127.0.0.1:0"}, "the Gateway has port 443, and no -listen 443=ADDR says where that is"},
		"one too many": {[]string{"-manifests", dir, "-listen", "80=127.0.0.1:0", "-listen", "443=127.0.0.1:0", "-listen", "81=127.0.0.1:0"},
			"-listen 81=127.0.0.1:0: the Gateway has no port 81; it has 80, 443"},
		"twice":              {[]string{"-manifests", dir, "-listen", "80=127.0.0.1:0", "-listen", "80=127.0.0.1:0"}, "port 80 is given twice"},
		"several of no port": {[]string{"-manifests", dir, "-listen", ":1", "-listen", "80=:2"}, "say which port of the Gateway each is for"},
		"no manifests":       {[]string{"-upstream", "default=http://x", "-listen", "80=:1"}, "without -manifests there is no Gateway with ports"},
		"no port":            {[]string{"-listen", "x=:1"}, `"x" is not a port`},
		"no certificate":     {[]string{"-manifests", dir, "-listen", "80=127.0.0.1:0", "-listen", "443=127.0.0.1:0"}, "listener https: HTTPS takes -tls-cert"},
		"another Gateway":    {[]string{"-manifests", dir, "-gateway", "default/other"}, "there is no Gateway default/other"},
		"no Gateway":         {[]string{"-manifests", dir, "-gateway", "other"}, "there is no Gateway other/"},
	} {
		t.Run(name, func(t *testing.T) {
			args := c.args
			if name != "no certificate" && name != "no manifests" {
				args = append(args, "-tls-dir", certs)
			}
			assert.ErrorContains(t, run(t.Context(), args, io.Discard), c.want)
		})
	}
}
