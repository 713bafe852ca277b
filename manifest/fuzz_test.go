package manifest_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/policy"
	"github.com/gatemesh-go/gatemesh/manifest"
	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/routing"
)

// whole is the good folder in one file.
func whole(t testing.TB) string {
	t.Helper()
	var all strings.Builder
	for _, name := range []string{gw, hr, odr, vs, dr, ap, ra, "policies.yaml"} {
		all.WriteString(read(t, name) + "\n---\n")
	}
	all.WriteString(peers)
	return all.String()
}

// There is no place where an unknown field is not noticed.
func TestNoFieldIsIgnored(t *testing.T) {
	t.Parallel()
	docs := trees(t, whole(t))
	var mappings []*yaml.Node
	for _, d := range docs {
		mappings = appendMappings(mappings, d)
	}
	require.Greater(t, len(mappings), 70)
	for _, m := range mappings {
		requireFieldNoticed(t, docs, m)
	}
}

func requireFieldNoticed(t *testing.T, docs []*yaml.Node, m *yaml.Node) {
	t.Helper()
	before := m.Content
	m.Content = append(slices.Clone(before), &yaml.Node{Kind: yaml.ScalarNode, Value: "zzz"}, &yaml.Node{Kind: yaml.ScalarNode, Value: "zzz"})
	_, err := manifest.Parse("a.yaml", written(t, docs))
	require.ErrorContains(t, err, "zzz", "%s", written(t, docs))
	m.Content = before
}

// Nothing panics. What is accepted means the same when another program writes
// it again, and has no field that was not read: with one more in any place, it
// is refused.
func FuzzParse(f *testing.F) {
	for _, name := range []string{gw, hr, odr, vs, dr, ap, ra, "policies.yaml"} {
		f.Add(read(f, name), uint16(3))
	}
	f.Add(whole(f), uint16(50))
	f.Add("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\nspec: {rules: [{to: [{operation: {hosts: [\"*\"]}}]}]}", uint16(4))
	f.Add(peers, uint16(5))
	const authz = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\n"
	for _, spec := range []string{
		`{action: CUSTOM, provider: {name: opa}, rules: [{}]}`,
		`{action: AUDIT, rules: [{from: [{source: {serviceAccounts: [a, b/c]}}], to: [{operation: {paths: ["/a/{*}/b/{**}"]}}]}]}`,
		`{action: DENY, rules: [{when: [{key: "request.headers[x-a]", values: ["b*"], notValues: [c]}]}]}`,
		`{rules: [{when: [{key: "request.auth.claims[a][b]", notValues: ["*"]}, {key: destination.port, values: ["443"]}]}]}`,
		`{rules: [{when: [{key: source.serviceAccount, values: [a/b]}, {key: connection.sni, values: ["*.example.com"]}]}]}`,
	} {
		f.Add(authz+"spec: "+spec, uint16(5))
	}
	f.Fuzz(func(t *testing.T, data string, place uint16) {
		set, err := manifest.Parse("a.yaml", []byte(data))
		if err != nil {
			require.Nil(t, set)
			require.NotEmpty(t, err.Error())
			return
		}
		docs := trees(t, data)
		again, err := manifest.Parse("a.yaml", written(t, docs))
		require.NoError(t, err, "%s", data)
		require.Equal(t, contentOf(set), contentOf(again))

		var mappings []*yaml.Node
		for _, d := range docs {
			mappings = appendMappings(mappings, d)
		}
		requireFieldNoticed(t, docs, mappings[int(place)%len(mappings)])
	})
}

// trees parses data and takes off what has no meaning.
func trees(t *testing.T, data string) (docs []*yaml.Node) {
	t.Helper()
	d := yaml.NewDecoder(strings.NewReader(data))
	for {
		var doc yaml.Node
		if d.Decode(&doc) != nil {
			return docs
		}
		if doc.Content[0].Kind == yaml.MappingNode {
			withoutComments(&doc)
			docs = append(docs, &doc)
		}
	}
}

func withoutComments(n *yaml.Node) {
	n.HeadComment, n.LineComment, n.FootComment = "", "", ""
	for _, c := range n.Content {
		withoutComments(c)
	}
}

func written(t *testing.T, docs []*yaml.Node) []byte {
	t.Helper()
	var b strings.Builder
	e := yaml.NewEncoder(&b)
	for _, d := range docs {
		require.NoError(t, e.Encode(d))
	}
	require.NoError(t, e.Close())
	return []byte(b.String())
}

// appendMappings appends the mappings under n whose keys are not free.
func appendMappings(to []*yaml.Node, n *yaml.Node) []*yaml.Node {
	if n.Kind != yaml.MappingNode {
		for _, c := range n.Content {
			to = appendMappings(to, c)
		}
		return to
	}
	to = append(to, n)
	for i := 0; i+1 < len(n.Content); i += 2 {
		free := []string{"labels", "annotations", "matchLabels", "status", "generation", "managedFields", "resourceVersion", "uid"}
		if !slices.Contains(free, n.Content[i].Value) {
			to = appendMappings(to, n.Content[i+1])
		}
	}
	return to
}

type content struct {
	listeners []manifest.Listener
	routes    []routing.Route
	subsets   []routing.Subset
	services  []routing.Service
	policies  []policy.Policy
	peers     []mtls.PeerAuthentication
	auths     []manifest.RequestAuthentication
}

// contentOf returns what set says, without where.
func contentOf(set *manifest.Set) content {
	c := content{set.Listeners(), set.Routes(), set.Subsets(), set.Services(gatemesh.Workload{}), set.Policies(), set.PeerAuthentications(), set.RequestAuthentications()}
	for i := range c.peers {
		c.peers[i].Position = gatemesh.Position{}
	}
	for i := range c.listeners {
		c.listeners[i].Position = gatemesh.Position{}
	}
	for i := range c.routes {
		c.routes[i].Position = gatemesh.Position{}
	}
	for i := range c.subsets {
		c.subsets[i].Position = gatemesh.Position{}
	}
	for i := range c.services {
		c.services[i].Position = gatemesh.Position{}
		for j := range c.services[i].Rules {
			c.services[i].Rules[j].Position = gatemesh.Position{}
		}
	}
	for i := range c.auths {
		c.auths[i].Position = gatemesh.Position{}
		for j := range c.auths[i].Rules {
			c.auths[i].Rules[j].Position = gatemesh.Position{}
		}
	}
	for i := range c.policies {
		p := &c.policies[i]
		p.Position = gatemesh.Position{}
		for j := range p.Rules {
			p.Rules[j].Position = gatemesh.Position{}
			for k := range p.Rules[j].From {
				p.Rules[j].From[k].Position = gatemesh.Position{}
			}
			for k := range p.Rules[j].To {
				p.Rules[j].To[k].Position = gatemesh.Position{}
			}
			for k := range p.Rules[j].When {
				p.Rules[j].When[k].Position = gatemesh.Position{}
			}
		}
	}
	return c
}
