package policytest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/gatemesh-go/gatemesh"
)

// Table judges every case of a table and reports those that are judged
// otherwise, each with its line. A table that cannot be read, or has no case,
// ends the test.
func (p *Policies) Table(file string) {
	p.t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		p.t.Fatalf("policytest: %v", err)
		return
	}
	cases, err := ParseCases(file, data)
	if err != nil {
		p.t.Fatalf("%v", err)
		return
	}
	if len(cases) == 0 {
		p.t.Fatalf("%s: there is no case in the table", file)
	}
	for _, c := range cases {
		if text := p.Case(c).failure(); text != "" {
			p.t.Errorf("%s", text)
		}
	}
}

// ParseCases reads a table. It reports every fault at once with its line. The
// file name is for positions and errors; nothing is opened.
func ParseCases(file string, data []byte) ([]Case, error) {
	var cases []Case
	var errs []error
	number := 0
	for line := range strings.Lines(string(data)) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		at := gatemesh.Position{File: file, Line: number}
		c, err := parseCase(line)
		if err != nil {
			errs = append(errs, fmt.Errorf("%v: %w", at, err))
			continue
		}
		c.Position = at
		cases = append(cases, c)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return cases, nil
}

func parseCase(line string) (c Case, err error) {
	if !utf8.ValidString(line) {
		return c, errors.New("the line is not UTF-8")
	}
	var columns [4]string
	for i, name := range []string{"verdict", "caller", "method", "path"} {
		if columns[i], line, _ = strings.Cut(line, " "); columns[i] == "" {
			return c, fmt.Errorf("the %s is missing; a case is: allow|deny CALLER METHOD PATH [NAME=VALUE ...]", name)
		}
		line = strings.TrimLeft(line, " ")
	}
	c.Caller, c.Method, c.Path = columns[1], columns[2], columns[3]
	if err := c.Want.UnmarshalText([]byte(columns[0])); err != nil {
		return c, err
	}
	// A case about a call that no policy is ever asked about tests nothing.
	if _, err := c.call(gatemesh.Workload{TrustDomain: "a", Namespace: "a"}); err != nil {
		return c, err
	}
	seen := make(map[string]bool)
	for line != "" {
		name, rest, ok := strings.Cut(line, "=")
		if !ok || strings.ContainsAny(name, " \t") {
			word, _, _ := strings.Cut(line, " ")
			return c, fmt.Errorf("%q is not NAME=VALUE", word)
		}
		repeats := name == "scope" || name == "audience" || strings.HasPrefix(name, "header.")
		if seen[name] && !repeats {
			return c, fmt.Errorf("%s stands twice", name)
		}
		seen[name] = true
		if name == "claims" {
			line, err = c.claims(rest)
		} else {
			var value string
			if value, line, err = cutValue(rest); err == nil {
				err = c.set(name, value)
			}
		}
		if err != nil {
			return c, fmt.Errorf("%s: %w", name, err)
		}
		if line != "" && line[0] != ' ' {
			return c, fmt.Errorf("%s: there is no space after the value", name)
		}
		line = strings.TrimLeft(line, " ")
	}
	_, err = c.call(gatemesh.Workload{TrustDomain: "a", Namespace: "a"})
	return c, err
}

// cutValue cuts the value off that s begins with.
func cutValue(s string) (value, rest string, err error) {
	if !strings.HasPrefix(s, `"`) {
		end := strings.IndexByte(s, ' ')
		if end < 0 {
			end = len(s)
		}
		if value = s[:end]; quoteValue(value) != value {
			return "", "", errors.New("the value is empty or must be quoted, as in Go")
		}
		return value, s[end:], nil
	}
	quoted, err := strconv.QuotedPrefix(s)
	if err != nil {
		return "", "", errors.New("the quoted value does not end")
	}
	value, err = strconv.Unquote(quoted)
	return value, s[len(quoted):], err
}

func (c *Case) set(name, value string) (err error) {
	if value == "" && !strings.HasPrefix(name, "header.") {
		return errors.New("the value is empty")
	}
	switch name {
	case "host":
		if c.Host, _, err = gatemesh.CanonicalHost(value); err == nil && c.Host != value {
			err = fmt.Errorf("%q is not in canonical form, %q is; the port has a field of its own", value, c.Host)
		}
	case "port":
		var port uint64
		port, err = strconv.ParseUint(value, 10, 16)
		if c.Port = uint16(port); err != nil || port == 0 {
			err = errors.New("it is not a port number from 1 to 65535")
		}
	case "from":
		c.From, err = netip.ParseAddr(value)
	case "client":
		c.Client, err = netip.ParseAddr(value)
	case "to":
		c.To, err = netip.ParseAddr(value)
	case "sni":
		c.SNI = value
	case "issuer":
		c.User.Issuer = value
	case "subject":
		c.User.Subject = value
	case "scope":
		c.User.Scopes = append(c.User.Scopes, value)
	case "audience":
		c.User.Audience = append(c.User.Audience, value)
	default:
		field, ok := strings.CutPrefix(name, "header.")
		if !ok || field == "" {
			return errors.New("there is no such field; there are host, port, from, client, to, sni, header.NAME, issuer, subject, scope, audience and claims")
		}
		if strings.Trim(field, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
			return errors.New("it is no name of a header field")
		}
		if c.Header == nil {
			c.Header = make(http.Header)
		}
		c.Header.Add(field, value)
	}
	return err
}

// claims reads the JSON object that s begins with.
func (c *Case) claims(s string) (rest string, err error) {
	d := json.NewDecoder(strings.NewReader(s))
	d.UseNumber()
	if err := d.Decode(&c.User.Claims); err != nil || c.User.Claims == nil {
		return "", errors.New("it is not a JSON object")
	}
	return s[d.InputOffset():], nil
}
