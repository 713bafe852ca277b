package manifest_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/manifest"
)

// A policy that stands in a folder twice is one fault.
func TestPeerAuthentication_Twice(t *testing.T) {
	t.Parallel()
	const doc = "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: a}\nspec: {mtls: {mode: STRICT}}\n"
	_, err := manifest.Parse("a.yaml", []byte(doc+doc))
	require.Error(t, err)
	assert.NotContains(t, err.Error(), "\n")
	assert.NotContains(t, err.Error(), "same workloads")
}

// A panic of Apply is a refusal: it does not end the process that goes on with
// what it has.
func TestWatcherPanic(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var tries atomic.Int32
		var faults []string
		dir := t.TempDir()
		write(t, dir+"/a.yaml", allowing("one"))
		w, err := manifest.NewWatcher(manifest.WatcherConfig{
			Dir: dir, Interval: time.Second,
			Apply: func(*manifest.Set) error {
				if tries.Add(1) < 3 {
					panic("oops")
				}
				return nil
			},
			Observer: gatemesh.ObserverFunc(func(_ context.Context, e gatemesh.Event) {
				if e.Err != nil {
					faults = append(faults, e.Err.Error())
				}
			}),
		})
		require.NoError(t, err)
		time.Sleep(10 * time.Second)
		require.NoError(t, w.Close())
		assert.Equal(t, int32(3), tries.Load(), "it is offered again until it is taken")
		assert.Equal(t, []string{"manifest: Apply panicked: oops"}, faults)
	})
}

// A folder that amounts to far more than it is large does not load, and costs
// little until that is known.
func TestBoundsOfASet(t *testing.T) {
	t.Parallel()
	many := func(n int, format string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, format, i)
		}
		return b.String()
	}
	const domain = "x.a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q"
	gateway := "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec:\n  gatewayClassName: x\n  listeners:\n" +
		many(64, "  - {name: l%[1]d, port: 1%02[1]d, protocol: HTTP, hostname: "+domain+"}\n")
	hostnames := ""
	for i := range 16 {
		hostnames += `"*.` + strings.SplitN(domain, ".", i+2)[i+1] + `",`
	}
	route := "---\napiVersion: gateway.networking.k8s.io/v1\nkind: KIND\nmetadata: {name: r%d}\nspec:\n  parentRefs: [{name: g}]\n  hostnames: [" + hostnames + "]\n  rules:\n" +
		strings.Repeat("  - {backendRefs: [{name: b, port: 1}], matches: ["+strings.Repeat("{headers: [{name: a, value: b}]},", 8)+"]}\n", 16)
	service := func(hosts, rules int) string {
		return "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\nspec:\n  hosts: [" + many(hosts, "h%d,") + "]\n  http:\n" +
			many(rules, "  - {match: [{uri: {exact: /%[1]d}}, {uri: {exact: /a%[1]d}}], route: [{destination: {host: a}}]}\n")
	}
	regex := func(n int, regex string) string {
		return "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\nspec:\n  hosts: [a]\n  http:\n" +
			many(n, "  - {match: [{uri: {regex: '"+regex+"%d'}}], route: [{destination: {host: a}}]}\n")
	}
	for name, tt := range map[string]struct{ text, want string }{
		"routes": {gateway + many(4, strings.Replace(route, "KIND", "HTTPRoute", 1)),
			"a.yaml:144: HTTPRoute default/r3: with this one, the routes have more than 500000 matches, each counted for every listener and hostname"},
		"routes of both kinds": {gateway + many(3, strings.Replace(route, "KIND", "HTTPRoute", 1)) + strings.NewReplacer("KIND", "GRPCRoute", "r%d", "g").Replace(route),
			"a.yaml:144: GRPCRoute default/g: with this one, the routes have more than 500000 matches, each counted for every listener and hostname"},
		"services": {service(251, 200), "a.yaml:1: VirtualService default/v: with this one, the VirtualServices have more than 100000 matches, each counted for every host"},
		"large regex": {regex(1, `[\pL\pN]{990}`),
			`a.yaml:7: VirtualService default/v: spec.http[0].match[0].uri.regex: "[\\pL\\pN]{990}0" is a regular expression that is too large when compiled`},
		"regexes": {regex(200, `[\pL\pN]{20}`), "too many: all of them together are too large when compiled"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			set, err := manifest.Parse("a.yaml", []byte(tt.text))
			require.Nil(t, set)
			require.Error(t, err)
			first, _, _ := strings.Cut(err.Error(), "\n")
			assert.Contains(t, first, tt.want)
		})
	}
	for name, text := range map[string]string{
		"services": service(10, 20), "regexes": regex(20, `[\pL\pN]{20}`),
	} {
		_, err := manifest.Parse("a.yaml", []byte(text))
		assert.NoError(t, err, name)
	}
}

// What is in a file is bounded before it is understood.
func TestHostileYAML(t *testing.T) {
	t.Parallel()
	const size = 1<<20 - 100
	fill := func(head, unit string) string { return head + strings.Repeat(unit, (size-len(head))/len(unit)) }
	for name, tt := range map[string]struct{ text, want string }{
		"bomb":            {"a: &a [x, x, x]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]\n", "a.yaml:1: a: anchors are not supported; write the value out"},
		"deep lists":      {fill("a: ", "["), "a.yaml: exceeded max depth of 10000"},
		"deep mappings":   {fill("", "{a: "), "a.yaml: exceeded max depth of 10000"},
		"same key":        {fill("", "a: 1\n"), "a.yaml:2: a: the field stands in line 1 already"},
		"documents":       {fill("", "---\n{}\n"), "a.yaml:2: apiVersion: is required"},
		"empty documents": {fill("", "---\n"), "a.yaml: there is no document in the file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			set, err := manifest.Parse("a.yaml", []byte(tt.text))
			require.Nil(t, set)
			require.Error(t, err)
			lines := strings.Split(err.Error(), "\n")
			assert.Equal(t, tt.want, lines[0])
			assert.LessOrEqual(t, len(lines), 51)
		})
	}
}

// Links that lead nowhere, or to themselves, are faults of their file.
func TestLoopOfLinks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.Symlink("b.yaml", filepath.Join(dir, "a.yaml")))
	require.NoError(t, os.Symlink("a.yaml", filepath.Join(dir, "b.yaml")))
	require.NoError(t, os.Symlink(".", filepath.Join(dir, "c.yaml")))
	set, err := manifest.LoadDir(dir)
	require.Nil(t, set)
	assert.ErrorContains(t, err, filepath.Join(dir, "a.yaml")+": too many levels of symbolic links\n"+filepath.Join(dir, "b.yaml")+": too many levels")
	assert.ErrorContains(t, err, filepath.Join(dir, "c.yaml")+": is a directory")
}
