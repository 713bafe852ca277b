package main

import (
	"errors"
	"flag"
	"fmt"
	"strings"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/mtls"
)

// tlsFlags are the flags about the TLS of the front door.
type tlsFlags struct {
	certs, keys                    listFlag
	dir, def, clientCA, clientAuth string
}

func (t *tlsFlags) define(fs *flag.FlagSet) {
	fs.Var(&t.certs, "tls-cert", "PEM `file` of a certificate and its intermediates, which is followed; repeatable, each with its -tls-key. Clients get the one for the name they ask for. Without this and -tls-dir, plain HTTP")
	fs.Var(&t.keys, "tls-key", "PEM `file` of the key of the -tls-cert in the same place; repeatable")
	fs.StringVar(&t.dir, "tls-dir", "", "`folder` with tls.crt and tls.key, or with folders that hold them, as Kubernetes mounts Secrets; it is followed")
	fs.StringVar(&t.def, "tls-default", "", "`name` whose certificate clients get that ask for no name, or for one without a certificate. If there are several certificates, such clients are refused without this")
	fs.StringVar(&t.clientCA, "tls-client-ca", "", "PEM `file` of authorities, which is followed; clients must then have a certificate of theirs, besides what -manifests ask of them")
	fs.StringVar(&t.clientAuth, "tls-client-auth", "required", "`mode`: whether a certificate of -tls-client-ca is required, or optional: then clients without one get in as well")
}

// given reports whether the front door speaks TLS.
func (t *tlsFlags) given() bool { return len(t.certs) > 0 || t.dir != "" }

// listFlag is a flag that may be given several times.
type listFlag []string

func (l *listFlag) String() string { return strings.Join(*l, ",") }

func (l *listFlag) Set(s string) error {
	if s == "" {
		return errors.New("is empty")
	}
	*l = append(*l, s)
	return nil
}

func (o *options) buildTLS(b *built, observer gatemesh.Observer) error {
	t, cfg := &o.tls, mtls.EdgeConfig{
		Folder: o.tls.dir, Default: o.tls.def, ClientCA: o.tls.clientCA, Interval: o.reread, Observer: observer,
	}
	var errs []error
	switch c, k := len(t.certs), len(t.keys); {
	case c == 0 && k > 0:
		errs = append(errs, errors.New("-tls-key needs -tls-cert"))
	case c > 0 && k == 0:
		errs = append(errs, errors.New("-tls-cert needs -tls-key"))
	case c != k:
		errs = append(errs, fmt.Errorf("-tls-cert is given %d times, -tls-key %d times", c, k))
	default:
		for i := range c {
			cfg.Pairs = append(cfg.Pairs, mtls.EdgePair{Cert: t.certs[i], Key: t.keys[i]})
		}
	}
	switch {
	case t.clientAuth != "required" && t.clientAuth != "optional":
		errs = append(errs, fmt.Errorf("-tls-client-auth %q: must be required or optional", t.clientAuth))
	case t.clientAuth == "optional" && t.clientCA == "":
		errs = append(errs, errors.New("-tls-client-auth optional needs -tls-client-ca"))
	case t.clientAuth == "optional":
		cfg.Clients = mtls.EdgeClientsOptional
	case t.clientCA != "":
		cfg.Clients = mtls.EdgeClientsRequired
	}
	if !t.given() && t.clientCA+t.def != "" {
		errs = append(errs, errors.New("-tls-client-ca and -tls-default need -tls-cert or -tls-dir"))
	}
	if err := errors.Join(errs...); err != nil || !t.given() {
		return err
	}
	e, err := mtls.NewEdge(cfg)
	if err != nil {
		return err
	}
	b.closes = append(b.closes, e.Close)
	b.measured = append(b.measured, e)
	b.tls = e.TLSConfig()
	return nil
}
