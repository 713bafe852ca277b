package auth

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// tokenByToken is decodeObject on encoding/json's own reader.
func tokenByToken(data []byte) (map[string]any, bool) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var value func(depth int) (any, error)
	value = func(depth int) (any, error) {
		t, err := dec.Token()
		if err != nil || depth > maxDepth {
			return nil, errors.Join(err, errDepth)
		}
		switch t {
		case json.Delim('{'):
			m := map[string]any{}
			for dec.More() {
				t, err := dec.Token()
				name, ok := t.(string)
				if _, twice := m[name]; err != nil || !ok || twice {
					return nil, errJSON
				}
				if m[name], err = value(depth + 1); err != nil {
					return nil, err
				}
			}
			_, err := dec.Token()
			return m, err
		case json.Delim('['):
			s := []any{}
			for dec.More() {
				v, err := value(depth + 1)
				if err != nil {
					return nil, err
				}
				s = append(s, v)
			}
			_, err := dec.Token()
			return s, err
		}
		return t, nil
	}
	v, err := value(0)
	m, ok := v.(map[string]any)
	_, end := dec.Token()
	return m, err == nil && ok && errors.Is(end, io.EOF) && json.Valid(data) && utf8.Valid(data)
}

// jsonSeeds are documents of which some are JSON.
var jsonSeeds = []string{
	`{}`, ` { "a" : 1 , "b":[ true,false , null ,"x" ] }` + "\n", `{"a":{"b":{"c":[[],{}]}}}`, `{"\u0061":1,"a":2}`, `{"a":"\ud800","b":"\ud83d\ude00\n"}`,
	`{"a":-1.50e+30}`, `{"a":01}`, `{"a":1.}`, `{"a":tru}`, `{"a":nul l}`, `{"a":truefalse}`, `{"a":1 2}`, `{"a":1}{}`, `{"a":1} x`, `{"a":1,}`, `{,"a":1}`,
	`{"a"}`, `{"a":}`, `{"a" 1}`, `{a:1}`, `{"a":[1,]}`, `{"a":[,1]}`, `{"a":[1 2]}`, `{"a":[1}`, `{"a":"` + "\x01" + `"}`, `{"a":"\x"}`, `{"a":"\`, `{"a":"\"}`,
	`{"a":1` + "\x00" + `}`, "\x00{}", "{}\x00", "\ufeff{}", `[]`, `null`, `"x"`, `1`, ``, ` `, `{`, `[`, `}`, `{"a":NaN}`, `{"a":+1}`, `{"a":"` + "\xff" + `"}`, `{"a":1:2}`, `{"a"::1}`,
	`{"a":` + strings.Repeat("[", maxDepth) + strings.Repeat("]", maxDepth) + `}`, `{"a":` + strings.Repeat("[", maxDepth-1) + strings.Repeat("]", maxDepth-1) + `}`,
}

func checkObject(t *testing.T, data string) {
	want, ok := tokenByToken([]byte(data))
	got, err := decodeObject([]byte(data), nil)
	if !ok {
		assert.Error(t, err, "%q", data)
		return
	}
	require.NoError(t, err, "%q", data)
	assert.Equal(t, want, got, "%q", data)
}

func TestJSON(t *testing.T) {
	for _, data := range jsonSeeds {
		checkObject(t, data)
	}
}

// Our reader finds in a document what encoding/json finds.
func FuzzJSON(f *testing.F) {
	for _, data := range jsonSeeds {
		f.Add(data)
	}
	f.Fuzz(checkObject)
}
