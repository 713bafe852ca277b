// Package auth says who calls from outside: it verifies bearer tokens (JWT,
// RFC 7519, and others by introspection, RFC 7662; presented as RFC 6750 §2.1
// says) and API keys, and puts a [gatemesh.Principal] on the call.
//
//	keys := gatemesh.Must(auth.NewJWKS(auth.JWKSConfig{Discovery: "https://idp.example"}))
//	defer keys.Close()
//	who := gatemesh.Must(auth.New(auth.Config{Issuers: []auth.Issuer{{
//		Issuer: "https://idp.example", Audience: []string{"orders"}, Algorithms: []string{"RS256"}, Keys: keys,
//	}}}))
//
// # What is accepted
//
// One credential a call, from a header field. Two of them are refused, and so
// is one beside a query parameter that looks like another: which of them
// counted would be our choice and not the caller's.
//
// A call without any is refused, unless [Config.InsecureAnonymous] leaves it to
// the policy behind.
//
// A token has three segments of strict base64url, so that it has one spelling.
// Its JSON has no duplicate names, its registered names are spelled exactly,
// and it has an expiry. The issuer is chosen by iss, byte for byte, and from
// then on only that issuer's algorithms, keys and audiences count. Algorithms
// are a required list and every key is bound to the ones it is made for, so a
// public key is never used as an HMAC secret. golang-jwt checks the signature
// and nothing else: its own checks of claims are optional, match names in any
// case and let one token be spelled in several ways.
//
// Tokens that say nothing by themselves, and JWTs of other issuers, can be
// verified by asking: see [Opaque], with token introspection (RFC 7662) or a
// function of the application. What is said of them is judged like the claims of
// a JWT.
//
// # Where keys are
//
// [JWKSConfig.URL] names the key set itself, and [JWKSConfig.Discovery] the
// issuer, whose metadata names it. The latter follows an issuer that moves its
// keys, and trusts the metadata with where they are.
//
// # When the issuer is away
//
// Keys are fetched in the background. If that fails, the last good set is used
// until [JWKSConfig.MaxStale]; after that, and for keys that we do not have,
// tokens are refused with 401. These refusals carry a plain WWW-Authenticate
// field without error="invalid_token", so that clients keep their tokens.
// Nothing ever passes because a key could not be had.
//
// A token whose key we do not have waits for a fetch, if one may begin, and
// never past [JWKSConfig.FetchTimeout]. The third fetch in a row that fails
// opens a breaker of the key set's own: from then on, such tokens are refused
// at once and begin no fetch. The background goes on to probe, one fetch at a
// time, within two cool-downs each; an answer with Retry-After is heeded up to
// a minute. The first fetch that succeeds ends all that. Known keys and
// remembered tokens notice nothing.
//
// The same goes for tokens that are verified by asking: those that are
// remembered pass, the others are refused, and at once as soon as the breaker of
// [Opaque] is open. [Config.UnavailableStatus] makes that 503.
//
// # When the configuration changes
//
// [Authenticator.Update] and [JWKS.Update] replace a configuration while calls
// are judged. A key set that moves to another URL, Discovery or File is read there at once;
// the keys of the old place go when that has succeeded, and not before. Who has
// to be rid of them at once makes a new JWKS, gives it to Authenticator.Update
// and closes the old one: tokens are then refused until its keys are there.
//
// # What is remembered
//
// API keys are found by their hash in a [KeyStore]: a [KeySet], a [KeyFile], or
// one of your own, which remembers what it has loaded for as long as it wants.
//
// A verified token is remembered for [Config.CacheTTL], and never beyond its
// expiry, the configuration that it was judged by, or the presence of its
// signing key in the issuer's key set; [Revocations] end it at once. Refusals are
// not remembered, but for tokens that an [Opaque] found not good, for a moment.
package auth
