package auth

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// LoadKeyFile reads a KeySet from a file with one key a line:
//
//	# id       consumer   hash             what it may do           when it ends
//	billing-7  billing    sha256:9f86d0…   scopes=orders:read,jobs  expires=2027-01-31T00:00:00Z
//
// Fields are separated by spaces or tabs. The first three are required; scopes
// (separated by commas) and expires (RFC 3339) may follow. Empty lines and
// lines that begin with # are skipped. Everything else is an error that names
// its line, and all of them are reported at once. The hash is what [HashKey]
// returns, so the file holds no secret.
func LoadKeyFile(path string) (*KeySet, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("auth: key file: %w", err)
	}
	s, err := parseKeyFile(path, string(data))
	if err != nil {
		return nil, err
	}
	return s, nil
}

func parseKeyFile(path, text string) (*KeySet, error) {
	s, ids := &KeySet{map[[32]byte]*apiKey{}}, map[string]bool{}
	var f faults
	for i, line := range strings.Split(text, "\n") {
		line = strings.Trim(line, " \t\r")
		if line == "" || line[0] == '#' {
			continue
		}
		k, err := parseKeyLine(line)
		if err == nil {
			err = s.add(k, ids)
		}
		if err != nil {
			f.add("%s:%d: %w", path, i+1, err)
		}
	}
	if err := errors.Join(f...); err != nil {
		return nil, err
	}
	return s, nil
}

func parseKeyLine(line string) (Key, error) {
	fields := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' })
	if len(fields) < 3 {
		return Key{}, errors.New("a key needs an id, a consumer and a hash")
	}
	k := Key{ID: fields[0], Consumer: fields[1], Hash: fields[2]}
	for _, field := range fields[3:] {
		name, value, ok := strings.Cut(field, "=")
		switch {
		case !ok || value == "":
			// Not quoted: whoever wrote a secret here should not find it in a log.
			return k, errors.New("a field after the hash is not name=value")
		case name == "scopes" && k.Scopes == nil:
			k.Scopes = strings.Split(value, ",")
		case name == "expires" && k.Expires.IsZero():
			t, err := time.Parse(time.RFC3339, value)
			if err != nil || t.IsZero() {
				return k, errors.New("expires is not a time as in RFC 3339")
			}
			k.Expires = t
		case name == "scopes", name == "expires":
			return k, fmt.Errorf("%s is there twice", name)
		case len(name) > 16 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz_-") != "":
			return k, errors.New("unknown field") // it may be half of a secret
		default:
			return k, fmt.Errorf("unknown field %q", name)
		}
	}
	return k, nil
}
