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

// Status returns what a gRPC client sees of d: code and detail, the reason as
// google.rpc.ErrorInfo, and Retry-After as google.rpc.RetryInfo. The cause
// stays here.
func Status(d *gatemesh.Denial) *status.Status {
	st := status.New(code(d), d.Detail)
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: d.Reason, Domain: Domain}}
	for _, f := range d.Header {
		if s, err := strconv.ParseUint(f.Value, 10, 31); err == nil && strings.EqualFold(f.Name, "Retry-After") {
			details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(time.Duration(s) * time.Second)})
		}
	}
	if with, err := st.WithDetails(details...); err == nil {
		return with
	}
	return st // the details could not be marshalled; the refusal stands
}
