package manifest

import (
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write FIELDS.md anew")

// FIELDS.md says what the structs say.
func TestFields(t *testing.T) {
	var b strings.Builder
	b.WriteString(`# Supported fields

Written by ` + "`go test ./manifest -run TestFields -update`" + `. Everything else is an
error, and so is what the second table of a kind lists, which the real APIs have
besides. Where a list or a map is given, it must not be empty, but for
` + "`metadata.labels`, `metadata.annotations` and the `spec.rules` of an ALLOW policy" + `.
`)
	table := func(title string, typ reflect.Type, path string) {
		fmt.Fprintf(&b, "\n## %s\n\n| Field | Type | Required | Values |\n|---|---|---|---|\n", title)
		var refused []string
		writeFields(t, &b, typ, path, &refused)
		if len(refused) > 0 {
			b.WriteString("\n| Not supported | Why |\n|---|---|\n" + strings.Join(refused, ""))
		}
	}
	table("Every kind", kinds()[0].object, "")
	b.WriteString(`
Labels and annotations change nothing; annotations of Istio, Kong and the
Gateway API, which would change something there, are refused.
`)
	for _, k := range kinds() {
		spec, found := k.object.FieldByName("Spec")
		require.True(t, found)
		table(k.name+", "+k.apiVersions(), spec.Type, "spec")
		if k.name == "AuthorizationPolicy" {
			b.WriteString(`
The keys of conditions are listed at policy.Condition. Every other is an error,
and so is ` + "`experimental.envoy.filters.*`" + `. A provider is the name of a hook in
policy.Config.
`)
		}
	}
	if *update {
		require.NoError(t, os.WriteFile("FIELDS.md", []byte(b.String()), 0o600))
	}
	onDisk, err := os.ReadFile("FIELDS.md")
	require.NoError(t, err)
	assert.Equal(t, string(onDisk), b.String())
}

func writeFields(t *testing.T, b *strings.Builder, typ reflect.Type, path string, refused *[]string) {
	t.Helper()
	fields, up := fieldsOf(typ)
	refuse := func(what, name string) {
		assert.NotEmpty(t, up.why[name], "why %s is refused", what)
		*refused = append(*refused, fmt.Sprintf("| `%s` | %s |\n", what, up.why[name]))
	}
	for _, name := range up.fields {
		refuse(child(path, name), name)
	}
	for _, f := range fields {
		// A misspelled check would check nothing.
		for _, word := range strings.Fields(typ.Field(f.index).Tag.Get("check")) {
			name, _, _ := strings.Cut(word, "=")
			known := []string{"required", "empty", "keyed", "default", "enum", "not", "format", "len", "items", "min", "max"}
			assert.Contains(t, known, name, "%s.%s", typ.Name(), f.name)
		}
		if f.checks.format != "" {
			assert.NotEmpty(t, formatNames[f.checks.format], "%s.%s", typ.Name(), f.name)
		}
		elem, name := typ.Field(f.index).Type, child(path, f.name)
		kind := ""
		if f.checks.keyed {
			kind, elem, name = "map", elem.Elem(), name+".*"
		} else if elem.Kind() == reflect.Slice {
			kind, elem, name = "list", elem.Elem(), name+"[]"
		}
		leaf := map[reflect.Type]string{
			reflect.TypeFor[text](): "string", reflect.TypeFor[number](): "number", reflect.TypeFor[stamp](): "time",
			reflect.TypeFor[literal](): "string", reflect.TypeFor[boolean](): "boolean", reflect.TypeFor[decimal](): "number", reflect.TypeFor[span](): "duration", reflect.TypeFor[labels](): "map of strings", reflect.TypeFor[skipped](): "not read",
		}[elem]
		if leaf == "" {
			leaf = "object"
		}
		if kind != "" {
			kind += " of "
		}
		if kind != "" && leaf != "not read" {
			leaf += "s"
		}
		required := ""
		if f.checks.required {
			required = "yes"
		}
		fmt.Fprintf(b, "| `%s` | %s%s | %s | %s |\n", name, kind, leaf, required, f.checks.String())
		for _, v := range f.checks.refused {
			refuse(name+": "+v, f.name)
		}
		if strings.HasPrefix(leaf, "object") && name != "spec" {
			writeFields(t, b, elem, name, refused)
		}
	}
}
