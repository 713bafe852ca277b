package manifest_test

import (
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh/manifest"
)

const (
	gw  = "gateway.yaml"
	hr  = "httproute.yaml"
	vs  = "virtualservice.yaml"
	dr  = "destinationrule.yaml"
	ap  = "authorizationpolicy.yaml"
	odr = "orders-route.yaml"

	inGW = "Gateway production/main-gateway: "
	inHR = "HTTPRoute production/user-service-route: "
	inVS = "VirtualService production/user-service: "
	inDR = "DestinationRule production/user-service: "
	inAP = "AuthorizationPolicy production/payment-service-policy: "
)

// Each line changes one file of a good folder. Nothing that is written there
// is ignored.
func TestFaults(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ file, old, new, want string }{
		// YAML
		"alias":            {ap, "app: payment-service", "app: *x", ap + ":10: unknown anchor 'x' referenced"},
		"anchor":           {ap, "app: payment", "app: &x payment", ap + ":10: spec.selector.matchLabels.app: anchors are not supported; write the value out"},
		"anchor and alias": {ap, "rules:", "x: &a 1\n  y: *a\n  rules:", ap + ":11: spec.x: anchors are not supported; write the value out\n" + ap + ":12: spec.y: aliases are not supported; write the value out"},
		"merge":            {ap, "selector:", "<<: {}\n  selector:", ap + ":8: spec[\"<<\"]: merge keys are not supported; write the fields out"},
		"tag":              {ap, "app: payment", "app: !!str payment", ap + ":10: spec.selector.matchLabels.app: tags are not supported; leave \"!!str\" out"},
		"duplicate":        {ap, "namespace: production", "namespace: production\n  name: x", ap + ":7: metadata.name: the field stands in line 5 already"},
		"tab":              {ap, "  name: pay", "\tname: pay", ap + ":5: a tab is used for indentation; YAML takes spaces only"},
		"bom":              {ap, "# Istio", "\ufeff# Istio", ap + ":1: the file starts with a byte order mark; save it without"},
		"latin1":           {ap, "app: pay", "app: \xe9pay", ap + ":10: the file is not UTF-8"},
		"depth":            {ap, "selector:", "x: " + strings.Repeat("[", 200) + strings.Repeat("]", 200) + "\n  selector:", ap + ":8: spec.x" + strings.Repeat("[0]", 99) + ": nested deeper than 100 levels"},
		"size":             {ap, "# Istio", strings.Repeat("#", 1<<20), ap + ": the file is larger than 1 MiB"},
		"syntax":           {ap, "name: pay", "name: 'pay", ap + ":5: found unexpected end of stream"},
		"bool key":         {ap, "app: pay", "true: x\n      app: pay", ap + ":10: spec.selector.matchLabels.true: the key is not a string; quote it"},
		"map key":          {ap, "app: pay", "? {a: b}\n      : x\n      app: pay", ap + ":10: spec.selector.matchLabels: a key must be a plain string"},
		"null document":    {ap, "# Istio", "null\n---\n# Istio", ap + ":1: a document must be a mapping, not a special value"},
		"list document":    {ap, "# Istio", "- a\n---\n# Istio", ap + ":1: a document must be a mapping, not a list"},

		// documents
		"kind":          {hr, "kind: HTTPRoute", "kind: TLSRoute", hr + `:3: kind: "TLSRoute" of "gateway.networking.k8s.io/v1" is not supported by gatemesh, which reads Namespace of v1, ReferenceGrant of gateway.networking.k8s.io, Gateway of gateway.networking.k8s.io, HTTPRoute of gateway.networking.k8s.io, GRPCRoute of gateway.networking.k8s.io, VirtualService of networking.istio.io, DestinationRule of networking.istio.io, AuthorizationPolicy of security.istio.io, PeerAuthentication of security.istio.io, RequestAuthentication of security.istio.io`},
		"list":          {hr, "kind: HTTPRoute", "kind: List\nitems: []", hr + `:3: kind: "List" is not supported; write each item as a document of its own, separated by ---`},
		"version":       {hr, "k8s.io/v1", "k8s.io/v1alpha2", hr + ":2: " + inHR + `apiVersion: "gateway.networking.k8s.io/v1alpha2" is not supported; it must be gateway.networking.k8s.io/v1 or gateway.networking.k8s.io/v1beta1`},
		"istio version": {ap, "istio.io/v1beta1", "istio.io/v2", ap + ":2: " + inAP + `apiVersion: "security.istio.io/v2" is not supported; it must be security.istio.io/v1 or security.istio.io/v1beta1`},
		"no kind":       {hr, "kind: HTTPRoute\n", "", hr + ":2: kind: is required"},
		"no spec":       {dr, "spec:", "specs:", dr + ":2: " + inDR + "spec: is required\n" + dr + ":7: " + inDR + "specs: unknown field"},
		"no name":       {dr, "  name: user-service\n", "", dr + ":5: DestinationRule: metadata.name: is required"},
		"bad name":      {dr, "  name: user-service\n", "  name: User_Service\n", dr + `:5: DestinationRule production/"User_Service": metadata.name: "User_Service" is not a name of lower-case letters, digits, and inner hyphens and dots`},
		"bad namespace": {dr, "namespace: production", "namespace: a.b", dr + `:6: DestinationRule a.b/user-service: metadata.namespace: "a.b" is not a name of lower-case letters, digits and inner hyphens (at most 63)`},
		"owner":         {dr, "namespace: production", "namespace: production\n  deletionTimestamp: x", dr + ":7: " + inDR + "metadata.deletionTimestamp: not supported by gatemesh: the object is about to go"},
		"dry run":       {ap, "  namespace: production", "  namespace: production\n  annotations:\n    istio.io/dry-run: \"true\"", ap + ":8: " + inAP + `metadata.annotations["istio.io/dry-run"]: not supported by gatemesh: annotations of istio.io change what the object does`},
		"kong":          {hr, "  namespace: production", "  namespace: production\n  annotations: {konghq.com/strip-path: \"true\"}", hr + ":7: " + inHR + `metadata.annotations["konghq.com/strip-path"]: not supported by gatemesh: annotations of konghq.com change what the object does`},
		"timestamp":     {hr, "  namespace: production", "  namespace: production\n  creationTimestamp: now", hr + ":7: " + inHR + "metadata.creationTimestamp: must be a time such as 2026-01-31T12:00:00Z"},
		"same name":     {odr, "order-service-route", "user-service-route", odr + ":4: " + inHR + "metadata.name: there is another one of this name, in " + hr},

		// values
		"number for string":  {vs, "subset: v1", "subset: 1", vs + ":22: " + inVS + `spec.http[1].route[0].destination.subset: must be a string, not a number; quote it: "1"`},
		"bool for string":    {vs, `exact: "true"`, "exact: true", vs + ":14: " + inVS + `spec.http[0].match[0].headers.x-canary.exact: must be a string, not a boolean; quote it: "true"`},
		"yes for string":     {vs, `exact: "true"`, "exact: Yes", vs + ":14: " + inVS + `spec.http[0].match[0].headers.x-canary.exact: some readers of YAML take it for a boolean; quote it: "Yes"`},
		"date for string":    {vs, `exact: "true"`, "exact: 2026-01-01", vs + ":14: " + inVS + `spec.http[0].match[0].headers.x-canary.exact: must be a string, not a date; quote it: "2026-01-01"`},
		"on as label":        {ap, "app: pay", "on: x\n      app: pay", ap + ":10: " + inAP + `spec.selector.matchLabels.on: some readers of YAML take it for a boolean; quote it: "on"`},
		"null":               {ap, "selector:\n    matchLabels:\n      app: payment-service", "selector:", ap + ":8: " + inAP + "spec.selector: is null; give it a value, or leave it out"},
		"string for number":  {hr, "port: 8080", `port: "8080"`, hr + ":19: " + inHR + "spec.rules[0].backendRefs[0].port: must be a number; write it without quotes: 8080"},
		"float":              {hr, "port: 8080", "port: 80.0", hr + ":19: " + inHR + "spec.rules[0].backendRefs[0].port: must be a whole number"},
		"hex":                {hr, "port: 8080", "port: 0x1F90", hr + ":19: " + inHR + "spec.rules[0].backendRefs[0].port: must be written in plain decimal digits"},
		"port range":         {hr, "port: 8080", "port: 65536", hr + ":19: " + inHR + "spec.rules[0].backendRefs[0].port: 65536 is not between 1 and 65535"},
		"weight range":       {hr, "weight: 100", "weight: -1", hr + ":20: " + inHR + "spec.rules[0].backendRefs[0].weight: -1 is not between 0 and 1000000"},
		"string for list":    {hr, "hostnames:\n    - api.example.com", "hostnames: api.example.com", hr + ":10: " + inHR + "spec.hostnames: must be a list, not a string"},
		"list for mapping":   {hr, "path:\n            type: PathPrefix\n            value: /v1/users", "path: []", hr + ":14: " + inHR + "spec.rules[0].matches[0].path: must be a mapping, not a list"},
		"word for number":    {hr, "port: 8080", "port: http", hr + ":19: " + inHR + "spec.rules[0].backendRefs[0].port: must be a whole number, not a string"},
		"list for number":    {hr, "port: 8080", "port: []", hr + ":19: " + inHR + "spec.rules[0].backendRefs[0].port: must be a single value, not a list"},
		"string for labels":  {ap, "matchLabels:\n      app: payment-service", "matchLabels: app", ap + ":9: " + inAP + "spec.selector.matchLabels: must be a mapping, not a string"},
		"list for headers":   {vs, "x-canary:\n              exact: \"true\"", "- a", vs + ":13: " + inVS + "spec.http[0].match[0].headers: must be a mapping, not a list"},
		"long value":         {hr, "value: /v1/users", "value: \"?" + strings.Repeat("a", 200) + "\"", hr + ":16: " + inHR + `spec.rules[0].matches[0].path.value: "?` + strings.Repeat("a", 99) + `"... does not start with a slash`},
		"mapping for string": {hr, "value: /v1/users", "value: {a: b}", hr + ":16: " + inHR + "spec.rules[0].matches[0].path.value: must be a single value, not a mapping"},
		"empty list":         {ap, `["/v1/payments/*"]`, "[]", ap + ":19: " + inAP + "spec.rules[0].to[0].operation.paths: the list is empty; fill it, or leave it out"},
		"empty string":       {ap, `["POST"]`, `[""]`, ap + ":18: " + inAP + "spec.rules[0].to[0].operation.methods[0]: is empty"},
		"white space":        {hr, "value: /v1/users", `value: "/v1/users "`, hr + ":16: " + inHR + `spec.rules[0].matches[0].path.value: "/v1/users " has white space around it`},
		"control character":  {vs, `exact: "true"`, `exact: "a\nb"`, vs + ":14: " + inVS + `spec.http[0].match[0].headers.x-canary.exact: "a\nb" contains a control character`},

		// unknown fields
		"unknown":        {hr, "backendRefs:", "foo: 1\n      backendRefs:", hr + ":17: " + inHR + "spec.rules[0].foo: unknown field"},
		"case":           {hr, "hostnames:", "hostNames:", hr + ":10: " + inHR + "spec.hostNames: unknown field; did you mean hostnames?"},
		"snake case":     {hr, "parentRefs:", "parent_refs:", hr + ":8: " + inHR + "spec.parent_refs: unknown field; did you mean parentRefs?\n" + hr + ":8: " + inHR + "spec.parentRefs: is required"},
		"odd name":       {hr, "backendRefs:", "\"a.b c\": 1\n      backendRefs:", hr + ":17: " + inHR + `spec.rules[0]["a.b c"]: unknown field`},
		"top level":      {hr, "spec:", "data: {}\nspec:", hr + ":7: " + inHR + "data: unknown field"},
		"trafficPolicy":  {dr, "subsets:", "trafficPolicy: {}\n  subsets:", dr + ":9: " + inDR + "spec.trafficPolicy: says nothing; leave it out"},
		"when":           {ap, "- from:", "- when: []\n      from:", ap + ":12: " + inAP + "spec.rules[0].when: the list is empty; fill it, or leave it out"},
		"targetRefs":     {ap, "selector:", "targetRefs: []\n  selector:", ap + ":8: " + inAP + "spec.targetRefs: the list is empty; fill it, or leave it out"},
		"custom":         {ap, "selector:", "action: CUSTOM\n  selector:", ap + ":8: " + inAP + "spec.provider: is required where action is CUSTOM"},
		"action":         {ap, "selector:", "action: allow\n  selector:", ap + ":8: " + inAP + `spec.action: "allow" is unknown; it must be ALLOW or DENY or AUDIT or CUSTOM`},
		"kinds of route": {gw, "port: 443", "port: 443\n      allowedRoutes: {namespaces: {from: Selector}}", gw + ":15: " + inGW + "spec.listeners[0].allowedRoutes.namespaces.selector: stands with from: Selector, and with nothing else"},

		// Gateway and HTTPRoute
		"protocol":         {gw, "protocol: HTTPS", "protocol: TCP", gw + ":13: " + inGW + "spec.listeners[0].protocol: TCP is not supported by gatemesh; it must be HTTP or HTTPS"},
		"listener twice":   {gw, "    - name: https", "    - {name: https, port: 443, protocol: HTTPS}\n    - name: https", gw + ":12: " + inGW + "spec.listeners[1].name: https is the name of spec.listeners[0] already"},
		"same listener":    {gw, "    - name: https", "    - {name: a, port: 443, protocol: HTTPS, hostname: api.example.com}\n    - name: https", gw + ":12: " + inGW + "spec.listeners[1]: port 443 and this hostname are those of spec.listeners[0] already"},
		"two protocols":    {gw, "    - name: https", "    - {name: a, port: 443, protocol: HTTP}\n    - name: https", gw + ":14: " + inGW + "spec.listeners[1].protocol: port 443 is HTTP in spec.listeners[0] already"},
		"hostname":         {hr, "- api.example.com", "- API.example.com:443", hr + ":11: " + inHR + `spec.hostnames[0]: "API.example.com:443" is not a lower-case host name without port, nor "*." before one`},
		"IP hostname":      {hr, "- api.example.com", "- 10.0.0.1", hr + ":11: " + inHR + `spec.hostnames[0]: "10.0.0.1" is an IP address; a hostname is required`},
		"wildcard inside":  {hr, "- api.example.com", `- "api.*.com"`, hr + ":11: " + inHR + `spec.hostnames[0]: "api.*.com" is not a lower-case host name without port, nor "*." before one`},
		"no gateway":       {hr, "name: main-gateway", "name: other", hr + ":9: " + inHR + "spec.parentRefs[0].name: Gateway production/other is not loaded"},
		"no section":       {hr, "name: main-gateway", "name: main-gateway\n      sectionName: http", hr + ":10: " + inHR + "spec.parentRefs[0].sectionName: Gateway production/main-gateway has no listener http"},
		"parent kind":      {hr, "name: main-gateway", "name: main-gateway\n      kind: Service", hr + ":10: " + inHR + "spec.parentRefs[0].kind: Service is not supported by gatemesh; it must be Gateway"},
		"other hostname":   {hr, "- api.example.com", "- www.example.com", hr + ":9: " + inHR + "spec.parentRefs[0]: no hostname of the route is one that Gateway production/main-gateway listens for"},
		"other namespace":  {hr, "namespace: production\nspec:\n  parentRefs:\n    - name: main-gateway", "namespace: other\nspec:\n  parentRefs:\n    - name: main-gateway\n      namespace: production", hr + ":9: HTTPRoute other/user-service-route: spec.parentRefs[0]: Gateway production/main-gateway takes no HTTPRoute of namespace other; its allowedRoutes must say from: All"},
		"no parents":       {hr, "  parentRefs:\n    - name: main-gateway\n", "", hr + ":8: " + inHR + "spec.parentRefs: is required"},
		"path":             {hr, "value: /v1/users", "value: v1/users", hr + ":16: " + inHR + `spec.rules[0].matches[0].path.value: "v1/users" does not start with a slash`},
		"dot segment":      {hr, "value: /v1/users", "value: /v1/../users", hr + ":16: " + inHR + `spec.rules[0].matches[0].path.value: "/v1/../users" never matches: path contains a dot segment`},
		"query in path":    {hr, "value: /v1/users", "value: /v1/users?x", hr + ":16: " + inHR + `spec.rules[0].matches[0].path.value: "/v1/users?x" contains a character that must be escaped`},
		"long path":        {hr, "value: /v1/users", "value: /" + strings.Repeat("a", 1024), hr + ":16: " + inHR + "spec.rules[0].matches[0].path.value: is longer than 1024 characters"},
		"method":           {hr, "path:", "method: get\n          path:", hr + ":14: " + inHR + `spec.rules[0].matches[0].method: "get" is unknown; it must be GET or HEAD or POST or PUT or DELETE or CONNECT or OPTIONS or TRACE or PATCH`},
		"header twice":     {hr, "path:", "headers: [{name: a, value: b}, {name: A, value: c}]\n          path:", hr + ":14: " + inHR + "spec.rules[0].matches[0].headers[1].name: A is matched by spec.rules[0].matches[0].headers[0] already"},
		"header name":      {hr, "path:", "headers: [{name: \"a b\", value: b}]\n          path:", hr + ":14: " + inHR + `spec.rules[0].matches[0].headers[0].name: "a b" is not the name of a header field`},
		"host header":      {hr, "path:", "headers: [{name: host, value: b}]\n          path:", hr + ":14: " + inHR + `spec.rules[0].matches[0].headers[0].name: "host" is not matched as a header field; use hostnames or hosts`},
		"path escapes":     {hr, "value: /v1/users", "value: /v1%2Fusers", hr + ":16: " + inHR + `spec.rules[0].matches[0].path.value: "/v1%2Fusers" never matches: path contains an encoded separator`},
		"identity header":  {hr, "path:", "headers: [{name: X-Gatemesh-Identity, value: b}]\n          path:", hr + ":14: " + inHR + `spec.rules[0].matches[0].headers[0].name: "X-Gatemesh-Identity" is a header field that no match ever sees`},
		"no port":          {hr, "          port: 8080\n", "", hr + ":18: " + inHR + "spec.rules[0].backendRefs[0].port: is required"},
		"backend kind":     {hr, "port: 8080", "port: 8080\n          group: multicluster.x-k8s.io", hr + ":20: " + inHR + `spec.rules[0].backendRefs[0].group: "multicluster.x-k8s.io" is not supported by gatemesh; a backend is a Service, whose group is ""`},
		"foreign backend":  {hr, "port: 8080", "port: 8080\n          namespace: other", hr + ":20: " + inHR + "spec.rules[0].backendRefs[0].namespace: no ReferenceGrant in namespace other lets a HTTPRoute of namespace production refer to Service user-service"},
		"rule name":        {hr, "backendRefs:", "name: \"1\"\n      backendRefs:", hr + ":17: " + inHR + `spec.rules[0].name: "1" is a number, which is how rules without a name are called`},
		"rule name twice":  {hr, "    - matches:", "    - {name: a, backendRefs: [{name: b, port: 1}]}\n    - name: a\n      matches:", hr + ":14: " + inHR + "spec.rules[1].name: a is the name of spec.rules[0] already"},
		"too many rules":   {hr, "    - matches:", strings.Repeat("    - {backendRefs: [{name: b, port: 1}]}\n", 16) + "    - matches:", hr + ":13: " + inHR + "spec.rules: the list has 17 entries; at most 16 are allowed"},
		"too many matches": {hr, "    - matches:", strings.Repeat("    - {backendRefs: [{name: b, port: 1}], matches: ["+strings.Repeat("{method: GET},", 63)+"{}]}\n", 2) + "    - matches:", hr + ":8: " + inHR + "spec.rules: the rules have 129 matches together; at most 128 are allowed"},

		// VirtualService and DestinationRule
		"no subset":          {vs, "subset: v1", "subset: v3", vs + ":22: " + inVS + "spec.http[1].route[0].destination.subset: no DestinationRule for user-service.production has a subset v3"},
		"subset elsewhere":   {dr, "host: user-service", "host: user-service.other.svc.cluster.local", vs + ":18: " + inVS + "spec.http[0].route[0].destination.subset: no DestinationRule for user-service.production has a subset v2\n" + vs + ":22: " + inVS + "spec.http[1].route[0].destination.subset: no DestinationRule for user-service.production has a subset v1\n" + vs + ":26: " + inVS + "spec.http[1].route[1].destination.subset: no DestinationRule for user-service.production has a subset v2"},
		"subset twice":       {dr, "name: v2", "name: v1", dr + ":13: " + inDR + "spec.subsets[1].name: v1 is the name of spec.subsets[0] already"},
		"subset of all":      {dr, "      labels:\n        version: v2\n", "", dr + ":13: " + inDR + "spec.subsets[1].labels: is required"},
		"host twice":         {vs, "- user-service\n", "- user-service\n    - user-service.production.svc.cluster.local\n", vs + ":10: " + inVS + "spec.hosts[1]: user-service.production has a VirtualService already: production/user-service (" + vs + ":9)"},
		"two rules of host":  {dr, "# The subsets", "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a, namespace: production}\nspec: {host: user-service, subsets: [{name: v2, labels: {version: v1}}]}\n---\n# The", dr + ":13: " + inDR + "spec.host: user-service.production has a DestinationRule already: production/a (" + dr + ":4)"},
		"dotted host":        {vs, "- user-service\n", "- user-service.production\n", vs + ":9: " + inVS + `spec.hosts[0]: "user-service.production" is no service: write NAME for one of this namespace, else NAME.NAMESPACE.svc.cluster.local`},
		"wildcard host":      {vs, "- user-service\n", "- \"*\"\n", vs + ":9: " + inVS + `spec.hosts[0]: "*" is no service: write NAME for one of this namespace, else NAME.NAMESPACE.svc.cluster.local`},
		"half a host":        {vs, "- user-service\n", "- user-service.svc.cluster.local\n", vs + ":9: " + inVS + `spec.hosts[0]: "user-service.svc.cluster.local" is no service: write NAME for one of this namespace, else NAME.NAMESPACE.svc.cluster.local`},
		"gateways":           {vs, "hosts:", "gateways: [mesh, main]\n  hosts:", vs + ":8: " + inVS + `spec.gateways[1]: "main" is not supported by gatemesh: a VirtualService applies wherever a client of the mesh calls its host; leave gateways out, or say mesh`},
		"both matches":       {vs, `exact: "true"`, "exact: a\n              prefix: b", vs + ":14: " + inVS + "spec.http[0].match[0].headers.x-canary: must have one of exact, prefix and regex, or none, which is every value"},
		"empty match":        {vs, "- headers:\n            x-canary:\n              exact: \"true\"", "- {}", vs + ":12: " + inVS + "spec.http[0].match[0]: has no condition and takes every call; leave match out"},
		"same match":         {vs, "x-canary:", "X-Canary: {exact: \"a\"}\n            x-canary:", vs + ":14: " + inVS + "spec.http[0].match[0].headers.x-canary: the field is matched by spec.http[0].match[0].headers.X-Canary already"},
		"match of a field":   {vs, "x-canary:", "\"a:b\":", vs + ":13: " + inVS + `spec.http[0].match[0].headers["a:b"]: "a:b" is not the name of a header field`},
		"never reached":      {vs, "    - match:\n        - headers:\n            x-canary:\n              exact: \"true\"\n      route:", "    - route:", vs + ":15: " + inVS + "spec.http[1]: is never reached: spec.http[0] has no match and takes every call"},
		"missing weight":     {vs, "          weight: 90\n", "", vs + ":20: " + inVS + "spec.http[1].route[0].weight: is required where there are several destinations; without it, this one would get no calls"},
		"zero weight":        {vs, "subset: v2\n    - route", "subset: v2\n          weight: 0\n    - route", vs + ":19: " + inVS + "spec.http[0].route[0].weight: the only destination takes every call, also with weight 0; leave weight out"},
		"no weight":          {hr, "weight: 100", "weight: 0", hr + ":20: " + inHR + "spec.rules[0].backendRefs[0].weight: the weights of all backends are 0, which serves nobody"},
		"zero weights":       {vs, "weight: 90\n        - destination:\n            host: user-service\n            subset: v2\n          weight: 10", "weight: 0\n        - destination:\n            host: user-service\n            subset: v2\n          weight: 0", vs + ":20: " + inVS + "spec.http[1].route[0].weight: the weights of all destinations are 0"},
		"no route":           {vs, "      route:\n        - destination:\n            host: user-service\n            subset: v2\n    - route", "      route: []\n    - route", vs + ":15: " + inVS + "spec.http[0].route: the list is empty; fill it, or leave it out"},
		"faulty rule itself": {dr, "name: v1", "name: V1", dr + ":10: " + inDR + `spec.subsets[0].name: "V1" is not a name of lower-case letters, digits and inner hyphens (at most 63)`},

		// AuthorizationPolicy
		"spiffe":                  {ap, `"cluster.local/ns`, `"spiffe://cluster.local/ns`, ap + ":15: " + inAP + `spec.rules[0].from[0].source.principals[0]: "spiffe://cluster.local/ns/production/sa/order-service": it can never match, principals are written without "spiffe://"`},
		"star":                    {ap, "/v1/payments/*", "/v1/*/x", ap + ":19: " + inAP + "spec.rules[0].to[0].operation.paths[0]: \"/v1/*/x\": `*` may stand at the beginning or at the end, once"},
		"ip":                      {ap, "principals:", "ipBlocks: [\"10.0.0.0/33\"]\n            principals:", ap + ":14: " + inAP + `spec.rules[0].from[0].source.ipBlocks[0]: "10.0.0.0/33": it is neither an IP address nor a CIDR prefix`},
		"port as number":          {ap, "methods:", "ports: [8080]\n            methods:", ap + ":18: " + inAP + `spec.rules[0].to[0].operation.ports[0]: must be a string, not a number; quote it: "8080"`},
		"empty source":            {ap, "source:\n            principals:\n              - \"cluster.local/ns/production/sa/order-service\"", "source: {}", ap + ":13: " + inAP + "spec.rules[0].from[0].source: is empty; give it a field, or leave the list it stands in out"},
		"empty from":              {ap, "from:\n        - source:\n            principals:\n              - \"cluster.local/ns/production/sa/order-service\"", "from: []", ap + ":12: " + inAP + "spec.rules[0].from: the list is empty; fill it, or leave it out"},
		"deny nothing":            {ap, "  selector:\n    matchLabels:\n      app: payment-service\n  rules:\n    - from:\n        - source:\n            principals:\n              - \"cluster.local/ns/production/sa/order-service\"\n      to:\n        - operation:\n            methods: [\"POST\"]\n            paths: [\"/v1/payments/*\"]", "  action: DENY", ap + ":8: " + inAP + "spec.rules: is required where action is DENY: without rules, nothing is denied"},
		"star in label":           {ap, "app: payment-service", "app: \"*\"", "policy: " + ap + ":2: policy \"payment-service-policy\" (production): Selector[\"app\"]: labels are exact, without `*`, and have a name"},
		"empty label":             {ap, "app: payment-service", "\"\": x", ap + ":10: " + inAP + `spec.selector.matchLabels[""]: the key is empty`},
		"unknown key":             {ap, "- from:", "- when:\n        - key: request.header[x]\n          values: [\"a\"]\n      from:", ap + ":13: " + inAP + `spec.rules[0].when[0].key: "request.header[x]": is not an attribute that gatemesh knows`},
		"envoy filter":            {ap, "- from:", "- when:\n        - key: experimental.envoy.filters.x[y]\n          values: [\"a\"]\n      from:", ap + ":13: " + inAP + `spec.rules[0].when[0].key: "experimental.envoy.filters.x[y]": is not an attribute that gatemesh knows`},
		"key of v1alpha1":         {ap, "- from:", "- when:\n        - key: destination.labels[version]\n          values: [\"a\"]\n      from:", ap + ":13: " + inAP + `spec.rules[0].when[0].key: "destination.labels[version]": is not an attribute that gatemesh knows`},
		"claim without name":      {ap, "- from:", "- when:\n        - key: request.auth.claims\n          values: [\"a\"]\n      from:", ap + ":13: " + inAP + `spec.rules[0].when[0].key: "request.auth.claims": claims are named request.auth.claims[NAME], and claims within claims request.auth.claims[A][B]`},
		"header of a credential":  {ap, "- from:", "- when:\n        - key: request.headers[authorization]\n          values: [\"a\"]\n      from:", ap + ":13: " + inAP + `spec.rules[0].when[0].key: "request.headers[authorization]": it carries a credential, which means nothing until it is verified; use request.auth`},
		"header of an identity":   {ap, "- from:", "- when:\n        - key: request.headers[X-Gatemesh-Identity]\n          values: [\"a\"]\n      from:", ap + ":13: " + inAP + `spec.rules[0].when[0].key: "request.headers[X-Gatemesh-Identity]": callers are known by what was verified, never by a field; use source.principal or request.auth`},
		"pseudo-header":           {ap, "- from:", "- when:\n        - key: request.headers[:method]\n          values: [\"a\"]\n      from:", ap + ":13: " + inAP + `spec.rules[0].when[0].key: "request.headers[:method]": host, method and path are compared in the fields hosts, methods and paths of an operation, in canonical form`},
		"no values":               {ap, "- from:", "- when:\n        - key: source.ip\n          position: 1\n      from:", ap + ":14: " + inAP + `spec.rules[0].when[0].position: unknown field`},
		"values empty":            {ap, "- from:", "- when:\n        - key: source.ip\n          notValues: []\n      from:", ap + ":14: " + inAP + `spec.rules[0].when[0].notValues: the list is empty; fill it, or leave it out`},
		"when ip":                 {ap, "- from:", "- when:\n        - key: source.ip\n          values: [\"10.0.0.1\", \"10.0.0.0/33\"]\n      from:", ap + ":14: " + inAP + `spec.rules[0].when[0].values[1]: "10.0.0.0/33": it is neither an IP address nor a CIDR prefix`},
		"when port":               {ap, "- from:", "- when:\n        - key: destination.port\n          notValues: [\"0\"]\n      from:", ap + ":14: " + inAP + `spec.rules[0].when[0].notValues[0]: "0": it is not a port number from 1 to 65535`},
		"when without values":     {ap, "- from:", "- when:\n        - key: source.ip\n      from:", ap + ":13: " + inAP + `spec.rules[0].when[0]: values or notValues is required`},
		"account and principals":  {ap, "principals:", "serviceAccounts: [\"a\"]\n            principals:", ap + ":14: " + inAP + `spec.rules[0].from[0].source: serviceAccounts cannot stand beside principals or namespaces`},
		"account with star":       {ap, "principals:\n              - \"cluster.local/ns/production/sa/order-service\"", "serviceAccounts: [\"a/*\"]", ap + ":14: " + inAP + `spec.rules[0].from[0].source.serviceAccounts[0]: "a/*": service accounts have the form "NAMESPACE/NAME" or "NAME", without ` + "`*`" + `, of at most 320 characters`},
		"account of three":        {ap, "principals:\n              - \"cluster.local/ns/production/sa/order-service\"", "notServiceAccounts: [\"a/b/c\"]", ap + ":14: " + inAP + `spec.rules[0].from[0].source.notServiceAccounts[0]: "a/b/c": service accounts have the form "NAMESPACE/NAME" or "NAME", without ` + "`*`" + `, of at most 320 characters`},
		"17 accounts":             {ap, "principals:\n              - \"cluster.local/ns/production/sa/order-service\"", "serviceAccounts: [a, b, c, d, e, f, g, h, i, j, k, l, m, o, p, q, r]", ap + ":14: " + inAP + `spec.rules[0].from[0].source.serviceAccounts: the list has 17 entries; at most 16 are allowed`},
		"template not last":       {ap, "/v1/payments/*", "/v1/{**}/x/{*}", ap + ":19: " + inAP + `spec.rules[0].to[0].operation.paths[0]: "/v1/{**}/x/{*}": in a path template {**} stands once and is the last operator`},
		"template in a segment":   {ap, "/v1/payments/*", "/v1/{*}.txt", ap + ":19: " + inAP + `spec.rules[0].to[0].operation.paths[0]: "/v1/{*}.txt": in a path template a segment is {*}, {**} or has no brace; a literal brace is written %7B or %7D`},
		"template and star":       {ap, "/v1/payments/*", "/v1/{*}/*", ap + ":19: " + inAP + `spec.rules[0].to[0].operation.paths[0]: "/v1/{*}/*": in a path template ` + "`*`" + ` stands in {*} and {**} alone, and other segments are of the characters of a path (RFC 3986 pchar)`},
		"custom without rules":    {ap, "  selector:\n    matchLabels:\n      app: payment-service\n  rules:\n    - from:\n        - source:\n            principals:\n              - \"cluster.local/ns/production/sa/order-service\"\n      to:\n        - operation:\n            methods: [\"POST\"]\n            paths: [\"/v1/payments/*\"]", "  action: CUSTOM\n  provider: {name: a}", ap + ":8: " + inAP + `spec.rules: is required where action is CUSTOM: without rules, nothing is asked`},
		"provider without CUSTOM": {ap, "selector:", "action: AUDIT\n  provider:\n    name: a\n  selector:", ap + ":10: " + inAP + `spec.provider: is for action CUSTOM alone, not AUDIT`},
		"target":                  {ap, "selector:", "targetRefs: [{kind: Service, group: gateway.networking.k8s.io, name: payment}]\n  selector:", ap + ":8: " + inAP + `spec.targetRefs[0].kind: Service is not supported by gatemesh; it must be Gateway`},
		"empty selector":          {ap, "matchLabels:\n      app: payment-service", "matchLabels: {}", ap + ":9: " + inAP + "spec.selector.matchLabels: the map is empty; fill it, or leave it out"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			folder := mesh(t)
			before := string(folder[tt.file].Data)
			after := strings.Replace(before, tt.old, tt.new, 1)
			require.NotEqual(t, before, after, "the change applies")
			folder[tt.file] = &fstest.MapFile{Data: []byte(after)}
			set, err := manifest.LoadFS(folder)
			assert.Nil(t, set)
			assert.EqualError(t, err, tt.want)
		})
	}
}

// mesh returns the good folder, in memory.
func mesh(t testing.TB) fstest.MapFS {
	t.Helper()
	out := fstest.MapFS{}
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	for _, e := range entries {
		out[e.Name()] = &fstest.MapFile{Data: []byte(read(t, e.Name()))}
	}
	return out
}
