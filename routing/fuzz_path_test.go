package routing

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

// FuzzPathChange: whatever is configured, a canonical path becomes another one
// or the call is refused.
func FuzzPathChange(f *testing.F) {
	f.Add("/foo/bar", "/foo", "/xyz", "o", `\0`)
	f.Add("/a/.x./b", "/a", "", "x", "")
	f.Add("/%252e%252e/", "/", "/", "25", "")
	f.Fuzz(func(t *testing.T, path, match, prefix, regex, substitution string) {
		path, err := gatemesh.CanonicalPath(path, gatemesh.PathOptions{})
		if err != nil || len(path) > 1<<10 {
			return
		}
		for _, kind := range []PathType{PathPrefix, PathStart} {
			for _, in := range []PathChange{{ReplacePrefix: true, Prefix: prefix}, {Regex: regex, Substitution: substitution}} {
				var faults faults
				c := faults.path(gatemesh.Position{}, "f", &in, &Route{Matches: []Match{{Path: PathMatch{Type: kind, Value: match}}}})
				if faults.errs != nil {
					continue
				}
				got, denial := c.apply(path)
				if denial != nil {
					continue
				}
				again, err := gatemesh.CanonicalPath(got, gatemesh.PathOptions{KeepEncodedSlash: true, KeepPathParameters: true})
				require.NoError(t, err)
				require.Equal(t, got, again)
				if texts := strings.ToUpper(prefix + substitution); !strings.Contains(texts, "%2F") {
					require.NotContains(t, got, "%2F")
				}
			}
		}
	})
}
