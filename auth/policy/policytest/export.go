package policytest

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"reflect"
	"strings"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/policy"
)

// Export writes the differences of a dry run as a table that wants what the
// candidate says, each with a comment on how often it was met and why. A team
// strikes out what it does not want, mends the candidate until the table
// passes, and keeps it. The cases of calls whose verdicts hang on what a dry
// run does not keep, such as a claim, are written as comments to complete.
func Export(w io.Writer, run policy.DryRun) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# Dry run: of %d calls, the candidate judges %d differently.\n", run.Judged, run.Differing)
	if run.Unlisted > 0 {
		fmt.Fprintf(&b, "# %d of them are not listed here: the list was full.\n", run.Unlisted)
	}
	if run.Failed > 0 {
		fmt.Fprintf(&b, "# On %d calls the candidate panicked.\n", run.Failed)
	}
	for _, d := range run.Differences {
		times := "times"
		if d.Count == 1 {
			times = "time"
		}
		fmt.Fprintf(&b, "\n# %d %s\n# live:      %v, %v\n# candidate: %v, %v\n",
			d.Count, times, d.Live.Verdict, d.Live, d.Candidate.Verdict, d.Candidate)
		c := caseOf(d)
		line := c.String()
		read, err := parseCase(line)
		if err == nil && !reflect.DeepEqual(read, c) {
			err = errors.New("it would be read otherwise")
		}
		switch {
		case err != nil: // an identity that no table can name
			fmt.Fprintf(&b, "# No case, %v:\n# %s\n", err, strings.NewReplacer("\n", `\n`, "\r", `\r`).Replace(line))
		case d.Partial:
			fmt.Fprintf(&b, "# The verdict hangs on header fields, claims or the like, which are not kept; add them:\n# %s\n", line)
		default:
			b.WriteString(line + "\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func caseOf(d policy.Difference) Case {
	c := Case{
		Want: d.Candidate.Verdict, Caller: anonymous, Method: d.Method, Path: d.Path, Host: d.Host,
		Port: d.LocalAddr.Port(), To: d.LocalAddr.Addr(), From: d.RemoteAddr.Addr(), Client: d.Client, SNI: d.SNI,
		User: gatemesh.PrincipalInfo{Issuer: d.Issuer, Subject: d.Subject},
	}
	if d.Peer != "" {
		c.Caller = strings.TrimPrefix(d.Peer, "spiffe://")
	}
	if d.Protocol == gatemesh.GRPC {
		c.Method = methodGRPC
	}
	if c.Client == c.From {
		c.Client = netip.Addr{}
	}
	return c
}
