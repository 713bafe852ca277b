package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/identity"
	"github.com/gatemesh-go/gatemesh/auth/policy"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
)

// identityLifetime is longer than that of an edge, for people to type.
const identityLifetime = 10 * time.Minute

// develop makes a mesh to try the service with. In it, order-service may POST
// payments. Delete this file in a service that goes to production.
func develop(self gatemesh.Workload, folder, listen string, w io.Writer) (t trust, err error) {
	ca, err := devca.New(self.TrustDomain)
	if err != nil {
		return t, err
	}
	source, err := ca.Source(devca.WorkloadConfig{Workload: self, Lifetime: 24 * time.Hour})
	if err != nil {
		return t, err
	}
	caller := gatemesh.Workload{Name: "order-service", TrustDomain: self.TrustDomain, Namespace: self.Namespace, ServiceAccount: "order-service"}
	order, err := ca.Source(devca.WorkloadConfig{Workload: caller, Lifetime: 24 * time.Hour})
	if err != nil {
		return t, err
	}
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return t, err
	}
	edge := "https://edge." + self.TrustDomain
	minter, err := identity.NewMinter(identity.MinterConfig{
		Issuer: edge, Audience: []string{self.TrustDomain}, Key: identity.SigningKey{Private: private}, Lifetime: identityLifetime,
	})
	if err != nil {
		return t, err
	}
	token, err := mint(minter)
	if err != nil {
		return t, err
	}
	cert, key, err := devca.EncodePEM(order.Credentials().Certificate)
	if err != nil {
		return t, err
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return t, err
	}
	for name, data := range map[string][]byte{
		"ca.pem": ca.BundlePEM(), "order-service.pem": cert, "order-service-key.pem": key,
		"identity.header": []byte(gatemesh.IdentityHeader + ": " + token + "\n"),
	} {
		file := filepath.Join(folder, name)
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) { // it would keep its mode
			return t, err
		}
		if err := os.WriteFile(file, data, 0o600); err != nil {
			return t, err
		}
	}
	_, port, err := net.SplitHostPort(listen)
	if err != nil {
		return t, fmt.Errorf("-listen: %w", err)
	}
	// Its certificate names a workload and no host, so curl cannot check it (-k);
	// our own clients check the workload.
	fmt.Fprintf(w, `
This mesh is for development; it ends with this process, and the identity of
its user after %[3]v.
  cd %[1]s
  as_order="curl -sk --cert order-service.pem --key order-service-key.pem -H @identity.header"
  $as_order -X POST https://localhost:%[2]s/v1/payments/1      # 201
  $as_order https://localhost:%[2]s/v1/payments/1              # 403, and the log says why
  curl -sk -X POST https://localhost:%[2]s/v1/payments/1       # no certificate: no answer

`, folder, port, identityLifetime)
	return trust{
		source: source, keys: minter, issuer: edge, close: []func() error{source.Close, order.Close},
		rules: []policy.Policy{{
			Name: "dev", Namespace: self.Namespace, Selector: self.Labels,
			Rules: []policy.Rule{{
				From: []policy.Source{{Principals: []string{caller.SPIFFEID()[len("spiffe://"):]}}},
				To:   []policy.Operation{{Methods: []string{"POST"}, Paths: []string{"/v1/payments/*", "/gatemesh.examples.payments.v1.Payments/*"}}},
			}},
		}},
	}, nil
}

// mint signs the identity of a user as the edge would for a call of theirs.
func mint(m *identity.Minter) (string, error) {
	user, err := gatemesh.NewCall(gatemesh.CallInfo{Principal: gatemesh.NewPrincipal(gatemesh.PrincipalInfo{
		Issuer: "https://auth.example.com/", Subject: "user-1", Method: "jwt",
	})})
	if err != nil {
		return "", err
	}
	out, err := gatemesh.NewCall(gatemesh.CallInfo{Method: "POST", Path: "/v1/payments/1", Parent: user})
	if err != nil {
		return "", err
	}
	adm, err := m.Admit(context.Background(), out)
	if err != nil {
		return "", err
	}
	if len(adm.Header) != 1 {
		return "", errors.New("the minter made no identity")
	}
	return adm.Header[0].Value, nil
}
