package gatemesh

import (
	"errors"
	"net/netip"
	"strings"
	"unicode/utf8"
)

// Errors of the canonicaliser. Their texts are safe to show to a client.
var (
	ErrPathForm      = errors.New("path must start with a slash")
	ErrPathByte      = errors.New("path contains a byte that must be escaped")
	ErrPathEscape    = errors.New("path contains a malformed escape")
	ErrPathControl   = errors.New("path contains an escaped control character")
	ErrPathEncoding  = errors.New("path is not UTF-8 once decoded")
	ErrPathSeparator = errors.New("path contains an encoded separator")
	ErrPathEmpty     = errors.New("path contains an empty segment")
	ErrPathParameter = errors.New("path contains a parameter, which begins with a semicolon")
	ErrPathDot       = errors.New("path contains a dot segment")
	ErrHost          = errors.New("host is malformed")
)

// PathOptions loosens [CanonicalPath].
type PathOptions struct {
	// KeepEncodedSlash keeps %2F as data within a segment instead of refusing
	// it. It is judged and forwarded escaped.
	KeepEncodedSlash bool
	// KeepPathParameters keeps ";" and %3B as data instead of refusing them.
	// Some servers, servlet containers above all, cut ";parameters" off before
	// they look at a path: to them /admin;x is /admin, and a rule that refuses
	// /admin would have been passed by. Set it only where no such server is
	// behind.
	KeepPathParameters bool
}

// byte classes of an escaped path, RFC 3986 §3.3
const (
	classBad    = iota // must not stand raw in a path
	classPlain         // unreserved, sub-delims, ":" and "@"
	classEncode        // harmless, sent raw by browsers, to be escaped
	classSlash
	classPercent
)

var pathClass = func() (t [256]uint8) {
	for c := range 256 {
		switch {
		case unreserved(byte(c)), strings.IndexByte("!$&'()*+,;=:@", byte(c)) >= 0:
			t[c] = classPlain
		case strings.IndexByte("\"<>[]^`{|}", byte(c)) >= 0:
			t[c] = classEncode
		}
	}
	t['/'], t['%'] = classSlash, classPercent
	return t
}()

func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '-' || c == '.' || c == '_' || c == '~'
}

// CanonicalPath returns the one form of an escaped request path that is judged
// and forwarded: escapes of unreserved characters decoded and the hexadecimal
// digits of all others in upper case (RFC 3986 §6.2.2), the printable ASCII
// characters that browsers send raw though they should not escaped, everything
// else left as it stands. It is idempotent, and returns its argument without allocating
// if that is canonical already.
//
// Input that two servers may read differently is an error, not repaired: an
// encoded slash or backslash, empty and dot segments (also with parameters, as
// in "..;x"), control characters, invalid UTF-8, malformed escapes, and bytes
// that may not stand raw in a path. Escapes are decoded once: %252e stays.
func CanonicalPath(p string, o PathOptions) (string, error) {
	if p == "" || p[0] != '/' {
		return "", ErrPathForm
	}
	escaped := false
	for i := 0; i < len(p); i++ {
		switch pathClass[p[i]] {
		case classBad:
			return "", ErrPathByte
		case classPercent, classEncode:
			escaped = true
		case classPlain:
			if p[i] == ';' && !o.KeepPathParameters {
				return "", ErrPathParameter
			}
		}
	}
	if escaped {
		var err error
		if p, err = decodePath(p, o); err != nil {
			return "", err
		}
	}
	return p, checkSegments(p, o)
}

// decodePath decodes unreserved characters and refuses what no escape may hide.
func decodePath(p string, o PathOptions) (string, error) {
	const hexUpper = "0123456789ABCDEF"
	out := make([]byte, 0, len(p))
	raw := make([]byte, 0, len(p)) // fully decoded, to judge its encoding
	for i := 0; i < len(p); i++ {
		switch pathClass[p[i]] {
		case classPercent:
		case classEncode:
			out, raw = append(out, '%', hexUpper[p[i]>>4], hexUpper[p[i]&15]), append(raw, p[i])
			continue
		default:
			out, raw = append(out, p[i]), append(raw, p[i])
			continue
		}
		if i+2 >= len(p) {
			return "", ErrPathEscape
		}
		hi, lo := unhex(p[i+1]), unhex(p[i+2])
		if hi < 0 || lo < 0 {
			return "", ErrPathEscape
		}
		i += 2
		c := byte(hi<<4 | lo)
		switch {
		case c < 0x20 || c == 0x7f:
			return "", ErrPathControl
		case c == '\\', c == '/' && !o.KeepEncodedSlash:
			return "", ErrPathSeparator
		case c == ';' && !o.KeepPathParameters:
			return "", ErrPathParameter
		case unreserved(c):
			out = append(out, c)
		default:
			out = append(out, '%', hexUpper[hi], hexUpper[lo])
		}
		raw = append(raw, c)
	}
	if !utf8.Valid(raw) {
		return "", ErrPathEncoding
	}
	if string(out) == p {
		return p, nil
	}
	return string(out), nil
}

