package gatemesh

import (
	"maps"
	"strings"
)

type fieldAction int8

const (
	fieldKeep      fieldAction = iota
	fieldDrop                  // from everybody
	fieldUntrusted             // drop from callers that are not trusted
	fieldHost
	fieldConnection
	fieldRequestID
	fieldHop
	fieldReserved // fieldReserved+i goes to slot i
)

// untrustedFields are claims about the client or the original request that
// only a trusted proxy may make.
var untrustedFields = []string{
	"forwarded", "forwarded-for", "x-forwarded", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip",
	"cf-connecting-ip", "fastly-client-ip", "client-ip", "x-original-url", "x-original-uri", "x-original-host",
	"x-rewrite-url", "x-host", "x-http-host-override", "x-proxyuser-ip",
}

// untrustedPrefixes are families of such claims.
var untrustedPrefixes = []string{"x-forwarded-", "x-envoy-", "x-original-", "x-rewrite-"}

// overrideFields ask a server to act on another method than the one judged.
var overrideFields = []string{"x-http-method-override", "x-http-method", "x-method-override"}

func (s *entryState) add(a fieldAction, names ...string) {
	for _, name := range names {
		var buf [64]byte
		folded := string(foldName(buf[:], name))
		s.special[folded] = a
		s.shape(folded[0], len(folded))
	}
}

// shape notes that names of length n that begin with the lower-case letter c
// may be special. 63 stands for all that are longer.
func (s *entryState) shape(c byte, n int) {
	bit := uint64(1) << min(n, 63)
	s.shapes[c] |= bit
	s.shapes[c-'a'+'A'] |= bit
}

func validFieldName(name string) bool {
	return name != "" && len(name) <= 64 && name[0] != '-' &&
		strings.Trim(strings.ToLower(name), "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// classify says what to do with a header field.
func (s *entryState) classify(name string) fieldAction {
	if name == "" || s.shapes[name[0]]>>min(len(name), 63)&1 == 0 {
		return fieldKeep
	}
	var buf [64]byte
	folded := foldName(buf[:], name)
	if folded == nil { // longer than any single name, but a prefix may match
		folded = foldName(buf[:], name[:len(buf)])
	} else if a, ok := s.special[string(folded)]; ok {
		return a
	}
	if strings.HasPrefix(string(folded), "x-gatemesh-") {
		return fieldDrop
	}
	for _, p := range untrustedPrefixes {
		if strings.HasPrefix(string(folded), p) {
			return fieldUntrusted
		}
	}
	return fieldKeep
}

// takeHeader removes from the header what this caller may not send, copying it
// on the first write, and fills the slots of c.
func (s *entryState) takeHeader(c *Call, in *Inbound, keepID bool, hop *Slot) (header map[string][]string, copied bool, err error) {
	header = in.Header
	drop := func(name string) {
		if !copied {
			header, copied = maps.Clone(in.Header), true
		}
		delete(header, name)
	}
	for name, values := range in.Header {
		switch a := s.classify(name); a {
		case fieldKeep:
			if !s.KeepUnderscores && !in.LowerCase && strings.IndexByte(name, '_') >= 0 {
				drop(name)
			}
		case fieldUntrusted:
			if !c.trusted || !validFieldName(name) { // of these, nobody needs odd spellings
				drop(name)
			}
		case fieldDrop:
			drop(name)
		case fieldHost:
			// HTTP/2 keeps a host field beside :authority (RFC 9113 §8.3.1).
			for _, v := range values {
				if !sameHost(v, in.Authority) {
					err = denyHostTwo
				}
			}
			drop(name)
		case fieldConnection:
			for _, v := range values {
				s.dropNominated(in, v, drop)
			}
		case fieldRequestID:
			if keepID && len(values) == 1 && validRequestID(values[0]) && validFieldName(name) {
				c.requestID = values[0]
			} else {
				drop(name)
			}
		case fieldHop:
			if c.peer != nil {
				hop.take(values)
			}
			drop(name)
		default:
			c.slots[a-fieldReserved].take(values)
			drop(name)
		}
	}
	return header, copied, err
}

// take adds the values of a field in one of its spellings.
func (s *Slot) take(values []string) {
	s.Count += len(values)
	s.Value = ""
	if s.Count == 1 && len(values) == 1 {
		s.Value = values[0]
	}
}

// dropNominated drops the fields that a Connection value names. They end at
// this hop (RFC 9110 §7.6.1). The names that steer the connection itself stay
// for the proxy behind us.
func (s *entryState) dropNominated(in *Inbound, value string, drop func(string)) {
	for token := range strings.SplitSeq(value, ",") {
		token = strings.TrimSpace(token)
		switch strings.ToLower(token) {
		case "", "close", "keep-alive", "upgrade", "te", "trailer", "transfer-encoding", "http2-settings", "connection", "host":
			continue
		}
		name := Header{lower: in.LowerCase}.key(token)
		// What Entry judges by itself is not for the caller to take away: the
		// address that a trusted proxy reports, for one.
		if _, sent := in.Header[name]; sent && s.classify(name) == fieldKeep {
			drop(name)
		}
	}
}

func sameHost(a, b string) bool {
	an, ap, aerr := CanonicalHost(a)
	bn, bp, berr := CanonicalHost(b)
	return aerr == nil && berr == nil && an == bn && ap == bp
}
