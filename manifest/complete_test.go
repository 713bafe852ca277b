package manifest

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// apiFields are all fields that the real APIs have: kind, path of an object, and
// the names of its fields, as the CRDs have them: of the Gateway API v1.7.0, the
// experimental channel, and of Istio 1.32. A field of an object that is refused
// as a whole is not listed, and what stands several times in DestinationRules is
// listed once.
const apiFields = `
Gateway spec: addresses allowedListeners defaultScope gatewayClassName infrastructure listeners tls
Gateway spec.listeners[]: allowedRoutes filters hostname name port protocol tls
Gateway spec.listeners[].allowedRoutes: kinds namespaces
Gateway spec.listeners[].allowedRoutes.kinds[]: group kind
Gateway spec.listeners[].allowedRoutes.namespaces: from selector
Gateway spec.listeners[].allowedRoutes.namespaces.selector: matchExpressions matchLabels
Gateway spec.listeners[].allowedRoutes.namespaces.selector.matchExpressions[]: key operator values
Gateway spec.listeners[].tls: certificateRefs mode options
Gateway spec.listeners[].tls.certificateRefs[]: group kind name namespace
ReferenceGrant spec: from to
ReferenceGrant spec.from[]: group kind namespace
ReferenceGrant spec.to[]: group kind name
HTTPRoute spec: hostnames parentRefs rules useDefaultGateways
HTTPRoute spec.parentRefs[]: group kind name namespace port sectionName
HTTPRoute spec.rules[]: backendRefs filters matches name retry sessionPersistence timeouts
HTTPRoute spec.rules[].backendRefs[]: filters group kind name namespace port weight
HTTPRoute spec.rules[].backendRefs[].filters[]: cors extensionRef externalAuth requestHeaderModifier requestMirror requestRedirect responseHeaderModifier type urlRewrite
HTTPRoute spec.rules[].backendRefs[].filters[].requestHeaderModifier: add remove set
HTTPRoute spec.rules[].backendRefs[].filters[].requestHeaderModifier.add[]: name value
HTTPRoute spec.rules[].backendRefs[].filters[].requestHeaderModifier.set[]: name value
HTTPRoute spec.rules[].backendRefs[].filters[].requestMirror: backendRef fraction percent
HTTPRoute spec.rules[].backendRefs[].filters[].requestMirror.backendRef: group kind name namespace port
HTTPRoute spec.rules[].backendRefs[].filters[].requestMirror.fraction: denominator numerator
HTTPRoute spec.rules[].backendRefs[].filters[].responseHeaderModifier: add remove set
HTTPRoute spec.rules[].backendRefs[].filters[].responseHeaderModifier.add[]: name value
HTTPRoute spec.rules[].backendRefs[].filters[].responseHeaderModifier.set[]: name value
HTTPRoute spec.rules[].backendRefs[].filters[].urlRewrite: hostname path
HTTPRoute spec.rules[].backendRefs[].filters[].urlRewrite.path: replaceFullPath replacePrefixMatch type
HTTPRoute spec.rules[].filters[]: cors extensionRef externalAuth requestHeaderModifier requestMirror requestRedirect responseHeaderModifier type urlRewrite
HTTPRoute spec.rules[].filters[].cors: allowCredentials allowHeaders allowMethods allowOrigins exposeHeaders maxAge
HTTPRoute spec.rules[].filters[].requestHeaderModifier: add remove set
HTTPRoute spec.rules[].filters[].requestHeaderModifier.add[]: name value
HTTPRoute spec.rules[].filters[].requestHeaderModifier.set[]: name value
HTTPRoute spec.rules[].filters[].requestMirror: backendRef fraction percent
HTTPRoute spec.rules[].filters[].requestMirror.backendRef: group kind name namespace port
HTTPRoute spec.rules[].filters[].requestMirror.fraction: denominator numerator
HTTPRoute spec.rules[].filters[].requestRedirect: hostname path port scheme statusCode
HTTPRoute spec.rules[].filters[].requestRedirect.path: replaceFullPath replacePrefixMatch type
HTTPRoute spec.rules[].filters[].responseHeaderModifier: add remove set
HTTPRoute spec.rules[].filters[].responseHeaderModifier.add[]: name value
HTTPRoute spec.rules[].filters[].responseHeaderModifier.set[]: name value
HTTPRoute spec.rules[].filters[].urlRewrite: hostname path
HTTPRoute spec.rules[].filters[].urlRewrite.path: replaceFullPath replacePrefixMatch type
HTTPRoute spec.rules[].matches[]: headers method path queryParams
HTTPRoute spec.rules[].matches[].headers[]: name type value
HTTPRoute spec.rules[].matches[].path: type value
HTTPRoute spec.rules[].matches[].queryParams[]: name type value
HTTPRoute spec.rules[].retry: attempts backoff codes
HTTPRoute spec.rules[].timeouts: backendRequest request
GRPCRoute spec: hostnames parentRefs rules useDefaultGateways
GRPCRoute spec.parentRefs[]: group kind name namespace port sectionName
GRPCRoute spec.rules[]: backendRefs filters matches name sessionPersistence
GRPCRoute spec.rules[].backendRefs[]: filters group kind name namespace port weight
GRPCRoute spec.rules[].backendRefs[].filters[]: extensionRef requestHeaderModifier requestMirror responseHeaderModifier type
GRPCRoute spec.rules[].backendRefs[].filters[].requestHeaderModifier: add remove set
GRPCRoute spec.rules[].backendRefs[].filters[].requestHeaderModifier.add[]: name value
GRPCRoute spec.rules[].backendRefs[].filters[].requestHeaderModifier.set[]: name value
GRPCRoute spec.rules[].backendRefs[].filters[].requestMirror: backendRef fraction percent
GRPCRoute spec.rules[].backendRefs[].filters[].requestMirror.backendRef: group kind name namespace port
GRPCRoute spec.rules[].backendRefs[].filters[].requestMirror.fraction: denominator numerator
GRPCRoute spec.rules[].backendRefs[].filters[].responseHeaderModifier: add remove set
GRPCRoute spec.rules[].backendRefs[].filters[].responseHeaderModifier.add[]: name value
GRPCRoute spec.rules[].backendRefs[].filters[].responseHeaderModifier.set[]: name value
GRPCRoute spec.rules[].filters[]: extensionRef requestHeaderModifier requestMirror responseHeaderModifier type
GRPCRoute spec.rules[].filters[].requestHeaderModifier: add remove set
GRPCRoute spec.rules[].filters[].requestHeaderModifier.add[]: name value
GRPCRoute spec.rules[].filters[].requestHeaderModifier.set[]: name value
GRPCRoute spec.rules[].filters[].requestMirror: backendRef fraction percent
GRPCRoute spec.rules[].filters[].requestMirror.backendRef: group kind name namespace port
GRPCRoute spec.rules[].filters[].requestMirror.fraction: denominator numerator
GRPCRoute spec.rules[].filters[].responseHeaderModifier: add remove set
GRPCRoute spec.rules[].filters[].responseHeaderModifier.add[]: name value
GRPCRoute spec.rules[].filters[].responseHeaderModifier.set[]: name value
GRPCRoute spec.rules[].matches[]: headers method
GRPCRoute spec.rules[].matches[].headers[]: name type value
GRPCRoute spec.rules[].matches[].method: method service type
VirtualService spec: exportTo gateways hosts http tcp tls
VirtualService spec.http[]: corsPolicy delegate directResponse fault headers match mirror mirror_percent mirrorPercent mirrorPercentage mirrors name redirect retries rewrite route timeout
VirtualService spec.http[].corsPolicy: allowCredentials allowHeaders allowMethods allowOrigin allowOrigins exposeHeaders maxAge unmatchedPreflights
VirtualService spec.http[].corsPolicy.allowOrigins[]: exact prefix regex
VirtualService spec.http[].directResponse: body status
VirtualService spec.http[].directResponse.body: bytes string
VirtualService spec.http[].fault: abort delay
VirtualService spec.http[].fault.abort: grpcStatus http2Error httpStatus percentage
VirtualService spec.http[].fault.abort.percentage: value
VirtualService spec.http[].fault.delay: exponentialDelay fixedDelay percent percentage
VirtualService spec.http[].fault.delay.percentage: value
VirtualService spec.http[].headers: request response
VirtualService spec.http[].headers.request: add remove set
VirtualService spec.http[].headers.response: add remove set
VirtualService spec.http[].match[]: authority gateways headers ignoreUriCase method name port queryParams scheme sourceLabels sourceNamespace statPrefix uri withoutHeaders
VirtualService spec.http[].match[].authority: exact prefix regex
VirtualService spec.http[].match[].headers.*: exact prefix regex
VirtualService spec.http[].match[].method: exact prefix regex
VirtualService spec.http[].match[].queryParams.*: exact prefix regex
VirtualService spec.http[].match[].scheme: exact prefix regex
VirtualService spec.http[].match[].uri: exact prefix regex
VirtualService spec.http[].match[].withoutHeaders.*: exact prefix regex
VirtualService spec.http[].mirror: host port subset
VirtualService spec.http[].mirror.port: number
VirtualService spec.http[].mirrorPercentage: value
VirtualService spec.http[].mirrors[]: destination percentage
VirtualService spec.http[].mirrors[].destination: host port subset
VirtualService spec.http[].mirrors[].destination.port: number
VirtualService spec.http[].mirrors[].percentage: value
VirtualService spec.http[].redirect: authority derivePort port prefixRewrite redirectCode scheme uri
VirtualService spec.http[].retries: attempts backoff perTryTimeout retryIgnorePreviousHosts retryOn retryRemoteLocalities
VirtualService spec.http[].rewrite: authority uri uriRegexRewrite
VirtualService spec.http[].rewrite.uriRegexRewrite: match rewrite
VirtualService spec.http[].route[]: destination headers weight
VirtualService spec.http[].route[].destination: host port subset
VirtualService spec.http[].route[].destination.port: number
VirtualService spec.http[].route[].headers: request response
VirtualService spec.http[].route[].headers.request: add remove set
VirtualService spec.http[].route[].headers.response: add remove set
DestinationRule spec: exportTo host subsets trafficPolicy workloadSelector
DestinationRule spec.subsets[]: labels name trafficPolicy
DestinationRule spec.trafficPolicy: connectionPool loadBalancer outlierDetection portLevelSettings proxyProtocol retryBudget tls tunnel
DestinationRule spec.trafficPolicy.loadBalancer: backendUtilization consistentHash localityLbSetting simple warmup warmupDurationSecs zoneAwareLbSetting
DestinationRule spec.trafficPolicy.loadBalancer.consistentHash: httpCookie httpHeaderName httpQueryParameterName maglev minimumRingSize ringHash useSourceIp
DestinationRule spec.trafficPolicy.loadBalancer.consistentHash.httpCookie: attributes name path ttl
DestinationRule spec.trafficPolicy.loadBalancer.warmup: aggression duration minimumPercent
DestinationRule spec.trafficPolicy.outlierDetection: baseEjectionTime consecutive5xxErrors consecutiveErrors consecutiveGatewayErrors consecutiveLocalOriginFailures failurePercentageThreshold interval maxEjectionPercent minHealthPercent outlierDetectionHttpErrorCodes splitExternalLocalOriginErrors
DestinationRule spec.trafficPolicy.portLevelSettings[]: connectionPool loadBalancer outlierDetection port tls
DestinationRule spec.trafficPolicy.portLevelSettings[].port: number
DestinationRule spec.trafficPolicy.tls: caCertCredentialName caCertificates caCrl clientCertificate credentialName insecureSkipVerify mode privateKey sni subjectAltNames
AuthorizationPolicy spec: action provider rules selector targetRef targetRefs
AuthorizationPolicy spec.provider: name
AuthorizationPolicy spec.rules[]: from to when
AuthorizationPolicy spec.rules[].from[]: source
AuthorizationPolicy spec.rules[].from[].source: ipBlocks namespaces notIpBlocks notNamespaces notPrincipals notRemoteIpBlocks notRequestPrincipals notServiceAccounts notTrustDomains principals remoteIpBlocks requestPrincipals serviceAccounts trustDomains
AuthorizationPolicy spec.rules[].to[]: operation
AuthorizationPolicy spec.rules[].to[].operation: hosts methods notHosts notMethods notPaths notPorts paths ports
AuthorizationPolicy spec.rules[].when[]: key notValues values
AuthorizationPolicy spec.selector: matchLabels
AuthorizationPolicy spec.targetRefs[]: group kind name namespace
PeerAuthentication spec: mtls portLevelMtls selector
PeerAuthentication spec.mtls: mode
PeerAuthentication spec.portLevelMtls.*: mode
PeerAuthentication spec.selector: matchLabels
RequestAuthentication spec: jwtRules selector targetRef targetRefs
RequestAuthentication spec.jwtRules[]: audiences forwardOriginalToken fromCookies fromHeaders fromParams issuer jwks jwks_uri jwksUri outputClaimToHeaders outputPayloadToHeader presence spaceDelimitedClaims timeout
RequestAuthentication spec.jwtRules[].fromHeaders[]: name prefix
RequestAuthentication spec.selector: matchLabels
RequestAuthentication spec.targetRefs[]: group kind name namespace
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
	listed := real[place]
	if once := strings.Replace(place, "subsets[].", "", 1); listed == nil {
		listed = real[once]
		if listed == nil {
			listed = real[strings.Replace(once, "portLevelSettings[].", "", 1)]
		}
	}
	assert.NotEmpty(t, listed, "%s is listed", place)
	seen[place] = true
	for _, name := range listed {
		_, known := find(fields, name)
		assert.True(t, known != slices.Contains(up.fields, name), "%s.%s is supported or refused", place, name)
	}
	for _, name := range up.fields {
		assert.Contains(t, listed, name, place)
	}
	for _, f := range fields {
		assert.Contains(t, listed, f.name, place)
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
