package policytest_test

import (
	"bytes"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/policy"
	"github.com/gatemesh-go/gatemesh/auth/policy/policytest"
)

func TestParseCasesFaults(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"allow":                              "the caller is missing",
		"allow a":                            "the method is missing",
		"allow a GET":                        "the path is missing",
		"Allow a GET /x":                     `the verdict "Allow" is neither allow nor deny`,
		"allow a GET x":                      "path must start with a slash",
		"allow a GET /x?y":                   "question mark",
		"allow a get /x":                     "method",
		"allow a@b GET /x":                   `caller "a@b" is no`,
		"allow a GET /x verb=1":              "verb: there is no such field; there are host, port",
		"allow a GET /x header.=1":           "header.: there is no such field",
		"allow a GET /x header.a:b=1":        "header.a:b: it is no name",
		"allow a GET /x # why":               `"#" is not NAME=VALUE`,
		"allow a GET /x host":                `"host" is not NAME=VALUE`,
		"allow a GET /x host=":               "host: the value is empty or must be quoted",
		`allow a GET /x host=""`:             "host: the value is empty",
		"allow a GET /x host=A.test":         `host: "A.test" is not in canonical form, "a.test" is`,
		"allow a GET /x host=a.test:80":      "the port has a field of its own",
		"allow a GET /x host=a host=b":       "host stands twice",
		"allow a GET /x port=0":              "port: it is not a port number",
		"allow a GET /x port=x":              "port: it is not a port number",
		"allow a GET /x from=x":              "from: ",
		"allow a GET /x client=1.2.3":        "client: ",
		"allow a GET /x to=::g":              "to: ",
		`allow a GET /x sni="a`:              "sni: the quoted value does not end",
		`allow a GET /x sni="a"b`:            "sni: there is no space after the value",
		`allow a GET /x sni=a"b`:             "sni: the value is empty or must be quoted",
		"allow a GET /x claims=[]":           "claims: it is not a JSON object",
		"allow a GET /x claims=null":         "claims: it is not a JSON object",
		"allow a GET /x claims={":            "claims: it is not a JSON object",
		"allow a GET /x claims={}x=1":        "claims: there is no space after the value",
		"allow a GET /x claims={} claims={}": "claims stands twice",
		"allow a GET /x subject=\xff":        "not UTF-8",
		"allow\ta GET /x":                    "the path is missing",
	} {
		cases, err := policytest.ParseCases("t.cases", []byte("# first\n\nallow a GET /x\n"+line+"\n"))
		assert.Nil(t, cases)
		assert.ErrorContains(t, err, "t.cases:4: ", line)
		assert.ErrorContains(t, err, want, line)
	}
	_, err := policytest.ParseCases("t.cases", []byte("x\r\nallow a GET /x\r\ny"))
	assert.ErrorContains(t, err, "t.cases:1: ")
	assert.ErrorContains(t, err, "t.cases:3: ", "all at once")
}

func TestFormatCases(t *testing.T) {
	t.Parallel()
	const table = `allow order-service POST /v1/payments/42 host=api.example.com port=8443 from=10.1.2.3 client=2001:db8::1 to=10.9.9.9 sni=x header.X-A="" header.X-A="a b" issuer=https://idp subject="a\tb" scope=a scope=b audience=c claims={"n":1e3,"r":["x y"]}
deny  anonymous     GRPC /a.B/C
`
	cases, err := policytest.ParseCases("t", []byte(table))
	require.NoError(t, err)
	assert.Equal(t, table, policytest.FormatCases(cases))
	assert.Equal(t, gatemesh.Position{File: "t", Line: 2}, cases[1].Position)
	assert.Equal(t, http.Header{"X-A": {"", "a b"}}, cases[0].Header)
	assert.Equal(t, "deny anonymous GRPC /a.B/C", cases[1].String())
}

