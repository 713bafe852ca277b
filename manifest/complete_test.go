package manifest

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// apiFields are all fields that the real APIs have, read from the types of
// Gateway API v1 (experimental channel included) and the protos of Istio's
// networking v1: kind, path of an object, and the names of its fields. A field
// of an object that is refused as a whole is not listed.
const apiFields = `
Gateway spec: gatewayClassName listeners addresses infrastructure allowedListeners tls defaultScope
Gateway spec.listeners[]: name hostname port protocol tls allowedRoutes
Gateway spec.listeners[].tls: mode certificateRefs options
Gateway spec.listeners[].tls.certificateRefs[]: group kind name namespace
Gateway spec.listeners[].allowedRoutes: namespaces kinds
Gateway spec.listeners[].allowedRoutes.namespaces: from selector
Gateway spec.listeners[].allowedRoutes.namespaces.selector: matchLabels matchExpressions
Gateway spec.listeners[].allowedRoutes.namespaces.selector.matchExpressions[]: key operator values
Gateway spec.listeners[].allowedRoutes.kinds[]: group kind
ReferenceGrant spec: from to
ReferenceGrant spec.from[]: group kind namespace
ReferenceGrant spec.to[]: group kind name
HTTPRoute spec: parentRefs useDefaultGateways hostnames rules
HTTPRoute spec.parentRefs[]: group kind namespace name sectionName port
HTTPRoute spec.rules[]: name matches filters backendRefs timeouts retry sessionPersistence
HTTPRoute spec.rules[].matches[]: path headers queryParams method
HTTPRoute spec.rules[].matches[].path: type value
HTTPRoute spec.rules[].matches[].headers[]: type name value
HTTPRoute spec.rules[].matches[].queryParams[]: type name value
HTTPRoute spec.rules[].filters[]: type requestHeaderModifier responseHeaderModifier requestMirror requestRedirect urlRewrite cors externalAuth extensionRef
HTTPRoute spec.rules[].filters[].requestHeaderModifier: set add remove
HTTPRoute spec.rules[].filters[].requestHeaderModifier.set[]: name value
HTTPRoute spec.rules[].filters[].requestHeaderModifier.add[]: name value
HTTPRoute spec.rules[].filters[].responseHeaderModifier: set add remove
HTTPRoute spec.rules[].filters[].responseHeaderModifier.set[]: name value
HTTPRoute spec.rules[].filters[].responseHeaderModifier.add[]: name value
HTTPRoute spec.rules[].filters[].requestMirror: backendRef percent fraction
HTTPRoute spec.rules[].filters[].requestMirror.backendRef: group kind name namespace port
HTTPRoute spec.rules[].filters[].requestMirror.fraction: numerator denominator
HTTPRoute spec.rules[].filters[].requestRedirect: scheme hostname path port statusCode
HTTPRoute spec.rules[].filters[].requestRedirect.path: type replaceFullPath replacePrefixMatch
HTTPRoute spec.rules[].filters[].urlRewrite: hostname path
HTTPRoute spec.rules[].filters[].urlRewrite.path: type replaceFullPath replacePrefixMatch
HTTPRoute spec.rules[].filters[].cors: allowOrigins allowCredentials allowMethods allowHeaders exposeHeaders maxAge
HTTPRoute spec.rules[].backendRefs[]: group kind name namespace port weight filters
HTTPRoute spec.rules[].backendRefs[].filters[]: type requestHeaderModifier responseHeaderModifier requestMirror requestRedirect urlRewrite cors externalAuth extensionRef
HTTPRoute spec.rules[].backendRefs[].filters[].requestHeaderModifier: set add remove
HTTPRoute spec.rules[].backendRefs[].filters[].requestHeaderModifier.set[]: name value
HTTPRoute spec.rules[].backendRefs[].filters[].requestHeaderModifier.add[]: name value
HTTPRoute spec.rules[].backendRefs[].filters[].responseHeaderModifier: set add remove
HTTPRoute spec.rules[].backendRefs[].filters[].responseHeaderModifier.set[]: name value
HTTPRoute spec.rules[].backendRefs[].filters[].responseHeaderModifier.add[]: name value
HTTPRoute spec.rules[].backendRefs[].filters[].requestMirror: backendRef percent fraction
HTTPRoute spec.rules[].backendRefs[].filters[].requestMirror.backendRef: group kind name namespace port
HTTPRoute spec.rules[].backendRefs[].filters[].requestMirror.fraction: numerator denominator
HTTPRoute spec.rules[].backendRefs[].filters[].urlRewrite: hostname path
HTTPRoute spec.rules[].backendRefs[].filters[].urlRewrite.path: type replaceFullPath replacePrefixMatch
HTTPRoute spec.rules[].timeouts: request backendRequest
HTTPRoute spec.rules[].retry: codes attempts backoff
GRPCRoute spec: parentRefs useDefaultGateways hostnames rules
GRPCRoute spec.parentRefs[]: group kind namespace name sectionName port
GRPCRoute spec.rules[]: name matches filters backendRefs sessionPersistence
GRPCRoute spec.rules[].matches[]: method headers
GRPCRoute spec.rules[].matches[].method: type service method
GRPCRoute spec.rules[].matches[].headers[]: type name value
GRPCRoute spec.rules[].filters[]: type requestHeaderModifier responseHeaderModifier requestMirror extensionRef
GRPCRoute spec.rules[].filters[].requestHeaderModifier: set add remove
GRPCRoute spec.rules[].filters[].requestHeaderModifier.set[]: name value
GRPCRoute spec.rules[].filters[].requestHeaderModifier.add[]: name value
GRPCRoute spec.rules[].filters[].responseHeaderModifier: set add remove
GRPCRoute spec.rules[].filters[].responseHeaderModifier.set[]: name value
GRPCRoute spec.rules[].filters[].responseHeaderModifier.add[]: name value
GRPCRoute spec.rules[].filters[].requestMirror: backendRef percent fraction
GRPCRoute spec.rules[].filters[].requestMirror.backendRef: group kind name namespace port
GRPCRoute spec.rules[].filters[].requestMirror.fraction: numerator denominator
GRPCRoute spec.rules[].backendRefs[]: group kind name namespace port weight filters
GRPCRoute spec.rules[].backendRefs[].filters[]: type requestHeaderModifier responseHeaderModifier requestMirror extensionRef
GRPCRoute spec.rules[].backendRefs[].filters[].requestHeaderModifier: set add remove
GRPCRoute spec.rules[].backendRefs[].filters[].requestHeaderModifier.set[]: name value
GRPCRoute spec.rules[].backendRefs[].filters[].requestHeaderModifier.add[]: name value
GRPCRoute spec.rules[].backendRefs[].filters[].responseHeaderModifier: set add remove
GRPCRoute spec.rules[].backendRefs[].filters[].responseHeaderModifier.set[]: name value
GRPCRoute spec.rules[].backendRefs[].filters[].responseHeaderModifier.add[]: name value
GRPCRoute spec.rules[].backendRefs[].filters[].requestMirror: backendRef percent fraction
GRPCRoute spec.rules[].backendRefs[].filters[].requestMirror.backendRef: group kind name namespace port
GRPCRoute spec.rules[].backendRefs[].filters[].requestMirror.fraction: numerator denominator
VirtualService spec: hosts gateways http tls tcp exportTo
VirtualService spec.http[]: name match route redirect directResponse delegate rewrite timeout retries fault mirror mirrors mirrorPercent mirrorPercentage corsPolicy headers
VirtualService spec.http[].match[]: name uri scheme method authority headers port sourceLabels gateways queryParams ignoreUriCase withoutHeaders sourceNamespace statPrefix
VirtualService spec.http[].match[].uri: exact prefix regex
VirtualService spec.http[].match[].scheme: exact prefix regex
VirtualService spec.http[].match[].method: exact prefix regex
VirtualService spec.http[].match[].authority: exact prefix regex
VirtualService spec.http[].match[].headers.*: exact prefix regex
VirtualService spec.http[].match[].withoutHeaders.*: exact prefix regex
VirtualService spec.http[].match[].queryParams.*: exact prefix regex
VirtualService spec.http[].route[]: destination weight headers
VirtualService spec.http[].route[].destination: host subset port
VirtualService spec.http[].route[].destination.port: number
VirtualService spec.http[].route[].headers: request response
VirtualService spec.http[].route[].headers.request: set add remove
VirtualService spec.http[].route[].headers.response: set add remove
VirtualService spec.http[].redirect: uri authority port derivePort scheme redirectCode
VirtualService spec.http[].directResponse: status body
VirtualService spec.http[].directResponse.body: string bytes
VirtualService spec.http[].rewrite: uri authority uriRegexRewrite
VirtualService spec.http[].rewrite.uriRegexRewrite: match rewrite
VirtualService spec.http[].retries: attempts perTryTimeout retryOn retryRemoteLocalities retryIgnorePreviousHosts backoff
VirtualService spec.http[].fault: delay abort
VirtualService spec.http[].fault.delay: percent fixedDelay exponentialDelay percentage
VirtualService spec.http[].fault.delay.percentage: value
VirtualService spec.http[].fault.abort: httpStatus grpcStatus http2Error percentage
VirtualService spec.http[].fault.abort.percentage: value
VirtualService spec.http[].mirror: host subset port
VirtualService spec.http[].mirror.port: number
VirtualService spec.http[].mirrors[]: destination percentage
VirtualService spec.http[].mirrors[].destination: host subset port
VirtualService spec.http[].mirrors[].destination.port: number
VirtualService spec.http[].mirrors[].percentage: value
VirtualService spec.http[].mirrorPercentage: value
VirtualService spec.http[].corsPolicy: allowOrigin allowOrigins allowMethods allowHeaders exposeHeaders maxAge allowCredentials unmatchedPreflights
VirtualService spec.http[].corsPolicy.allowOrigins[]: exact prefix regex
VirtualService spec.http[].headers: request response
VirtualService spec.http[].headers.request: set add remove
VirtualService spec.http[].headers.response: set add remove
DestinationRule spec: host trafficPolicy subsets exportTo workloadSelector
DestinationRule spec.subsets[]: name labels trafficPolicy
DestinationRule spec.trafficPolicy: loadBalancer connectionPool outlierDetection tls portLevelSettings tunnel proxyProtocol retryBudget
DestinationRule spec.trafficPolicy.portLevelSettings[]: port loadBalancer connectionPool outlierDetection tls
DestinationRule spec.trafficPolicy.portLevelSettings[].port: number
DestinationRule spec.trafficPolicy.portLevelSettings[].loadBalancer: simple consistentHash localityLbSetting warmupDurationSecs warmup
DestinationRule spec.trafficPolicy.portLevelSettings[].outlierDetection: consecutiveErrors splitExternalLocalOriginErrors consecutiveLocalOriginFailures consecutiveGatewayErrors consecutive5xxErrors interval baseEjectionTime maxEjectionPercent minHealthPercent
DestinationRule spec.trafficPolicy.loadBalancer: simple consistentHash localityLbSetting warmupDurationSecs warmup
DestinationRule spec.trafficPolicy.loadBalancer.consistentHash: httpHeaderName httpCookie useSourceIp httpQueryParameterName ringHash maglev minimumRingSize
DestinationRule spec.trafficPolicy.loadBalancer.consistentHash.httpCookie: name path ttl
DestinationRule spec.trafficPolicy.loadBalancer.warmup: duration minimumPercent aggression
DestinationRule spec.trafficPolicy.outlierDetection: consecutiveErrors splitExternalLocalOriginErrors consecutiveLocalOriginFailures consecutiveGatewayErrors consecutive5xxErrors interval baseEjectionTime maxEjectionPercent minHealthPercent
`