// checkSegments refuses empty and dot segments. A kept %2F ends a segment
// here, because an upstream may decode it.
func checkSegments(p string, o PathOptions) error {
	start := 1
	for i := 1; i <= len(p); i++ {
		end, next := i == len(p), i+1
		if !end && p[i] == '/' {
			if i == start && p[i-1] == '/' {
				return ErrPathEmpty
			}
			end = true
		} else if !end && o.KeepEncodedSlash && strings.HasPrefix(p[i:], "%2F") {
			end, next = true, i+3
		}
		if !end {
			continue
		}
		if p[min(start, len(p)-1)] == '.' && isDots(p[start:i]) {
			return ErrPathDot
		}
		start = next
		i = next - 1
	}
	return nil
}

// isDots reports whether a segment is "." or ".." to a server that cuts
// ";parameters" off, as servlet containers do, before or after decoding.
func isDots(segment string) bool {
	segment, _, _ = strings.Cut(segment, ";")
	segment, _, _ = strings.Cut(segment, "%3B")
	return segment == "." || segment == ".."
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// MatchForm returns a canonical path in the form that rules are compared with:
// escapes of the characters that may also stand raw in a path (sub-delims, ":"
// and "@") are decoded, so that /v1/x%3Acancel cannot slip past a rule about
// /v1/x:cancel. Servers read the two alike, which is why both the path and the
// pattern of a rule go through this function. A path without such escapes is
// returned as it is.
func MatchForm(p string) string {
	if strings.IndexByte(p, '%') < 0 {
		return p
	}
	out := make([]byte, 0, len(p))
	for i := 0; i < len(p); i++ {
		if p[i] == '%' && i+2 < len(p) {
			hi, lo := unhex(p[i+1]), unhex(p[i+2])
			if c := byte(hi<<4 | lo); hi >= 0 && lo >= 0 && pathClass[c] == classPlain {
				out = append(out, c)
				i += 2
				continue
			}
		}
		out = append(out, p[i])
	}
	return string(out)
}

// CanonicalHost splits a Host or :authority value into its canonical name
// (lower case, without trailing dot, IPv6 without brackets) and its port, which
// is "" if there is none. The empty host is returned as it is.
func CanonicalHost(host string) (name, port string, err error) {
	if host == "" {
		return "", "", nil
	}
	if host[0] == '[' {
		end := strings.IndexByte(host, ']')
		if end < 0 {
			return "", "", ErrHost
		}
		addr, aerr := netip.ParseAddr(host[1:end])
		if aerr != nil || !addr.Is6() || addr.Zone() != "" {
			return "", "", ErrHost
		}
		if port, err = hostPort(host[end+1:]); err != nil {
			return "", "", err
		}
		return addr.String(), port, nil
	}
	name = host
	if i := strings.IndexByte(host, ':'); i >= 0 {
		name = host[:i]
		if port, err = hostPort(host[i:]); err != nil {
			return "", "", err
		}
	}
	name = strings.TrimSuffix(name, ".")
	if name == "" || len(name) > 253 {
		return "", "", ErrHost
	}
	label := 0
	for i := 0; i < len(name); i++ {
		switch c := name[i]; {
		case c == '.':
			if label == 0 {
				return "", "", ErrHost
			}
			label = 0
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
			label++
		default:
			return "", "", ErrHost
		}
	}
	if label == 0 {
		return "", "", ErrHost
	}
	return strings.ToLower(name), port, nil
}

// hostPort reads "" or ":port", and drops leading zeros.
func hostPort(s string) (string, error) {
	if s == "" || s == ":" {
		return "", nil
	}
	if s[0] != ':' || len(s) > 6 {
		return "", ErrHost
	}
	n := 0
	for i := 1; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return "", ErrHost
		}
		n = n*10 + int(s[i]-'0')
	}
	if n == 0 || n > 65535 {
		return "", ErrHost
	}
	return strings.TrimLeft(s[1:], "0"), nil
}

// validMethod accepts upper-case tokens only. Methods are case-sensitive (RFC
// 9110 §9.1), and a rule about GET must not be passed by "get".
func validMethod(m string) bool {
	if m == "" || len(m) > 32 {
		return false
	}
	for i := 0; i < len(m); i++ {
		if c := m[i]; (c < 'A' || c > 'Z') && (i == 0 || c != '-' && c != '_') {
			return false
		}
	}
	return true
}

// foldName writes name to dst as servers that build variables from header
// names see it: lower case, and every other character than letters and digits
// alike. It returns nil if the name is longer than dst.
func foldName(dst []byte, name string) []byte {
	if len(name) > len(dst) {
		return nil
	}
	dst = dst[:len(name)]
	for i := 0; i < len(name); i++ {
		switch c := name[i]; {
		case 'A' <= c && c <= 'Z':
			dst[i] = c + 'a' - 'A'
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
			dst[i] = c
		default:
			dst[i] = '-'
		}
	}
	return dst
}
