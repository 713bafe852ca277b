package grpcmesh

import (
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/gatemesh-go/gatemesh"
)

// Domain is the domain of google.rpc.ErrorInfo in statuses of this package.
const Domain = "gatemesh"

// retryKey is the key of [gatemesh.RetryHeader] in the metadata of ErrorInfo.
const retryKey = "retry"

// Status returns what a gRPC client sees of d: code and detail, the reason as
// google.rpc.ErrorInfo, Retry-After as google.rpc.RetryInfo, and
// X-Gatemesh-Retry in the metadata of the ErrorInfo as "retry". The cause stays
// here.
func Status(d *gatemesh.Denial) *status.Status {
	st := status.New(code(d), d.Detail)
	info := &errdetails.ErrorInfo{Reason: d.Reason, Domain: Domain}
	details := []protoadapt.MessageV1{info}
	for _, f := range d.Header {
		if strings.EqualFold(f.Name, gatemesh.RetryHeader) {
			info.Metadata = map[string]string{retryKey: f.Value}
		}
		if s, err := strconv.ParseUint(f.Value, 10, 31); err == nil && strings.EqualFold(f.Name, "Retry-After") {
			details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(time.Duration(s) * time.Second)})
		}
	}
	if with, err := st.WithDetails(details...); err == nil {
		return with
	}
	return st // the details could not be marshalled; the refusal stands
}

// wishes returns what a callee says in its status about further calls, as the
// fields that say it over HTTP, or nil.
func wishes(err error) map[string][]string {
	st, ok := status.FromError(err)
	if !ok || len(st.Proto().GetDetails()) == 0 {
		return nil
	}
	var fields map[string][]string
	set := func(name, value string) {
		if fields == nil {
			fields = make(map[string][]string, 2)
		}
		fields[name] = []string{value}
	}
	for _, any := range st.Details() {
		switch d := any.(type) {
		case *errdetails.RetryInfo:
			if wait := d.GetRetryDelay().AsDuration(); wait > 0 {
				set("Retry-After", strconv.FormatInt(int64((wait-1)/time.Second)+1, 10))
			}
		case *errdetails.ErrorInfo:
			if v := d.GetMetadata()[retryKey]; v != "" && d.GetDomain() == Domain {
				set(gatemesh.RetryHeader, v)
			}
		}
	}
	return fields
}
