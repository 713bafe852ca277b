package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/gatemesh-go/gatemesh"
)

type patternKind uint8

const (
	exact    patternKind = iota
	prefix               // "abc*"
	suffix               // "*abc"
	present              // "*"
	template             // a path with {*} or {**}
)

// pattern is a value of a rule.
type pattern struct {
	kind  patternKind
	fixed string // the value without its `*`; of a template, what stands before the first operator
	rest  *segments
}

func (p *pattern) match(t *text) bool {
	switch p.kind {
	case exact:
		return t.equal(p.fixed)
	case prefix:
		return t.hasPrefix(p.fixed)
	case suffix:
		return t.hasSuffix(p.fixed)
	case template:
		return t.hasPrefix(p.fixed) && p.rest.match(t[0][len(p.fixed):])
	}
	return true // an empty text is not asked
}

var (
	errEmpty    = errors.New("the value is empty")
	errStar     = errors.New("`*` may stand at the beginning or at the end, once")
	errSpace    = errors.New("there is white space around the value")
	errSlash    = errors.New("it can never match, paths start with a slash")
	errScheme   = errors.New(`it can never match, principals are written without "spiffe://"`)
	errIdentity = errors.New(`it can never match, principals have the form "cluster.local/ns/production/sa/order-service" with a lower-case trust domain`)
	errUser     = errors.New(`it can never match, request principals have the form "ISSUER/SUBJECT"`)
	errAccount  = errors.New("service accounts have the form \"NAMESPACE/NAME\" or \"NAME\", without `*`, of at most 320 characters")
	errSegment  = errors.New("it can never match, namespaces contain no slash")
	errPort     = errors.New("hosts are compared without their port; leave it out, and use the field for ports")
	errHost     = errors.New("it can never match, it is no part of a host name")
	errMethod   = errors.New("it can never match, methods are upper-case words of at most 32 letters")
	errNumber   = errors.New("it is not a port number from 1 to 65535")
	errBlock    = errors.New("it is neither an IP address nor a CIDR prefix")
)

// parsePattern reads a value of field f and brings it into the form that
// calls have. It refuses values that no call can match: in a Not field they
// would exclude nothing.
func parsePattern(f field, value string) (pattern, error) {
	p := pattern{fixed: value}
	switch {
	case value == "":
		return p, errEmpty
	case strings.TrimSpace(value) != value:
		return p, errSpace
	case f == fieldPath && strings.ContainsAny(value, "{}"):
		return parseTemplate(value)
	case value == "*":
		return pattern{kind: present}, nil
	case value[0] == '*':
		p = pattern{kind: suffix, fixed: value[1:]}
	case value[len(value)-1] == '*':
		p = pattern{kind: prefix, fixed: value[:len(value)-1]}
	}
	if strings.Contains(p.fixed, "*") {
		return p, errStar
	}
	var err error
	switch f {
	case fieldPrincipal:
		err = checkPrincipal(p)
	case fieldUser:
		if i := strings.IndexByte(value, '/'); p.kind == exact && (i <= 0 || i == len(value)-1) {
			err = errUser
		}
	case fieldServiceAccount:
		err = checkServiceAccount(p)
	case fieldNamespace:
		if strings.Contains(value, "/") {
			err = errSegment
		}
	case fieldHost, fieldSNI:
		p.fixed, err = canonicalHost(p)
	case fieldMethod:
		err = checkMethod(p)
	case fieldPath:
		p.fixed, err = canonicalPath(p)
	case fieldHeader:
		if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			err = errControl
		}
	}
	return p, err
}

func checkPrincipal(p pattern) error {
	switch {
	case strings.Contains(p.fixed, "://"):
		return errScheme
	case p.kind == suffix:
		return nil
	}
	domain, path, ok := strings.Cut(p.fixed, "/")
	if p.kind == exact && (!ok || path == "") || domain == "" ||
		strings.Trim(domain, "abcdefghijklmnopqrstuvwxyz0123456789-._") != "" {
		return errIdentity
	}
	return nil
}

// maxServiceAccounts is how many Istio accepts in a list.
const maxServiceAccounts = 16

// qualified returns the service account with its namespace.
func qualified(account, namespace string) string {
	if account == "" || strings.Contains(account, "/") {
		return account
	}
	return namespace + "/" + account
}

func checkServiceAccount(p pattern) error {
	ns, name, ok := strings.Cut(p.fixed, "/")
	if p.kind != exact || !ok || ns == "" || name == "" || len(p.fixed) > 320 ||
		strings.Trim(ns+name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._") != "" {
		return errAccount
	}
	return nil
}

func checkMethod(p pattern) error {
	if len(p.fixed) > 32 || strings.Trim(p.fixed, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-_") != "" ||
		p.kind != suffix && strings.IndexByte("-_", p.fixed[0]) >= 0 {
		return errMethod
	}
	return nil
}

// canonicalHost returns the fixed part of p as [gatemesh.Call.Host] has it.
func canonicalHost(p pattern) (string, error) {
	if p.kind == exact {
		name, port, err := gatemesh.CanonicalHost(p.fixed)
		switch {
		case err != nil:
			return "", errHost
		case port != "" || strings.HasSuffix(p.fixed, ":"):
			return "", errPort
		}
		return name, nil
	}
	s := strings.ToLower(p.fixed)
	if p.kind == suffix {
		s = strings.TrimSuffix(s, ".")
	}
	switch {
	case strings.Contains(s, ":"):
		return "", errPort
	case s == "", strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-_.") != "",
		strings.Contains(s, ".."), p.kind == prefix && s[0] == '.':
		return "", errHost
	}
	return s, nil
}

// canonicalPath returns the fixed part of p as [gatemesh.Call.MatchPath] has
// it. What a prefix or suffix leaves open is filled with a letter meanwhile,
// so that it is judged as part of a segment: "/.*" is the beginning of
// "/.well-known", and no dot segment.
func canonicalPath(p pattern) (string, error) {
	s := p.fixed
	switch {
	case p.kind != suffix && s[0] != '/':
		return "", errSlash
	case p.kind == prefix:
		s += "x"
	case p.kind == suffix:
		s = "/x" + s
	}
	// An Entry may be set to keep %2F, and only with it such a pattern matches.
	s, err := gatemesh.CanonicalPath(s, gatemesh.PathOptions{KeepEncodedSlash: true, KeepPathParameters: true})
	if err != nil {
		return "", fmt.Errorf("it can never match: %w", err)
	}
	s = gatemesh.MatchForm(s)
	switch p.kind {
	case prefix:
		s = s[:len(s)-1]
	case suffix:
		s = s[2:]
	}
	return s, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != s {
		return 0, errNumber
	}
	return uint16(n), nil
}

// parseBlock reads an address or a prefix. IPv4 is never left in its
// IPv6-mapped form, as in calls.
func parseBlock(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, errBlock
	}
	if p.Addr().Is4In6() {
		if p.Bits() < 96 {
			return p, errBlock // neither family as a whole
		}
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), nil
}
