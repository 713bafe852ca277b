package routing_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

// strictUpstream is an HTTP/1.1 server that shares no code with net/http. It
// reads requests by the letter of RFC 9112 and keeps what it saw.
type strictUpstream struct {
	net.Listener
	wg sync.WaitGroup

	mu     sync.Mutex
	seen   []string // method, target and body of each request
	faults []error
	raw    bytes.Buffer
}

func newStrictUpstream(t testing.TB) *strictUpstream {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	u := &strictUpstream{Listener: l}
	u.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			u.wg.Go(func() { u.serve(conn) })
		}
	})
	t.Cleanup(func() {
		assert.NoError(t, l.Close())
		u.wg.Wait() // the Router has closed its connections
	})
	return u
}

func (u *strictUpstream) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	br := bufio.NewReader(io.TeeReader(conn, writerFunc(func(b []byte) (int, error) {
		u.mu.Lock()
		defer u.mu.Unlock()
		return u.raw.Write(b)
	})))
	for {
		request, err := strictRequest(br)
		if err == io.EOF {
			return
		}
		u.mu.Lock()
		if err != nil {
			u.faults = append(u.faults, err)
		} else {
			u.seen = append(u.seen, request)
		}
		u.mu.Unlock()
		if err != nil {
			return
		}
		if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
			return
		}
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// strictLine reads a line that ends in CRLF and has no other CR, LF or NUL.
func strictLine(br *bufio.Reader) (string, error) {
	line, err := br.ReadString('\n')
	switch {
	case err == io.EOF && line != "":
		return "", io.ErrUnexpectedEOF
	case err != nil:
		return "", err
	case !strings.HasSuffix(line, "\r\n"):
		return "", fmt.Errorf("bare LF after %q", line)
	}
	line = line[:len(line)-2]
	if strings.ContainsAny(line, "\r\x00") {
		return "", fmt.Errorf("bare CR or NUL in %q", line)
	}
	return line, nil
}

// strictRequest reads one request. It is io.EOF if there is none.
func strictRequest(br *bufio.Reader) (string, error) {
	first, err := strictLine(br)
	if err != nil {
		return "", err
	}
	parts := strings.Split(first, " ")
	if len(parts) != 3 || parts[2] != "HTTP/1.1" {
		return "", fmt.Errorf("request line %q", first)
	}
	fields := map[string][]string{}
	for {
		line, err := strictLine(br)
		if err != nil {
			return "", errors.Join(errors.New("header"), err)
		}
		if line == "" {
			break
		}
		name, value, ok := strings.Cut(line, ":")
		const token = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
		if name = strings.ToLower(name); !ok || name == "" || strings.Trim(name, token) != "" {
			return "", fmt.Errorf("field line %q", line)
		}
		fields[name] = append(fields[name], strings.Trim(value, " \t"))
	}
	length, encoding := fields["content-length"], fields["transfer-encoding"]
	switch {
	case len(fields["host"]) != 1:
		return "", fmt.Errorf("%d Host fields", len(fields["host"]))
	case len(length)+len(encoding) > 1:
		return "", fmt.Errorf("framed by %q and %q", length, encoding)
	case len(encoding) == 1 && encoding[0] != "chunked":
		return "", fmt.Errorf("Transfer-Encoding %q", encoding)
	}
	var body []byte
	if len(length) == 1 {
		n, err := strconv.ParseUint(length[0], 10, 31)
		if err != nil || strings.Trim(length[0], "0123456789") != "" {
			return "", fmt.Errorf("Content-Length %q", length[0])
		}
		body = make([]byte, n)
		if _, err := io.ReadFull(br, body); err != nil {
			return "", err
		}
	}
	for len(encoding) == 1 {
		size, err := strictLine(br)
		if err != nil {
			return "", err
		}
		n, err := strconv.ParseUint(size, 16, 31) // no extensions either: nobody has use for them
		if err != nil {
			return "", fmt.Errorf("chunk size %q", size)
		}
		part := make([]byte, n)
		if _, err := io.ReadFull(br, part); err != nil {
			return "", err
		}
		body = append(body, part...)
		if line, err := strictLine(br); err != nil || line != "" {
			return "", fmt.Errorf("%q after a chunk: %w", line, err)
		}
		if n == 0 { // without trailers: the line was the end
			break
		}
	}
	return parts[0] + " " + parts[1] + " " + string(body), nil
}

