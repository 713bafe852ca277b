package auth

import (
	"encoding/json"
	"errors"
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
	r := reader{text: string(data)}
	v, err := r.value(0)
	if err != nil {
		return nil, err
	}
	m, ok := v.(map[string]any)
	// The reader takes apart; what is JSON, encoding/json says.
	if !ok || r.next() != 0 || !json.Valid(data) {
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

// reader takes JSON apart, and is right about what is JSON. About other input it
// may be wrong, but it ends. It stands for json.Decoder.Token, which makes an
// error on the way to every value, at a third of the cost of a signature.
// Strings and numbers share the memory of text.
type reader struct {
	text string
	at   int
}

// next returns the next byte that is no white space, without taking it, or 0 at
// the end.
func (r *reader) next() byte {
	for ; r.at < len(r.text); r.at++ {
		switch c := r.text[r.at]; c {
		case ' ', '\t', '\r', '\n':
		case 0: // nor is it JSON
			return 1
		default:
			return c
		}
	}
	return 0
}

// take takes c if it is next.
func (r *reader) take(c byte) bool {
	ok := r.next() == c
	if ok {
		r.at++
	}
	return ok
}

// value goes value by value, so that deep nesting is met before anything is
// allocated for it.
func (r *reader) value(depth int) (any, error) {
	if depth > maxDepth {
		return nil, errDepth
	}
	switch r.next() {
	case '{':
		r.at++
		return r.object(depth)
	case '[':
		r.at++
		return r.array(depth)
	case '"':
		return r.quoted()
	}
	start := r.at
	for r.at < len(r.text) && strings.IndexByte(" \t\r\n,:]}[{\"", r.text[r.at]) < 0 {
		r.at++
	}
	switch word := r.text[start:r.at]; word {
	case "":
		return nil, errJSON
	case "null":
		return nil, nil
	case "true":
		return true, nil
	case "false":
		return false, nil
	default:
		return json.Number(word), nil
	}
}

func (r *reader) object(depth int) (map[string]any, error) {
	m := map[string]any{}
	if r.take('}') {
		return m, nil
	}
	for {
		if r.next() != '"' {
			return nil, errJSON
		}
		name, err := r.quoted()
		if err != nil {
			return nil, err
		}
		if _, twice := m[name]; twice {
			return nil, errDuplicate
		}
		if !r.take(':') {
			return nil, errJSON
		}
		if m[name], err = r.value(depth + 1); err != nil {
			return nil, err
		}
		if r.take('}') {
			return m, nil
		}
		if !r.take(',') {
			return nil, errJSON
		}
	}
}

func (r *reader) array(depth int) ([]any, error) {
	s := []any{}
	if r.take(']') {
		return s, nil
	}
	for {
		v, err := r.value(depth + 1)
		if err != nil {
			return nil, err
		}
		s = append(s, v)
		if r.take(']') {
			return s, nil
		}
		if !r.take(',') {
			return nil, errJSON
		}
	}
}

// quoted takes a string, which is next.
func (r *reader) quoted() (string, error) {
	start, escaped := r.at, false
	for r.at++; r.at < len(r.text); r.at++ {
		switch r.text[r.at] {
		case '\\':
			escaped = true
			r.at++
		case '"':
			r.at++
			if !escaped {
				return r.text[start+1 : r.at-1], nil
			}
			var s string
			if json.Unmarshal([]byte(r.text[start:r.at]), &s) != nil {
				return "", errJSON // the decoder's own error quotes its input
			}
			return s, nil
		}
	}
	return "", errJSON
}
