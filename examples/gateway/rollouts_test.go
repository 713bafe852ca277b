package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh/canary"
)

// versions are manifests that deal a service to two versions, and let everybody
// in.
const versions = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: main-gateway}
spec:
  gatewayClassName: gatemesh
  listeners: [{name: http, port: 80, protocol: HTTP}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: all}
spec:
  parentRefs: [{name: main-gateway}]
  rules:
    - backendRefs: [{name: users, port: 80}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: users}
spec:
  hosts: [users]
  http:
  - route:
    - {destination: {host: users, subset: v1}, weight: 90}
    - {destination: {host: users, subset: v2}, weight: 10}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: users}
spec:
  host: users
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: all}
spec:
  rules: [{}]
`

func TestParseRollout(t *testing.T) {
	cfg, err := parseRollout("user-service.production:v1->v2#2.3.0:5,25,50,100@1m")
	require.NoError(t, err)
	assert.Equal(t, canary.RolloutConfig{
		Service: "user-service", Namespace: "production", Stable: "v1", Canary: "v2", ID: "2.3.0",
		Steps: []canary.Step{{Percent: 5, Duration: time.Minute}, {Percent: 25, Duration: time.Minute}, {Percent: 50, Duration: time.Minute}},
	}, cfg)
	cfg, err = parseRollout("a.b:v1->v2:0.5,12.25@0s")
	require.NoError(t, err)
	assert.Equal(t, []canary.Step{{Percent: 0.5}, {Percent: 12.25}}, cfg.Steps)
	for text, want := range map[string]string{
		"":                     "must be service.namespace:stable->canary:percent,…@duration",
		"a.b:v1->v2":           "must be service.namespace:stable->canary:percent,…@duration",
		"a:v1->v2:5@1m":        `"a" is not a service and its namespace`,
		".b:v1->v2:5@1m":       `".b" is not a service and its namespace`,
		"a.:v1->v2:5@1m":       `"a." is not a service and its namespace`,
		"a.b:v1:5@1m":          `"v1" is not two versions`,
		"a.b:->v2:5@1m":        `"->v2" is not two versions`,
		"a.b:v1->:5@1m":        `"v1->" is not two versions`,
		"a.b:v1->v2#:5@1m":     `"v1->v2#" is not two versions`,
		"a.b:v1->v2:5":         `"5" does not say how long a step lasts`,
		"a.b:v1->v2:5@soon":    `the duration "soon" must be a number and its unit`,
		"a.b:v1->v2:5@-1s":     `the duration "-1s" must not be negative`,
		"a.b:v1->v2:5,many@1m": `"many" is not a percentage`,
		"a.b:v1->v2:@1m":       `"" is not a percentage`,
	} {
		_, err := parseRollout(text)
		assert.ErrorContains(t, err, want, text)
	}
}

func TestRolloutMistakes(t *testing.T) {
	dir := t.TempDir()
	replace(t, dir, versions)
	up := []string{"-workload", "main-gateway.default", "-manifests", dir, "-upstream", "users/v1=http://127.0.0.1:1", "-upstream", "users/v2=http://127.0.0.1:2"}
	const flag = "users.default:v1->v2:5@1m"
	for name, c := range map[string]struct {
		args []string
		want []string
	}{
		"no state":          {append(up, "-rollout", flag), []string{"-rollout needs -rollout-state"}},
		"state alone":       {append(up, "-rollout-state", t.TempDir()), []string{"-rollout-state needs -rollout"}},
		"plain":             {[]string{"-upstream", "default=http://127.0.0.1:1", "-rollout", flag, "-rollout-state", t.TempDir()}, []string{"-rollout needs -manifests"}},
		"empty":             {append(up, "-rollout", "", "-rollout-state", t.TempDir()), []string{`invalid value "" for flag -rollout: must be`}},
		"twice":             {append(up, "-rollout", flag, "-rollout", flag, "-rollout-state", t.TempDir()), []string{"users.default is rolled out already"}},
		"another service":   {append(up, "-rollout", "user.default:v1->v2:5@1m", "-rollout-state", t.TempDir()), []string{"-rollout user.default: no route goes there; routes go to users.default/v1:80, users.default/v2:80"}},
		"another namespace": {append(up, "-rollout", "users.shop:v1->v2:5@1m", "-rollout-state", t.TempDir()), []string{"-rollout users.shop: no route goes there"}},
		"other versions and steps, at once": {append(up, "-rollout", "users.default:v3->v4:5,2,100,200@1m", "-rollout-state", t.TempDir()), []string{
			`there is no version "v3"`, `there is no version "v4"`, "Steps[1].Percent is 2, and must be above", "Steps[3].Percent is 200",
		}},
		"no folder": {append(up, "-rollout", flag, "-rollout-state", file(t, "taken", "")), []string{"-rollout-state: "}},
	} {
		t.Run(name, func(t *testing.T) {
			err := run(t.Context(), append([]string{"-listen", "127.0.0.1:0"}, c.args...), io.Discard)
			for _, want := range c.want {
				assert.ErrorContains(t, err, want)
			}
		})
	}
}

// rolloutOf reads the rollout as JSON from the admin port.
func rolloutOf(t *testing.T, client *http.Client, admin string) canary.Status {
	t.Helper()
	resp, body := get(t, client, "http://"+admin+"/rollouts?format=json", nil)
	require.Equal(t, 200, resp.StatusCode, body)
	var all []canary.Status
	require.NoError(t, json.Unmarshal([]byte(body), &all))
	require.Len(t, all, 1)
	return all[0]
}

func post(t *testing.T, client *http.Client, admin, action string, header http.Header) int {
	t.Helper()
	form := url.Values{"service": {"users"}, "namespace": {"default"}, "action": {action}}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+admin+"/rollouts", strings.NewReader(form.Encode()))
	require.NoError(t, err)
	for name, values := range header {
		r.Header[name] = values
	}
	r.Host = header.Get("Host")
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := client.Do(r)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return resp.StatusCode
}

func noRedirects(c *http.Client) *http.Client {
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return c
}

// The page is on the admin port, where it acts for this machine alone, and
// nowhere else.
func TestRolloutPage(t *testing.T) {
	t.Parallel()
	client := noRedirects(plainClient(t))
	dir := t.TempDir()
	replace(t, dir, versions)
	addrs := startGateway(t, "-manifests", dir, "-admin", "127.0.0.1:0",
		"-upstream", "users/v1="+naming(t, "v1"), "-upstream", "users/v2="+naming(t, "v2"),
		"-rollout", "users.default:v1->v2:40,100@1h", "-rollout-state", t.TempDir())
	public, admin := addrs["public"].String(), addrs["admin"].String()

	resp, page := get(t, client, "http://"+admin+"/rollouts", nil)
	assert.Equal(t, 200, resp.StatusCode)
	assert.Contains(t, page, "users")
	assert.Contains(t, page, `value="abort"`)
	_, body := get(t, client, "http://"+public+"/rollouts", nil)
	assert.Contains(t, []string{"v1", "v2"}, body, "the front door has users alone")

	s := rolloutOf(t, client, admin)
	assert.Equal(t, canary.Running, s.State.Phase)
	assert.EqualValues(t, 4000, s.State.Share)
	assert.Equal(t, 421, post(t, client, admin, "abort", http.Header{"Host": {"attacker.example"}}), "a name that resolves to us")
	assert.Equal(t, 403, post(t, client, admin, "abort", http.Header{"Origin": {"http://attacker.example"}}), "another website")
	assert.Equal(t, canary.Running, rolloutOf(t, client, admin).State.Phase)
	require.Equal(t, 303, post(t, client, admin, "promote", nil))
	assert.Equal(t, canary.Promoted, rolloutOf(t, client, admin).State.Phase)
	_, body = get(t, client, "http://"+public+"/", nil)
	assert.Equal(t, "v2", body)
	assert.Equal(t, 409, post(t, client, admin, "abort", nil), "it has ended")
}

// A version that fails is taken from everybody, also while manifests change
// and by what a retry hides from callers.
func TestRolloutRollsBack(t *testing.T) {
	t.Parallel()
	bad := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }))
	defer bad.Close()
	proxied := func(o *options) { o.turn = 100 * time.Millisecond }
	f := startFollowed(t, versions, proxied, "-upstream", "users/v1="+naming(t, "v1"), "-upstream", "users/v2="+bad.URL,
		"-trusted-proxies", "127.0.0.1/32", "-rollout", "users.default:v1->v2:50@1h", "-rollout-state", t.TempDir())
	answered := 0
	until(t, "not rolled back", func() bool {
		for i := range 32 { // users by their addresses
			if f.ask("/", http.Header{"X-Forwarded-For": {fmt.Sprintf("203.0.113.%d", i)}}) == "200 v1" {
				answered++
			}
		}
		return f.log.count("rolled back from 50 %") > 0
	})
	assert.Positive(t, answered)
	replace(t, f.dir, strings.Replace(versions, "weight: 90", "weight: 1", 1))
	until(t, "not followed", func() bool { return f.log.count("manifests are in use") > 0 })
	for i := range 100 {
		require.Equal(t, "200 v1", f.ask("/", http.Header{"X-Forwarded-For": {fmt.Sprintf("203.0.113.%d", i)}}))
	}
}

// A gateway that is started again, as after a crash, goes on where it was.
func TestRolloutSurvivesARestart(t *testing.T) {
	t.Parallel()
	bin, dir, state := build(t), t.TempDir(), t.TempDir()
	replace(t, dir, versions)
	client := noRedirects(plainClient(t))
	args := func(rollout string) []string {
		return []string{
			"-listen", "127.0.0.1:0", "-admin", "127.0.0.1:0", "-manifests", dir, "-drain", "5s",
			"-upstream", "users/v1=" + naming(t, "v1"), "-upstream", "users/v2=" + naming(t, "v2"),
			"-rollout", rollout, "-rollout-state", state,
		}
	}
	const flag = "users.default:v1->v2:50@1h"
	p := startProcess(t, bin, args(flag)...)
	require.Equal(t, canary.Running, rolloutOf(t, client, p.addrs["admin"]).State.Phase)
	require.Equal(t, 303, post(t, client, p.addrs["admin"], "abort", nil))
	before := rolloutOf(t, client, p.addrs["admin"]).State
	require.Equal(t, canary.RolledBack, before.Phase)
	p.end()

	p = startProcess(t, bin, args(flag)...)
	after := rolloutOf(t, client, p.addrs["admin"]).State
	assert.Equal(t, before.Phase, after.Phase)
	assert.Equal(t, before.Changes, after.Changes)
	assert.Zero(t, after.Share)
	_, body := get(t, client, "http://"+p.addrs["public"]+"/", nil)
	assert.Equal(t, "v1", body)
	p.end()

	p = startProcess(t, bin, args(strings.Replace(flag, "v2", "v2#2", 1))...) // another build of v2
	assert.Equal(t, canary.Running, rolloutOf(t, client, p.addrs["admin"]).State.Phase)
	p.end()
}