// What is read is written in a form that is read as the same.
func FuzzParseCases(f *testing.F) {
	for _, s := range []string{
		"allow a GET /x", "# c\n\ndeny anonymous GRPC /a.B/C host=h port=1\n", `allow a.b PUT /x header.A="" header.a=b claims={"a": [1, {"b": null}]}`,
		"deny spiffe://td/a/b GET /%2A subject=\"\\u2028\" issuer={ scope=x", `allow td/a GET / from=::ffff:1.2.3.4 client=fe80::1%eth0`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		cases, err := policytest.ParseCases("f", data)
		if err != nil {
			return
		}
		again, err := policytest.ParseCases("f", []byte(policytest.FormatCases(cases)))
		require.NoError(t, err)
		require.Len(t, again, len(cases))
		for i := range cases {
			cases[i].Position, again[i].Position = gatemesh.Position{}, gatemesh.Position{}
		}
		require.Equal(t, cases, again)
	})
}

// What a dry run exports passes under the candidate, and fails under the live
// policies in every line.
func TestExportedTable(t *testing.T) {
	t.Parallel()
	live := []policy.Policy{{Name: "live", Namespace: "production", Rules: []policy.Rule{
		operation(policy.Operation{Paths: []string{"/v1/*", "/a.B/*"}}), when("request.headers[X-Role]", "admin"),
	}}}
	candidate := []policy.Policy{{Name: "next", Namespace: "production", Rules: []policy.Rule{
		source(policy.Source{IPBlocks: []string{"10.0.0.0/8"}}), source(policy.Source{RequestPrincipals: []string{"https://idp/*"}}), operation(policy.Operation{Hosts: []string{"new.example.com"}}),
	}}}
	cfg := policy.Config{Workload: self, Unselected: policy.Deny, Policies: live, Candidate: &policy.Candidate{Policies: candidate}}
	engine := gatemesh.Must(policy.New(cfg))
	peer := gatemesh.Must(gatemesh.NewPeer("cluster.local", "/ns/shop/sa/cart", nil))
	odd := gatemesh.Must(gatemesh.NewPeer("cluster.local", "/not+valid", nil))
	newline := gatemesh.Must(gatemesh.NewPeer("cluster.local", "/a GET /x\nallow anonymous GET /admin", nil))
	calls := []gatemesh.CallInfo{
		{Path: "/v1/x", Peer: peer, Host: "a.test"}, {Path: "/v1/x"}, {Path: "/v1/%2Ax:y"}, {Path: "/a.B/C", Protocol: gatemesh.GRPC},
		{Path: "/other", Principal: gatemesh.NewPrincipal(gatemesh.PrincipalInfo{Issuer: "https://idp", Subject: "a b"})},
		{Path: "/other", Host: "new.example.com", SNI: "x"}, {Path: "/other", Header: http.Header{"X-Role": {"admin"}}}, {Path: "/v1/x", Peer: odd}, {Path: "/v1/x", Peer: newline},
	}
	for _, in := range calls {
		_, _ = engine.Admit(t.Context(), gatemesh.Must(gatemesh.NewCall(in)))
	}
	run, ok := engine.DryRun()
	require.True(t, ok)
	var table bytes.Buffer
	require.NoError(t, policytest.Export(&table, run))
	assert.Contains(t, table.String(), "which are not kept; add them:\n# deny anonymous GET /other\n")
	assert.Contains(t, table.String(), "# No case, caller \"cluster.local/not+valid\"")
	assert.Contains(t, table.String(), "# No case, ")
	cases, err := policytest.ParseCases("t", table.Bytes())
	require.NoError(t, err)
	require.Len(t, cases, len(calls)-3)
	next, now := policytest.New(t, policy.Config{Workload: self, Unselected: policy.Deny, Policies: candidate}), policytest.New(t, policy.Config{Workload: self, Unselected: policy.Deny, Policies: live})
	for _, c := range cases {
		next.Case(c).Want(c.Want)
		now.Case(c).Want(policytest.Allow + policytest.Deny - c.Want)
	}
}
