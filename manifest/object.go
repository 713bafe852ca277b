package manifest

import (
	"cmp"
	"maps"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// object is a document. Its fields are those that all kinds share.
type object[S any] struct {
	mark
	scope      scope
	APIVersion text     `json:"apiVersion" check:"required"`
	Kind       text     `json:"kind" check:"required"`
	Metadata   metadata `json:"metadata" check:"required"`
	Spec       S        `json:"spec" check:"required"`
	Status     skipped  `json:"status"`
}

// metadata holds, besides names, what tools and the cluster write. None of it
// changes behaviour but creationTimestamp, which decides between equal routes.
type metadata struct {
	mark              `refused:"deletionTimestamp deletionGracePeriodSeconds finalizers generateName ownerReferences selfLink" why:"deletionTimestamp=the object is about to go; deletionGracePeriodSeconds=the object is about to go; finalizers=nobody would carry them out; generateName=write name; ownerReferences=the object would go with its owner; selfLink=the cluster does not write it any more"`
	Name              text    `json:"name" check:"required format=subdomain"`
	Namespace         text    `json:"namespace" check:"default=default format=label"`
	Labels            labels  `json:"labels" check:"empty"`
	Annotations       labels  `json:"annotations" check:"empty"`
	CreationTimestamp stamp   `json:"creationTimestamp"`
	Generation        skipped `json:"generation"`
	ManagedFields     skipped `json:"managedFields"`
	ResourceVersion   skipped `json:"resourceVersion"`
	UID               skipped `json:"uid"`
}

// check refuses the annotations by which gateways and meshes are told to act
// otherwise than the spec says. A policy with istio.io/dry-run: "true", for
// one, is not enforced by Istio; enforced, its ALLOW would let callers in.
func (m *metadata) check(s scope) {
	for _, key := range slices.Sorted(maps.Keys(m.Annotations.V)) {
		domain, _, _ := strings.Cut(key, "/")
		for _, d := range []string{"istio.io", "konghq.com", "gateway.networking.k8s.io"} {
			if domain == d || strings.HasSuffix(domain, "."+d) {
				s.fault(m.Annotations.marks[key], "not supported by gatemesh: annotations of %s change what the object does", d)
			}
		}
	}
}

func (o *object[S]) name() string { return o.Metadata.Namespace.V + "/" + o.Metadata.Name.V }

// kind is a kind of object that is read.
type kind struct {
	name, group string
	versions    []string
	object      reflect.Type // object[S], for its documentation
	load        func(set *Set, s scope, n *yaml.Node)
}

func kindOf[S any](name, group string, list func(*Set) *[]*object[S], versions ...string) kind {
	return kind{name, group, versions, reflect.TypeFor[object[S]](), func(set *Set, s scope, n *yaml.Node) {
		o := &object[S]{scope: s}
		before := s.faults.count
		s.decode(n, reflect.ValueOf(o).Elem(), mark{}, checks{})
		if s.faults.count > before {
			set.broken[name] = true
			return
		}
		*list(set) = append(*list(set), o)
	}}
}

func kinds() []kind {
	return []kind{
		kindOf("Namespace", "", func(s *Set) *[]*object[namespaceSpec] { return &s.namespaces }, "v1"),
		kindOf("ReferenceGrant", "gateway.networking.k8s.io", func(s *Set) *[]*object[referenceGrantSpec] { return &s.referenceGrants }, "v1", "v1beta1"),
		kindOf("Gateway", "gateway.networking.k8s.io", func(s *Set) *[]*object[gatewaySpec] { return &s.gateways }, "v1", "v1beta1"),
		kindOf("HTTPRoute", "gateway.networking.k8s.io", func(s *Set) *[]*object[httpRouteSpec] { return &s.httpRoutes }, "v1", "v1beta1"),
		kindOf("GRPCRoute", "gateway.networking.k8s.io", func(s *Set) *[]*object[grpcRouteSpec] { return &s.grpcRoutes }, "v1"),
		kindOf("VirtualService", "networking.istio.io", func(s *Set) *[]*object[virtualServiceSpec] { return &s.virtualServices }, "v1", "v1beta1", "v1alpha3"),
		kindOf("DestinationRule", "networking.istio.io", func(s *Set) *[]*object[destinationRuleSpec] { return &s.destinationRules }, "v1", "v1beta1", "v1alpha3"),
		kindOf("AuthorizationPolicy", "security.istio.io", func(s *Set) *[]*object[authorizationSpec] { return &s.policies }, "v1", "v1beta1"),
		kindOf("PeerAuthentication", "security.istio.io", func(s *Set) *[]*object[peerAuthenticationSpec] { return &s.peerAuthentications }, "v1", "v1beta1"),
		kindOf("RequestAuthentication", "security.istio.io", func(s *Set) *[]*object[requestAuthSpec] { return &s.requestAuths }, "v1", "v1beta1"),
	}
}

func (k *kind) apiVersions() string {
	list := make([]string, len(k.versions))
	for i, v := range k.versions {
		list[i] = strings.TrimPrefix(k.group+"/"+v, "/")
	}
	return strings.Join(list, " or ")
}

// load reads one document into set. It reports false if it does not know which
// object that would have been.
func load(set *Set, s scope, n *yaml.Node) bool {
	at := mark{line: n.Line}
	if n.Kind != yaml.MappingNode {
		s.fault(at, "a document must be a mapping, not %s", describe(n))
		return false
	}
	version, kindNode := member(n, "apiVersion"), member(n, "kind")
	if kindNode == nil || version == nil {
		if version == nil {
			s.fault(at.sub("apiVersion"), "is required")
		}
		if kindNode == nil {
			s.fault(at.sub("kind"), "is required")
		}
		return false
	}
	if !s.isText(version, mark{version.Line, "apiVersion"}) || !s.isText(kindNode, mark{kindNode.Line, "kind"}) {
		return false
	}
	if strings.HasSuffix(kindNode.Value, "List") && member(n, "items") != nil {
		s.fault(mark{kindNode.Line, "kind"}, "%s is not supported; write each item as a document of its own, separated by ---", quote(kindNode.Value))
		return false
	}
	group, rest, grouped := strings.Cut(version.Value, "/")
	if !grouped {
		group, rest = "", version.Value
	}
	all := kinds()
	i := slices.IndexFunc(all, func(k kind) bool { return k.name == kindNode.Value && k.group == group })
	if i < 0 {
		names := make([]string, len(all))
		for i, k := range all {
			names[i] = k.name + " of " + cmp.Or(k.group, "v1")
		}
		s.fault(mark{kindNode.Line, "kind"}, "%s of %s is not supported by gatemesh, which reads %s",
			quote(kindNode.Value), quote(version.Value), strings.Join(names, ", "))
		return false
	}
	k := &all[i]
	s.object = k.name
	if name := member(member(n, "metadata"), "name"); name != nil && name.Kind == yaml.ScalarNode && name.Value != "" {
		namespace := "default"
		if ns := member(member(n, "metadata"), "namespace"); ns != nil && ns.Kind == yaml.ScalarNode && ns.Value != "" {
			namespace = ns.Value
		}
		s.object += " " + shorten(namespace) + "/" + shorten(name.Value)
	}
	if !slices.Contains(k.versions, rest) {
		s.fault(mark{version.Line, "apiVersion"}, "%s is not supported; it must be %s", quote(version.Value), k.apiVersions())
		return false
	}
	k.load(set, s, n)
	return true
}

// shorten bounds a name and makes it fit for a line of text.
func shorten(name string) string {
	if isSubdomain(name) {
		return name
	}
	return quote(name)
}

// member returns the value of a field of a mapping, or nil.
func member(n *yaml.Node, name string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i+1]
		}
	}
	return nil
}
