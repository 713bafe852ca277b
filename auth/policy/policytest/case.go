package policytest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/policy"
)

const (
	anonymous  = "anonymous"
	methodGRPC = "GRPC"
)

// Case is a line of a table: a call and the verdict that is wanted.
type Case struct {
	// Position is where the case was written. Default: unknown.
	Position gatemesh.Position
	// Want is the verdict. Required.
	Want policy.Verdict
	// Caller is who calls, as for [Policies.As], or "anonymous". Required.
	Caller string
	// Method is the method, or "GRPC" for a call of a gRPC method. Required.
	Method string
	// Path is the path, escaped and without a query. Required.
	Path string
	// Host is the host, Port the port that the call arrives at. Default: none.
	Host string
	Port uint16
	// From is the other end of the connection, To our address, Client that of
	// the client behind trusted proxies. Default: none, and From for Client.
	From, Client, To netip.Addr
	// SNI is the server name of the TLS handshake. Default: none.
	SNI string
	// Header are the header fields. Default: none.
	Header http.Header
	// User is who is authenticated: Issuer, Subject, Scopes, Audience and
	// Claims, as far as a table goes. Default: nobody.
	User gatemesh.PrincipalInfo
}

// String returns the case as a line of a table.
func (c Case) String() string { return c.Want.String() + " " + c.line() }

// line is String without the verdict.
func (c Case) line() string {
	out := []string{c.Caller, c.Method, c.Path}
	add := func(name, value string) {
		if value != "" {
			out = append(out, name+"="+quoteValue(value))
		}
	}
	addAddr := func(name string, a netip.Addr) {
		if a.IsValid() {
			add(name, a.String())
		}
	}
	add("host", c.Host)
	if c.Port != 0 {
		add("port", strconv.Itoa(int(c.Port)))
	}
	addAddr("from", c.From)
	addAddr("client", c.Client)
	addAddr("to", c.To)
	add("sni", c.SNI)
	names := make([]string, 0, len(c.Header))
	for name := range c.Header {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for _, v := range c.Header[name] {
			out = append(out, "header."+name+"="+quoteValue(v))
		}
	}
	add("issuer", c.User.Issuer)
	add("subject", c.User.Subject)
	for _, v := range c.User.Scopes {
		out = append(out, "scope="+quoteValue(v))
	}
	for _, v := range c.User.Audience {
		out = append(out, "audience="+quoteValue(v))
	}
	if c.User.Claims != nil {
		claims, err := json.Marshal(c.User.Claims)
		if err != nil { // no table has such claims
			claims = fmt.Appendf(nil, "%q", err.Error())
		}
		out = append(out, "claims="+string(claims))
	}
	return strings.Join(out, " ")
}

// quoteValue quotes a value that does not stand for itself.
func quoteValue(s string) string {
	if s == "" || s[0] == '{' || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '"' || r == '\\' }) {
		return strconv.Quote(s)
	}
	return s
}

// FormatCases returns cases as a table with aligned columns. [ParseCases] reads it.
func FormatCases(cases []Case) string {
	caller, method := 0, 0
	for _, c := range cases {
		caller, method = max(caller, len(c.Caller)), max(method, len(c.Method))
	}
	var b strings.Builder
	for _, c := range cases {
		rest := strings.TrimPrefix(c.line(), c.Caller+" "+c.Method+" ")
		fmt.Fprintf(&b, "%-5v %-*s %-*s %s\n", c.Want, min(caller, maxColumn), c.Caller, min(method, maxColumn), c.Method, rest)
	}
	return b.String()
}

// maxColumn is up to where one long value widens a column for all.
const maxColumn = 48

// call returns the call that the case describes to the workload w.
func (c *Case) call(w gatemesh.Workload) (*gatemesh.Call, error) {
	peer, err := peerOf(c.Caller, w)
	if err != nil {
		return nil, err
	}
	in := gatemesh.CallInfo{
		Method: c.Method, Path: c.Path, Host: c.Host, SNI: c.SNI, Header: c.Header,
		LocalAddr: netip.AddrPortFrom(c.To, c.Port), Client: c.Client, Peer: peer, RequestID: "policytest",
	}
	if c.From.IsValid() {
		in.RemoteAddr = netip.AddrPortFrom(c.From, 0)
	}
	if c.Method == methodGRPC {
		in.Protocol, in.Method = gatemesh.GRPC, http.MethodPost
	}
	if u := c.User; u.Issuer != "" || u.Subject != "" || u.Consumer != "" || u.Scopes != nil || u.Audience != nil || u.Claims != nil {
		in.Principal = gatemesh.NewPrincipal(u)
	}
	switch {
	case c.Method == "" || c.Path == "":
		return nil, errors.New("it has no method or no path; say POST(path), Do(method, path) or GRPC(method)")
	case strings.Contains(c.Path, "?"):
		return nil, errors.New("the path contains a question mark; a query has no influence, leave it out")
	}
	return gatemesh.NewCall(in)
}

// peerOf returns the workload that caller names, nil for nobody.
func peerOf(caller string, w gatemesh.Workload) (*gatemesh.Peer, error) {
	if caller == anonymous {
		return nil, nil
	}
	id, full := strings.CutPrefix(caller, "spiffe://")
	if !full && !strings.Contains(caller, "/") {
		account, namespace, other := strings.Cut(caller, ".")
		if !other {
			namespace = w.Namespace
		}
		id = w.TrustDomain + "/ns/" + namespace + "/sa/" + account
	}
	bad := fmt.Errorf("caller %q is no service account, NAME.NAMESPACE, principal or SPIFFE id", caller)
	domain, path, _ := strings.Cut(id, "/")
	if domain == "" || strings.Trim(domain, "abcdefghijklmnopqrstuvwxyz0123456789-._") != "" {
		return nil, bad
	}
	// SPIFFE-ID §2.2
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "" || segment == "." || segment == ".." ||
			strings.Trim(segment, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._") != "" {
			return nil, bad
		}
	}
	return gatemesh.NewPeer(domain, "/"+path, nil)
}
