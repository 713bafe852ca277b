package manifest

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"regexp/syntax"
	"strconv"
	"strings"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// formatNames describes the formats of the tag check.
var formatNames = map[string]string{
	"label":       "DNS label (RFC 1123)",
	"subdomain":   "DNS name (RFC 1123)",
	"hostname":    `host name, or "*." before one`,
	"header":      "name of a header field",
	"path":        "escaped, canonical path",
	"pathorregex": "escaped, canonical path, or regular expression (RE2)",
	"rule":        "DNS name (RFC 1123), no number",
	"domain":      "domain-prefixed path, or DNS name",
	"port":        "port, 1 to 65535",
	"place":       "name of a parameter or cookie",
	"host":        "host name without wildcard",
	"field":       "name of a header field that may be changed",
	"token":       "name, or *",
	"value":       "visible ASCII characters, with single blanks between them",
	"origin":      "scheme://host with or without :port, where * may stand for the first labels, or *",
	"regex":       "regular expression (RE2)",
	"gep":         "duration such as 1h, 1m30s or 500ms (GEP-2257)",
	"duration":    "duration such as 1h, 1m, 1.5s or 500ms",
	"timeout":     "number and unit, such as 5s, from 1ms to 1m",
}

const dnsLabel = `[a-z0-9]([-a-z0-9]*[a-z0-9])?`

var (
	labelForm     = regexp.MustCompile(`^` + dnsLabel + `$`)
	subdomainForm = regexp.MustCompile(`^` + dnsLabel + `(\.` + dnsLabel + `)*$`)
	headerForm    = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_|~`-]+$")
	valueForm     = regexp.MustCompile("^[!-~]+( [!-~]+)*$")
	pathForm      = regexp.MustCompile(`^(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2})+$`)
)

// formatFault says what is wrong with a value of a format, or "".
func formatFault(format, v string) string {
	switch format {
	case "label":
		if len(v) > 63 || !labelForm.MatchString(v) {
			return "is not a name of lower-case letters, digits and inner hyphens (at most 63)"
		}
	case "subdomain", "rule":
		if !isSubdomain(v) {
			return "is not a name of lower-case letters, digits, and inner hyphens and dots"
		}
		if format == "rule" && strings.Trim(v, "0123456789") == "" {
			return "is a number, which is how rules without a name are called"
		}
	case "hostname":
		name := strings.TrimPrefix(v, "*.")
		if _, err := netip.ParseAddr(name); err == nil {
			return "is an IP address; a hostname is required"
		}
		if !isSubdomain(name) {
			return `is not a lower-case host name without port, nor "*." before one`
		}
	case "host":
		if strings.HasPrefix(v, "*") {
			return "is a wildcard; one host name is required"
		}
		return formatFault("hostname", v)
	case "value":
		if !valueForm.MatchString(v) {
			return "is not of visible ASCII characters with single blanks between them"
		}
	case "token":
		if !headerForm.MatchString(v) {
			return "is not a name of letters, digits and !#$%&'*+.^_|~`-"
		}
	case "field":
		if !headerForm.MatchString(v) {
			return "is not the name of a header field"
		}
		if hopByHop[strings.ToLower(v)] || gatemesh.CarriesIdentity(v) {
			return "is a header field that is not up to a route"
		}
	case "origin":
		if m := originForm.FindStringSubmatch(v); v != "*" && (m == nil || m[2] != "*" && formatFault("hostname", m[2]) != "") {
			return "is not http:// or https:// and a lower-case host, nor *"
		}
	case "regex":
		if len(v) > maxRegex {
			return fmt.Sprintf("is longer than %d characters", maxRegex)
		}
		if _, err := regexp.Compile(v); err != nil {
			return "is not a regular expression (RE2): " + regexFault(err)
		}
	case "domain":
		domain, _, _ := strings.Cut(v, "/")
		if !isSubdomain(domain) {
			return "is not a DNS name with or without a path"
		}
	case "header":
		switch {
		case !headerForm.MatchString(v):
			return "is not the name of a header field"
		case strings.EqualFold(v, "Host"):
			return "is not matched as a header field; use hostnames or hosts"
		case strings.EqualFold(v, "Connection"), gatemesh.CarriesIdentity(v):
			return "is a header field that no match ever sees"
		}
	case "port":
		if n, err := strconv.ParseUint(v, 10, 16); err != nil || n == 0 || strconv.FormatUint(n, 10) != v {
			return "is not a port, 1 to 65535, in plain decimal digits"
		}
	case "place":
		if !headerForm.MatchString(v) {
			return "is not a name that auth looks for"
		}
	case "timeout":
		if d, err := time.ParseDuration(v); err != nil || d < time.Millisecond || d > time.Minute {
			return "is not a number and its unit from 1ms to 1m, such as 5s"
		}
	case "path":
		if !strings.HasPrefix(v, "/") {
			return "does not start with a slash"
		}
		if !pathForm.MatchString(v) {
			return "contains a character that must be escaped"
		}
		if _, err := gatemesh.CanonicalPath(v, gatemesh.PathOptions{}); err != nil {
			return "never matches: " + err.Error()
		}
	}
	return ""
}

// hopByHop are fields of the connection, and those that the proxy makes anew.
var hopByHop = map[string]bool{
	"host": true, "connection": true, "keep-alive": true, "proxy-connection": true, "te": true, "trailer": true,
	"transfer-encoding": true, "upgrade": true, "content-length": true,
}

var originForm = regexp.MustCompile(`^(https?)://([^/:]+)(:[0-9]{1,5})?$`)

// maxRegex bounds what a regular expression costs.
const maxRegex = 1024

// regexFault says what is wrong with a regular expression, without all of it.
func regexFault(err error) string {
	if e, ok := errors.AsType[*syntax.Error](err); ok {
		return string(e.Code)
	}
	return "it does not compile"
}

func isSubdomain(v string) bool { return len(v) <= 253 && subdomainForm.MatchString(v) }
