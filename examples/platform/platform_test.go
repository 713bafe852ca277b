package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func startTest(t *testing.T, broken string) *platform {
	t.Helper()
	p, err := start(context.Background(), config{listen: "127.0.0.1:0", broken: broken, rolls: broken == "" || broken == "k", few: true, logs: io.Discard})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, p.close()) })
	return p
}

// Every act passes, and fails without the guard that it proves.
func TestActs(t *testing.T) {
	t.Run("guarded", func(t *testing.T) {
		r, err := startTest(t, "").play(t.Context(), "", io.Discard)
		require.NoError(t, err)
		var table bytes.Buffer
		r.print(&table)
		assert.Zero(t, r.failed(""), table.String())
		for _, a := range acts {
			seen := 0
			for _, row := range r.rows {
				if row.act == a.id {
					seen++
				}
			}
			assert.Positive(t, seen, "act %s said nothing", a.id)
		}
	})
	for _, a := range acts {
		t.Run("without "+a.guard, func(t *testing.T) {
			t.Parallel()
			r, err := startTest(t, a.id).play(t.Context(), a.id, io.Discard)
			require.NoError(t, err)
			assert.Positive(t, r.failed(a.id), "act %s proves nothing", a.id)
		})
	}
}

func TestOnce(t *testing.T) {
	var out, logs bytes.Buffer
	err := run(t.Context(), []string{"-once", "-break", "b"}, &out, &logs)
	require.ErrorIs(t, err, errFailed)
	assert.Contains(t, out.String(), "without the verification of tokens, act (b) must fail:")
	assert.Regexp(t, `(?m)^FAIL\s+b\s+expired\s+401 application/problem\+json, Bearer\s+200 `, out.String())
	assert.Contains(t, out.String(), "0 passed, 5 failed")
	assert.Empty(t, logs.String(), "log lines are for -v")
}

func TestStaysUp(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, nil, w, io.Discard)
		_ = w.Close()
	}()
	var text strings.Builder
	buf := make([]byte, 1024)
	for !strings.Contains(text.String(), "by=forever") {
		n, err := r.Read(buf)
		require.NoError(t, err)
		text.Write(buf[:n])
	}
	go func() { _, _ = io.Copy(io.Discard, r) }()
	for _, want := range []string{"TOKEN=", "--cacert", "x-canary", "X-Api-Key"} {
		assert.Contains(t, text.String(), want)
	}
	cancel()
	require.NoError(t, <-ended)
}

func TestMistakes(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-break", "z"}, `-break: there is no act "z"`},
		{[]string{"-listen", "0.0.0.0:0"}, "must be a loopback address"},
		{[]string{"once"}, `unexpected argument "once", see -h`},
		{[]string{"-once", "-listen", taken.Addr().String()}, "serve: gateway: listen tcp " + taken.Addr().String()},
	} {
		assert.ErrorContains(t, run(t.Context(), c.args, io.Discard, io.Discard), c.want)
	}
}

// The three documents that people already have are loaded as they are.
func TestManifestsAreByteForByte(t *testing.T) {
	for name, want := range map[string]string{
		"httproute.yaml":           "7108c5b263309c48fabe167434946856bebe82239775456c863f29289396f1e6",
		"virtualservice.yaml":      "e5c501678634dcc49e476a999a7e4d30047aea63ff5bc35684548272b69fdcdb",
		"authorizationpolicy.yaml": "c67656b68b50a5400598a2f0a5a5bc651297984c925adbbb51967266e7c69c9e",
	} {
		data, err := manifests.ReadFile("manifests/" + name)
		require.NoError(t, err)
		sum := sha256.Sum256(data)
		assert.Equal(t, want, hex.EncodeToString(sum[:]), name)
	}
}

// The auth service can be slowed down, black-holed and stopped.
func TestAuthService(t *testing.T) {
	s, err := startAuthService(t.Context())
	require.NoError(t, err)
	defer s.stop()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(ctx context.Context) (int, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.addr+"/jwks.json", http.NoBody)
		require.NoError(t, err)
		resp, err := client.Do(r)
		if err != nil {
			return 0, err
		}
		return resp.StatusCode, resp.Body.Close()
	}
	control := func(by string) int {
		resp, err := client.Post(s.addr+"/control/delay?by="+by, "", nil)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		return resp.StatusCode
	}
	code, err := get(t.Context())
	require.NoError(t, err)
	assert.Equal(t, 200, code)

	require.Equal(t, 204, control("30ms"))
	begin := time.Now()
	code, err = get(t.Context())
	require.NoError(t, err)
	assert.Equal(t, 200, code)
	assert.GreaterOrEqual(t, time.Since(begin), 30*time.Millisecond)

	require.Equal(t, 204, control("forever"))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = get(ctx)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Equal(t, 400, control("soon"))

	require.Equal(t, 204, control("0s"))
	resp, err := client.PostForm(s.addr+"/token", url.Values{"sub": {"user-1"}})
	require.NoError(t, err)
	var token struct {
		AccessToken string `json:"access_token"`
		ExpiresIn   int    `json:"expires_in"`
	}
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&token))
	require.NoError(t, resp.Body.Close())
	assert.Equal(t, 900, token.ExpiresIn)
	assert.Equal(t, 2, strings.Count(token.AccessToken, "."))

	s.stop()
	_, err = get(t.Context())
	assert.Error(t, err)
}
