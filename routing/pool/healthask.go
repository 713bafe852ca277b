package pool

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

const (
	maxAnswer  = 4 << 10 // bytes of an answer that are read
	grpcCheck  = "/grpc.health.v1.Health/Check"
	grpcHeader = 5 // bytes before a message
	serving    = 1 // grpc.health.v1.HealthCheckResponse.SERVING
)

// asker asks endpoints how they are.
type asker struct {
	*Health
	transport http.RoundTripper
	own       *http.Transport // nil if the transport is the application's
}

func newAsker(h *Health) *asker {
	a := &asker{Health: h, transport: h.Transport}
	if h.Check != CheckTCP && h.Transport == nil {
		protocols := new(http.Protocols)
		protocols.SetHTTP1(h.Check == CheckHTTP)
		protocols.SetUnencryptedHTTP2(h.Check == CheckGRPC)
		// A new connection each time: a listener that accepts nobody any more is
		// not seen over an old one.
		a.own = &http.Transport{
			DisableKeepAlives: true, DisableCompression: true, Protocols: protocols,
			DialContext: new(net.Dialer).DialContext, MaxResponseHeaderBytes: 64 << 10,
		}
		a.transport = a.own
	}
	return a
}

func (a *asker) close() {
	if a.own != nil {
		a.own.CloseIdleConnections()
	}
}

func (a *asker) connect(ctx context.Context, addr string) error {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err == nil {
		err = c.Close()
	}
	return err
}

func (a *asker) request(ctx context.Context, method, addr, path string, body []byte) (*http.Request, error) {
	scheme := "http"
	if a.TLS {
		scheme = "https"
	}
	u, err := url.Parse(scheme + "://" + addr + path)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err == nil && a.Host != "" {
		r.Host = a.Host
	}
	return r, err
}

func (a *asker) askHTTP(ctx context.Context, addr string) error {
	r, err := a.request(ctx, http.MethodGet, addr, a.Path, nil)
	if err != nil {
		return err
	}
	r.Body = nil
	r.Header.Set("User-Agent", "gatemesh-health")
	resp, err := a.transport.RoundTrip(r)
	if err != nil {
		return err
	}
	// To the end, if it is near, so that the connection can be used again.
	_, _ = io.CopyN(io.Discard, resp.Body, maxAnswer)
	_ = resp.Body.Close()
	if s := resp.StatusCode; len(a.Statuses) > 0 && !slices.Contains(a.Statuses, s) || len(a.Statuses) == 0 && s/100 != 2 {
		return fmt.Errorf("the status is %d", s)
	}
	return nil
}

// askGRPC does what a client generated from grpc.health.v1 would, for which grpc
// would have to be compiled in.
func (a *asker) askGRPC(ctx context.Context, addr string) error {
	var message []byte
	if a.Service != "" { // field 1, a string
		message = append(binary.AppendUvarint([]byte{0x0a}, uint64(len(a.Service))), a.Service...)
	}
	body := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
	r, err := a.request(ctx, http.MethodPost, addr, grpcCheck, body)
	if err != nil {
		return err
	}
	r.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}, "User-Agent": {"gatemesh-health"}}
	resp, err := a.transport.RoundTrip(r)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // only read
	if resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/grpc") {
		return fmt.Errorf("the status is %d, and it is no gRPC", resp.StatusCode)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return err
	}
	status := resp.Trailer.Get("Grpc-Status")
	if status == "" {
		status = resp.Header.Get("Grpc-Status") // an answer without a message
	}
	if status != "0" {
		return fmt.Errorf("the gRPC status is %q", short(status))
	}
	return checkServing(data)
}

var errAnswer = errors.New("the answer of the health check cannot be read")

// checkServing reads the one message in data, a HealthCheckResponse.
func checkServing(data []byte) error {
	if len(data) < grpcHeader || len(data) > maxAnswer || data[0] != 0 || int(binary.BigEndian.Uint32(data[1:])) != len(data)-grpcHeader {
		return errAnswer
	}
	status := uint64(0)
	for m := data[grpcHeader:]; len(m) > 0; {
		tag, n := binary.Uvarint(m)
		if n <= 0 {
			return errAnswer
		}
		m = m[n:]
		v, n := binary.Uvarint(m)
		switch {
		case n <= 0:
			return errAnswer
		case tag == 1<<3: // field 1, a varint
			status = v
		case tag&7 == 2 && v <= uint64(len(m)-n): // bytes of a field of the future
			n += int(v)
		case tag&7 != 0:
			return errAnswer
		}
		m = m[n:]
	}
	if status != serving {
		return fmt.Errorf("the health status is %d and not SERVING", status)
	}
	return nil
}
