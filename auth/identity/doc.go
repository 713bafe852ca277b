// Package identity carries the user of a call through a mesh as a signed
// internal token, modelled on IETF transaction tokens
// (draft-ietf-oauth-transaction-tokens).
//
// The edge authenticates a caller by whatever means (package auth) and its
// [Minter] writes who it was into [gatemesh.IdentityHeader] of the calls it
// makes. A service's [Verifier] reads the field into the [gatemesh.Principal]
// of its own call, and [Forward] hands it on, unchanged, to the services behind.
// Only the edge has the signing key: a service can pass a user on, but cannot
// invent one. The external credential itself never enters the mesh.
//
// A token says who the user is and not who is calling. Whoever has seen one
// can present it until it expires, so the callee should judge two things
// together: the user (this package) and the calling workload (package mtls).
//
// # Token
//
// A token is a JWS in compact form (RFC 7515 §3.1), signed with Ed25519
// (RFC 8037). Its header is exactly
//
//	{"alg":"EdDSA","kid":"ID","typ":"gatemesh-id+jwt"}
//
// with ID of 1 to 64 letters, digits, '.', '_' and '-'. Since there is just one
// legal header for a key, a Verifier compares it byte by byte and parses no JSON
// before the signature has been verified: no algorithm can be negotiated, no
// key be brought along, no parser be attacked. That, and that a few lines of
// crypto/ed25519 do it, is why no JWT library is used here. Any JWT library can
// read the tokens.
//
// The payload has these claims:
//
//	iss          string   MinterConfig.Issuer
//	aud          array    MinterConfig.Audience, such as the trust domain
//	iat, exp     integer  seconds; exp is never after the external credential's end
//	sub          string   Principal.Subject; absent if empty
//	client_id    string   Principal.Consumer (RFC 8693 §4.3); absent if empty
//	scp          array    Principal.Scopes; an array, because a scope with a
//	                      space in it would be two in the scope of RFC 8693 §4.2
//	orig_iss     string   Principal.Issuer, who vouches for sub
//	orig_method  string   Principal.Method, such as "jwt" or "api-key"
//	lane         string   Call.Lane, so that the whole call tree stays on one version
//	claims       object   what MinterConfig.Claims names, apart from the others,
//	                      so that no claim of a user can be taken for one of ours
//
// There is no jti or txn: a token is reused for many calls, and the request id
// is what ties the calls of one request together. Claims that a Verifier does
// not know are ignored (RFC 7519 §4), so that edge and services can be upgraded
// in any order.
//
// The Verifier's Principal has Method "identity", the Issuer, Subject, Consumer
// and Scopes that the edge saw, the token's Audience and its exp as Expires, and
// as Claims those of the token and, under the name [MethodClaim], orig_method.
//
// # Rotation
//
// Verifiers must know a key before it signs and for as long as its tokens live:
//
//  1. [Minter.Update] with the new key in Next. It is published in the JWKS.
//     Wait until every verifier has fetched it.
//  2. Update with it as Key and the old one in Previous. Calls go on without a
//     failure. Wait for Lifetime and the verifiers' Leeway.
//  3. Update without the old key. Verifiers refuse its tokens as soon as they
//     learn of it, those they have verified before included.
//
// If a key has leaked, go to the last step at once.
//
// # Failure
//
// Everything fails closed. A token that cannot be minted denies the outbound
// call, a token that does not verify denies the inbound one with 401, also
// where an absent one would be admitted ([VerifierConfig.Optional]). An unknown
// key is a denial and fetches nothing.
package identity
