package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestCopy does with this folder what it is for: copy it into
// an empty one, with a go.mod of its own, build it, run it, and call it as the
// curl lines that it prints.
func TestCopy(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	bin := build(ctx, t)
	folder := filepath.Join(t.TempDir(), "dev")
	addr, health := freeAddr(t), freeAddr(t)
	cmd := exec.CommandContext(ctx, bin, "-dev", folder, "-listen", addr, "-health", health, "-drain", "10s")
	out, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	ended := false
	defer func() {
		if !ended { // a failed test leaves no process behind
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}()
	// The process says when it listens, and everything else that a person reads.
	var said strings.Builder
	lines := bufio.NewScanner(out)
	for listening := 0; listening < 2 && lines.Scan(); {
		said.WriteString(lines.Text() + "\n")
		if strings.Contains(lines.Text(), `"msg":"listening"`) {
			listening++
		}
	}
	rest := make(chan string, 1)
	go func() {
		var b strings.Builder
		for lines.Scan() {
			b.WriteString(lines.Text() + "\n")
		}
		rest <- b.String()
	}()

	got := map[string]int{}
	for _, c := range curls(t, said.String(), folder) {
		got[c.comment] = c.do(ctx, t)
	}
	assert.Equal(t, map[string]int{
		"# 201":                       201,
		"# 403, and the log says why": 403,
		"# no certificate: no answer": 0,
	}, got)
	for _, path := range []string{"/readyz", "/metrics"} {
		assert.Equal(t, http.StatusOK, curl{url: "http://" + health + path}.do(ctx, t), path)
	}

	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	log := <-rest // to its end, before Wait closes the pipe
	err = cmd.Wait()
	ended = true
	require.NoError(t, err, log)
	assert.Equal(t, 0, cmd.ProcessState.ExitCode())
	assert.Regexp(t, `(?s)"payment".*"denied".*"closing listeners".*"draining".*"stopped"`, log)
	assert.Contains(t, log, "method GET is not POST")
}

// build returns the binary of a copy of this folder that stands on its own.
func build(ctx context.Context, t *testing.T) string {
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	generated, err := filepath.Glob("paymentspb/*.go")
	require.NoError(t, err)
	work := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(work, "paymentspb"), 0o700))
	for _, f := range append(files, generated...) {
		if !strings.HasSuffix(f, "_test.go") {
			copyFile(t, f, filepath.Join(work, f))
		}
	}
	// The one line that a person changes.
	source, err := os.ReadFile(filepath.Join(work, "grpc.go"))
	require.NoError(t, err)
	changed := strings.Replace(string(source), "github.com/gatemesh-go/gatemesh/examples/service/", "example.com/payment-service/", 1)
	require.NoError(t, os.WriteFile(filepath.Join(work, "grpc.go"), []byte(changed), 0o600))
	// The sums of more modules than it needs do no harm, and nobody has to ask
	// the network.
	copyFile(t, filepath.Join(root, "examples", "go.sum"), filepath.Join(work, "go.sum"))
	require.NoError(t, os.WriteFile(filepath.Join(work, "go.mod"), []byte(`module example.com/payment-service

go 1.26.0

require github.com/gatemesh-go/gatemesh v0.0.0

replace github.com/gatemesh-go/gatemesh => `+root+"\n\n"+exporters(t, root)), 0o600))
	bin := filepath.Join(work, "payment-service")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", bin, ".")
	cmd.Dir = work
	// -mod=mod writes the indirect requirements, which are those of the root.
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod")
	output, err := cmd.CombinedOutput()
	require.NoError(t, err, string(output))
	return bin
}

// exporters returns what the copy requires besides, as "go mod tidy" would find:
// metrics.go has an exporter, which is in none of the root's modules.
func exporters(t *testing.T, root string) string {
	mod, err := os.ReadFile(filepath.Join(root, "examples", "go.mod"))
	require.NoError(t, err)
	lines := regexp.MustCompile(`(?m)^\t((?:github\.com/prometheus/client_golang|go\.opentelemetry\.io/otel/(?:exporters/prometheus|sdk/metric)) v\S+)$`).FindAllSubmatch(mod, -1)
	require.Len(t, lines, 3)
	var b strings.Builder
	for _, l := range lines {
		b.WriteString("require " + string(l[1]) + "\n")
	}
	return b.String()
}

func copyFile(t *testing.T, from, to string) {
	data, err := os.ReadFile(from)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(to, data, 0o600))
}

// freeAddr returns a loopback address that nobody listened on a moment ago.
// The copy is to print the port in its curl lines, so it cannot choose itself.
func freeAddr(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	return l.Addr().String()
}

// curl is a call as one of the printed lines describes it.
type curl struct {
	method, url, comment string
	header               http.Header
	certs                []tls.Certificate
}

var (
	folderLine = regexp.MustCompile(`(?m)^ +cd (.+)$`)
	orderLine  = regexp.MustCompile(`(?m)^ +as_order="curl -sk --cert (\S+) --key (\S+) -H @(\S+)"$`)
	callLine   = regexp.MustCompile(`(?m)^ +(\$as_order|curl -sk)(?: -X (\S+))? (https://\S+) +(#.*)$`)
)

// curls reads the lines that the process printed.
func curls(t *testing.T, text, folder string) (all []curl) {
	cd, order := folderLine.FindStringSubmatch(text), orderLine.FindStringSubmatch(text)
	require.Len(t, cd, 2, text)
	require.Len(t, order, 4, text)
	assert.Equal(t, folder, cd[1])
	cert, err := tls.LoadX509KeyPair(filepath.Join(cd[1], order[1]), filepath.Join(cd[1], order[2]))
	require.NoError(t, err)
	line, err := os.ReadFile(filepath.Join(cd[1], order[3]))
	require.NoError(t, err)
	name, value, ok := strings.Cut(strings.TrimSpace(string(line)), ": ")
	require.True(t, ok)
	for _, m := range callLine.FindAllStringSubmatch(text, -1) {
		c := curl{method: m[2], url: strings.Replace(m[3], "localhost", "127.0.0.1", 1), comment: m[4]}
		if m[1] == "$as_order" {
			c.header, c.certs = http.Header{name: {value}}, []tls.Certificate{cert}
		}
		all = append(all, c)
	}
	require.Len(t, all, 3, text)
	return all
}

// do returns the status, or 0 if there is no answer.
func (c curl) do(ctx context.Context, t *testing.T) int {
	// As curl -k: the certificate names a workload and no host.
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: c.certs, MinVersion: tls.VersionTLS13}}
	defer tr.CloseIdleConnections()
	r, err := http.NewRequestWithContext(ctx, c.method, c.url, http.NoBody)
	require.NoError(t, err)
	if c.header != nil {
		r.Header = c.header
	}
	resp, err := tr.RoundTrip(r)
	if err != nil {
		require.NoError(t, ctx.Err())
		return 0
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	return resp.StatusCode
}