// TestPX04_Framing sends bytes that two parsers may read differently. They are
// refused, or become one request that even a strict upstream reads as the one
// that was judged.
func TestPX04_Framing(t *testing.T) {
	t.Parallel()
	const smuggled = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
	post := func(fields, body string) string { return "POST /a HTTP/1.1\r\nHost: h\r\n" + fields + "\r\n" + body }
	tests := []struct {
		name, bytes string
		status      int
		body        string // what the upstream gets, if it gets the request
	}{
		{"one as it should be", post("Content-Length: 5\r\n", "hello"), 200, "hello"},
		{"one in chunks", post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"), 200, "hello"},
		{"length and chunks", post("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"), 200, "hello"},
		{"chunks and length", post("Transfer-Encoding: chunked\r\nContent-Length: 300\r\n", "5\r\nhello\r\n0\r\n\r\n"), 200, "hello"},
		{"two lengths", post("Content-Length: 5\r\nContent-Length: 6\r\n", "hello!"), 400, ""},
		{"two lengths, alike", post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"), 200, "hello"},
		{"two lengths in one field", post("Content-Length: 5, 6\r\n", "hello!"), 400, ""},
		{"two lengths in one field, alike", post("Content-Length: 5, 5\r\n", "hello"), 400, ""},
		{"length with a plus", post("Content-Length: +1\r\n", "x"), 400, ""},
		{"negative length", post("Content-Length: -1\r\n", "x"), 400, ""},
		{"hexadecimal length", post("Content-Length: 0x1\r\n", "x"), 400, ""},
		{"length with an underscore", post("Content-Length: 1_0\r\n", "xxxxxxxxxx"), 400, ""},
		{"empty length", post("Content-Length:\r\n", ""), 400, ""},
		{"length beyond 64 bits", post("Content-Length: 18446744073709551617\r\n", "x"), 400, ""},
		{"unknown coding", post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"), 501, ""},
		{"two codings", post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"), 501, ""},
		{"chunked twice", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), 501, ""},
		{"identity, then chunked", post("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), 501, ""},
		{"coding with a vertical tab", post("Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n"), 400, ""},
		{"coding before a colon with space", post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"), 400, ""},
		{"coding in HTTP/1.0", "POST /a HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 200, ""}, // has no chunks: the connection ends with it
		{"length before a colon with space", post("Content-Length : 5\r\n", "hello"), 400, ""},
		{"space before the first field", "POST /a HTTP/1.1\r\n Host: h\r\nContent-Length: 0\r\n\r\n", 400, ""},
		{"folded line", post("X-A: b\r\n c\r\nContent-Length: 5\r\n", "hello"), 200, "hello"},
		{"folded coding", post("Transfer-Encoding:\r\n chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"), 200, "hello"},
		{"folded length", post("X-A: b\r\n Content-Length: 5\r\n", ""), 200, ""},
		{"bare LF", "POST /a HTTP/1.1\nHost: h\nContent-Length: 5\n\nhello", 200, "hello"},
		{"bare LF at the end of a field", post("X-A: b\nContent-Length: 5\r\n", "hello"), 200, "hello"},
		{"bare CR in a field", post("X-A: b\rContent-Length: 5\r\n", ""), 400, ""},
		{"bare CR in the request line", "GET /a\r HTTP/1.1\r\nHost: h\r\n\r\n", 400, ""},
		{"bare CR at the end of the header", "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\r\n", 400, ""},
		{"NUL in a field", post("X-A: b\x00c\r\nContent-Length: 0\r\n", ""), 400, ""},
		{"chunk size with LF", post("Transfer-Encoding: chunked\r\n", "5\nhello\r\n0\r\n\r\n"), 400, ""},
		{"chunk extension with LF", post("Transfer-Encoding: chunked\r\n", "5;a\nhello\r\n0\r\n\r\n"), 400, ""},
		{"chunk size with CR alone", post("Transfer-Encoding: chunked\r\n", "5\r5\r\nhello\r\n0\r\n\r\n"), 400, ""},
		{"chunk size with a plus", post("Transfer-Encoding: chunked\r\n", "+5\r\nhello\r\n0\r\n\r\n"), 400, ""},
		{"chunk size 0x", post("Transfer-Encoding: chunked\r\n", "0x5\r\nhello\r\n0\r\n\r\n"), 400, ""},
		{"chunk size beyond 64 bits", post("Transfer-Encoding: chunked\r\n", "10000000000000005\r\nhello\r\n0\r\n\r\n"), 400, ""},
		{"no line break after a chunk", post("Transfer-Encoding: chunked\r\n", "5\r\nhelloX\r\n0\r\n\r\n"), 400, ""},
		{"chunk extensions", post("Transfer-Encoding: chunked\r\n", "5;a=b;c=\"d\"\r\nhello\r\n0;e\r\n\r\n"), 200, "hello"},
		{"a flood of chunk extensions", post("Transfer-Encoding: chunked\r\n", strings.Repeat("1;"+strings.Repeat("e", 3000)+"\r\nx\r\n", 100)+"0\r\n\r\n"), 400, ""},
		{"a chunk extension longer than a line", post("Transfer-Encoding: chunked\r\n", "1;"+strings.Repeat("e", 1<<20)+"\r\nx\r\n0\r\n\r\n"), 400, ""},
		{"trailers that frame", post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\nContent-Length: 0\r\nHost: evil\r\n\r\n"), 200, "hello"},
		{"two hosts", "GET /a HTTP/1.1\r\nHost: h\r\nHost: evil\r\n\r\n", 400, ""},
		{"two hosts, alike", "GET /a HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", 400, ""},
		{"no host", "GET /a HTTP/1.1\r\n\r\n", 400, ""},
		{"host in the target and another one", "GET http://evil/a HTTP/1.1\r\nHost: h\r\n\r\n", 400, ""},
		{"space before a colon", "GET /a HTTP/1.1\r\nHost : h\r\n\r\n", 400, ""},
		{"field without a colon", post("X-A\r\nContent-Length: 0\r\n", ""), 400, ""},
		{"field without a name", post(": x\r\nContent-Length: 0\r\n", ""), 400, ""},
		{"HTTP/0.9", "GET /a-path-of-some-length\r\n\r\n", 400, ""},
		{"version of three figures", "GET /a HTTP/1.10\r\nHost: h\r\n\r\n", 400, ""},
		{"tab in the request line", "GET\t/a HTTP/1.1\r\nHost: h\r\n\r\n", 400, ""},
	}
	for _, tt := range tests {
		// Alone, and with another request behind it that must not pass as a part
		// of it, nor unjudged.
		for _, behind := range []string{"", smuggled} {
			t.Run(fmt.Sprintf("%s, %d bytes behind", tt.name, len(behind)), func(t *testing.T) {
				t.Parallel()
				up := newStrictUpstream(t)
				var mu sync.Mutex
				judged := []string{}
				url := gateway{upstream: "http://" + up.Addr().String(), layers: []gatemesh.Layer{
					layer("judge", func(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
						mu.Lock()
						defer mu.Unlock()
						judged = append(judged, c.Method()+" "+c.Path())
						return gatemesh.Admission{}, nil
					})}}.start(t)
				conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
				require.NoError(t, err)
				defer func() { _ = conn.Close() }()
				require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second))) // nobody waits for more
				go func() {                                                          // the server may answer and close before it has read everything
					_, _ = io.WriteString(conn, tt.bytes+behind)
				}()
				br := bufio.NewReader(conn)
				resp, err := http.ReadResponse(br, nil)
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
				}
				if errors.Is(err, syscall.ECONNRESET) { // closed with bytes unread, which may cost the answer
					require.NotEqual(t, http.StatusOK, tt.status)
				} else {
					require.NoError(t, err)
					assert.Equal(t, tt.status, resp.StatusCode)
					if behind != "" && !resp.Close {
						if resp, err = http.ReadResponse(br, nil); err == nil {
							_, _ = io.Copy(io.Discard, resp.Body)
						}
					}
				}

				mu.Lock()
				defer mu.Unlock()
				up.mu.Lock()
				defer up.mu.Unlock()
				seen := []string{}
				for _, s := range up.seen {
					method, rest, _ := strings.Cut(s, " ")
					target, body, _ := strings.Cut(rest, " ")
					seen = append(seen, method+" "+target)
					if target == "/a" {
						assert.Equal(t, tt.body, body)
					} else {
						assert.Empty(t, body)
					}
				}
				if tt.status == http.StatusOK {
					assert.Empty(t, up.faults, "%q", up.raw.String())
				} else { // an upload that turns out to be broken breaks off
					judged = slices.DeleteFunc(judged, func(s string) bool { return strings.HasSuffix(s, " /a") })
				}
				assert.Equal(t, judged, seen, "each request was judged as it was forwarded")
				if behind == "" {
					assert.LessOrEqual(t, len(up.seen)+len(up.faults), 1)
				}
			})
		}
	}
}
