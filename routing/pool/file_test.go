package pool

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParseFile(t *testing.T) {
	t.Parallel()
	targets, err := parseFile("eps", "# who\n\n 10.0.0.1:8080\tzone=a  weight=2 label.version=v2 label.empty=\r\n[FD00::1]:80\nHost:1 zone=\n")
	require.NoError(t, err)
	assert.Equal(t, []Target{
		{Address: "10.0.0.1:8080", Zone: "a", Weight: 2, Labels: map[string]string{"version": "v2", "empty": ""}},
		{Address: "[fd00::1]:80", Weight: 1},
		{Address: "host:1", Weight: 1},
	}, targets)
	for text, want := range map[string]string{
		"":                             "eps: there is no endpoint",
		"# nobody\n":                   "eps: there is no endpoint",
		"a:1":                          "eps:1: the line does not end",
		"a:1\nb\n":                     `eps:2: "b" is not a host and a port`,
		"a:1\nA:1\n":                   "eps:2: a:1 is in line 1, too",
		"a:1 zone\n":                   `"zone" is not name=value`,
		"a:1 zone=a zone=a\n":          `"zone" is there twice`,
		"a:1 wieght=1\n":               `"wieght" is unknown`,
		"a:1 weight=0\n":               `the weight "0" is not a number above 0`,
		"a:1 weight=-1\n":              "is not a number above 0",
		"a:1 weight=1001\n":            "the weight 1001",
		"a:1 weight=x\n":               "is not a number",
		"a:1 label.=x\n":               "the labels of a:1",
		"a:1 zone=\u00e9\n":            "is not a name",
		strings.Repeat("a\n", 100):     "eps: and maybe more",
		"a:0\n":                        "is not a host and a port",
		"a:1 label.x=1 label.x=2\n":    `"label.x" is there twice`,
		"a:1 zone=" + long(254) + "\n": "is not a name",
	} {
		_, err := parseFile("eps", text)
		assert.ErrorContains(t, err, want, text)
	}
	var many strings.Builder
	for _, a := range numbered(limitMaxEndpoints + 1) {
		many.WriteString(a + "\n")
	}
	_, err = parseFile("eps", many.String())
	require.ErrorContains(t, err, "eps:10001: there are more than 10000 endpoints")
}

func long(n int) string { return strings.Repeat("x", n) }

// A file is followed within seconds, and what cannot be used leaves the last
// good endpoints, for as long as it may be.
func TestFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "endpoints")
	write := func(text string) {
		t.Helper()
		require.NoError(t, os.WriteFile(path+".new", []byte(text), 0o600))
		require.NoError(t, os.Rename(path+".new", path))
	}
	_, err := NewFile(FileConfig{Path: path})
	require.ErrorContains(t, err, "pool: file of endpoints")
	_, err = NewFile(FileConfig{Interval: time.Millisecond})
	require.ErrorContains(t, err, "FileConfig.Path is required")
	require.ErrorContains(t, err, "FileConfig.Interval 1ms")
	write("a:1 zone=z1 label.version=v1\nb:1 weight=3 label.version=v2\n")
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		f, err := NewFile(FileConfig{Path: path, Observer: r})
		require.NoError(t, err)
		defer func() { require.NoError(t, f.Close()) }()
		p := newPool(t, f)
		require.NoError(t, p.WaitReady(t.Context()))
		assert.Equal(t, []string{"a:1", "b:1"}, known(p))
		assert.Equal(t, "z1", statusOf(t, p, "a:1").Zone)
		assert.Equal(t, 3, statusOf(t, p, "b:1").Weight)
		addrs, err := f.Resolve(t.Context())
		require.NoError(t, err)
		assert.Equal(t, []string{"a:1", "b:1"}, addrs)
		v2 := newPool(t, f, func(c *Config) { c.Selector = map[string]string{"version": "v2"} })
		require.NoError(t, v2.WaitReady(t.Context()))
		assert.Equal(t, []string{"b:1"}, known(v2))

		try(t, at(t, p, "a:1"), Failure)
		a := at(t, p, "a:1").Begin(t.Context(), time.Now())
		var told [][]*Endpoint
		defer p.Watch(func(list []*Endpoint) { told = append(told, list) })()
		write("a:1 zone=z2 weight=2\nc:1\n")
		time.Sleep(5 * time.Second)
		assert.Equal(t, []string{"a:1", "c:1"}, known(p))
		s := statusOf(t, p, "a:1")
		assert.Equal(t, EndpointStatus{Address: "a:1", Zone: "z2", Weight: 2, InFlight: 1, Failures: 1}, s, "it is the same one")
		a.Done(time.Now(), Neutral)
		assert.Zero(t, statusOf(t, p, "a:1").InFlight)
		synctest.Wait()
		require.Len(t, told, 2, "a change of the zone alone is told, too")
		assert.Equal(t, "z2", told[1][0].Zone())
		assert.Equal(t, 2, told[1][0].Weight())

		for _, bad := range []string{"a:1\nb", "", "x\n"} {
			write(bad)
			time.Sleep(6 * time.Minute)
			assert.Equal(t, []string{"a:1", "c:1"}, known(p))
		}
		require.NoError(t, os.Remove(path))
		time.Sleep(6 * time.Minute)
		assert.Equal(t, []string{"a:1", "c:1"}, known(p))
		write("d:1\n")
		time.Sleep(5 * time.Second)
		assert.Equal(t, []string{"d:1"}, known(p))
		messages := r.take()
		assert.Equal(t, "endpoints loaded", messages[0])
		assert.Equal(t, "endpoints loaded", messages[len(messages)-1])
		assert.Len(t, messages, 6, "%v", messages)
	})
}

// A zero File is refused.
func TestZeroFile(t *testing.T) {
	t.Parallel()
	_, err := New(Config{Name: "orders", Resolver: &File{}})
	require.ErrorContains(t, err, "pool: Config.Resolver: the File was not made by NewFile")
	_, err = (&File{}).Resolve(t.Context())
	require.ErrorIs(t, err, errFileUnset)
	require.NoError(t, (&File{}).Close())
}

// Whatever a file holds, it is valid endpoints or errors with their line, and
// what is valid reads the same when it is written again.
func FuzzParseFile(f *testing.F) {
	f.Add("a:1 zone=z weight=3 label.v=1\n# c\n[::1]:2\n")
	f.Add("a:1 weight=\n")
	f.Add("a:1")
	f.Fuzz(func(t *testing.T, text string) {
		targets, err := parseFile("eps", text)
		if err != nil {
			require.ErrorContains(t, err, "eps:")
			return
		}
		kept, total, err := canonical(targets, nil, limitMaxEndpoints)
		require.NoError(t, err)
		require.Equal(t, len(targets), total)
		require.Len(t, kept, total)
	})
}