// Every field of the real APIs is supported or refused by name, and nothing is
// supported that they have not.
func TestFieldsAreComplete(t *testing.T) {
	t.Parallel()
	real := make(map[string][]string)
	for line := range strings.Lines(strings.TrimSpace(apiFields)) {
		place, names, found := strings.Cut(strings.TrimSpace(line), ": ")
		require.True(t, found, line)
		real[place] = strings.Fields(names)
	}
	seen := make(map[string]bool)
	for _, k := range kinds() {
		if real[k.name+" spec"] == nil {
			continue
		}
		spec, _ := k.object.FieldByName("Spec")
		compareFields(t, real, seen, k.name+" spec", spec.Type)
	}
	for place := range real {
		assert.True(t, seen[place], "%s is nowhere", place)
	}
}

func compareFields(t *testing.T, real map[string][]string, seen map[string]bool, place string, typ reflect.Type) {
	t.Helper()
	fields, up := fieldsOf(typ)
	seen[place] = true
	for _, name := range real[place] {
		_, known := find(fields, name)
		assert.True(t, known != slices.Contains(up.fields, name), "%s.%s is supported or refused", place, name)
	}
	for _, f := range fields {
		// What stands several times in DestinationRules is listed once.
		if listed := real[place]; listed != nil {
			assert.Contains(t, listed, f.name, place)
		} else {
			assert.True(t, strings.HasPrefix(place, "DestinationRule spec.subsets[].trafficPolicy") || strings.Contains(place, "portLevelSettings[]"), "%s is listed", place)
		}
		elem, next := typ.Field(f.index).Type, place+"."+f.name
		if f.checks.keyed {
			elem, next = elem.Elem(), next+".*"
		} else if elem.Kind() == reflect.Slice {
			elem, next = elem.Elem(), next+"[]"
		}
		if _, isLeaf := reflect.New(elem).Interface().(leaf); !isLeaf {
			compareFields(t, real, seen, next, elem)
		}
	}
}
