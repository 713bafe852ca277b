package auth

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"unicode/utf8"
)

// maxDepth bounds the nesting of JSON that unauthenticated callers send.
const maxDepth = 16

var (
	errJSON      = errors.New("not a JSON object")
	errDepth     = errors.New("JSON is nested too deeply")
	errDuplicate = errors.New("a JSON name is there twice")
	errTwin      = errors.New("a registered name is spelled in another case")
)

// decodeObject decodes a JSON object, keeping numbers as they are written. Its
// names are unique at every level (RFC 7519 §4), and none at the top folds to
// one of registered without being it: others who read the object, in any
// case or taking the last of two, then see the same.
func decodeObject(data []byte, registered []string) (map[string]any, error) {
	if !utf8.Valid(data) { // encoding/json would replace what is not
		return nil, errJSON
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	v, err := decodeValue(dec, 0)
	if err != nil {
		return nil, err
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, errJSON
	}
	// The token decoder is laxer than the grammar in corners, so ask the latter.
	if _, err := dec.Token(); !errors.Is(err, io.EOF) || !json.Valid(data) {
		return nil, errJSON
	}
	for name := range m {
		for _, r := range registered {
			if name != r && strings.EqualFold(name, r) {
				return nil, errTwin
			}
		}
	}
	return m, nil
}

// decodeValue goes token by token, so that deep nesting is met before anything
// is allocated for it.
func decodeValue(dec *json.Decoder, depth int) (any, error) {
	if depth > maxDepth {
		return nil, errDepth
	}
	t, err := dec.Token()
	if err != nil {
		return nil, errJSON // the decoder's own error quotes its input
	}
	switch t {
	case json.Delim('{'):
		m := map[string]any{}
		for dec.More() {
			t, err := dec.Token()
			name, ok := t.(string)
			if err != nil || !ok {
				return nil, errJSON
			}
			if _, ok := m[name]; ok {
				return nil, errDuplicate
			}
			if m[name], err = decodeValue(dec, depth+1); err != nil {
				return nil, err
			}
		}
		return m, closeValue(dec)
	case json.Delim('['):
		s := []any{}
		for dec.More() {
			v, err := decodeValue(dec, depth+1)
			if err != nil {
				return nil, err
			}
			s = append(s, v)
		}
		return s, closeValue(dec)
	}
	if _, ok := t.(json.Delim); ok {
		return nil, errJSON
	}
	return t, nil
}

func closeValue(dec *json.Decoder) error {
	if _, err := dec.Token(); err != nil {
		return errJSON
	}
	return nil
}
