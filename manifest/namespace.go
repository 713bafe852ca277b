package manifest

import (
	"maps"
	"slices"
)

// namespaceSpec is the spec of a Namespace, of which labels alone are read.
type namespaceSpec struct {
	mark
	Finalizers skipped `json:"finalizers"`
}

// optional: nobody writes the spec of a Namespace.
func (*namespaceSpec) optional() {}

// namespaceName is the label that the cluster gives every namespace.
const namespaceName = "kubernetes.io/metadata.name"

// namespaceLabels are those of a namespace as far as the set knows them.
func (set *Set) labelsOf(name string) map[string]string {
	out := map[string]string{}
	if n := set.namespaceOf[name]; n != nil {
		maps.Copy(out, n.Metadata.Labels.V)
	}
	out[namespaceName] = name
	return out
}

// linkNamespaces finds the Namespaces by their names.
func (set *Set) linkNamespaces() {
	for _, n := range set.namespaces {
		if n.Metadata.Namespace.present() {
			n.scope.fault(n.Metadata.Namespace.mark, "a Namespace is in no namespace")
		}
		set.namespaceOf[n.Metadata.Name.V] = n
	}
}

// labelSelector selects namespaces. All of it must hold.
type labelSelector struct {
	mark
	MatchLabels      labels            `json:"matchLabels"`
	MatchExpressions []labelExpression `json:"matchExpressions"`
}

type labelExpression struct {
	mark
	Key      text   `json:"key" check:"required"`
	Operator text   `json:"operator" check:"required enum=In|NotIn|Exists|DoesNotExist"`
	Values   []text `json:"values" check:"empty"`
}

func (l *labelSelector) check(s scope) {
	if !l.MatchLabels.present() && l.MatchExpressions == nil {
		s.fault(l.mark, "selects every namespace; say from: All")
	}
}

func (e *labelExpression) check(s scope) {
	if list := e.Operator.V == "In" || e.Operator.V == "NotIn"; list != (len(e.Values) > 0) {
		s.fault(e.sub("values"), "stands with In and NotIn, and with nothing else")
	}
}

func (l *labelSelector) selects(have map[string]string) bool {
	for key, value := range l.MatchLabels.V {
		if v, ok := have[key]; !ok || v != value {
			return false
		}
	}
	return !slices.ContainsFunc(l.MatchExpressions, func(e labelExpression) bool { return !e.holds(have) })
}

func (e *labelExpression) holds(have map[string]string) bool {
	v, there := have[e.Key.V]
	listed := there && slices.ContainsFunc(e.Values, func(t text) bool { return t.V == v })
	switch e.Operator.V {
	case "In":
		return listed
	case "NotIn":
		return !listed
	case "Exists":
		return there
	}
	return !there
}
