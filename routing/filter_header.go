package routing

import (
	"fmt"
	"net/http"
	"net/textproto"
	"slices"
	"strings"

	"github.com/gatemesh-go/gatemesh"
)

// headerChange is a compiled HeaderChange. nil changes nothing.
type headerChange struct {
	set, add []gatemesh.Field
	remove   []string
}

func (h *headerChange) apply(to http.Header) {
	if h == nil {
		return
	}
	for _, f := range h.set {
		drop(to, f.Name)
		to[f.Name] = []string{f.Value}
	}
	for _, f := range h.add {
		to[f.Name] = append(slices.Clip(to[f.Name]), f.Value)
	}
	for _, name := range h.remove {
		drop(to, name)
	}
}

// drop removes name in every spelling that folds to it.
func drop(from http.Header, name string) {
	delete(from, name)
	for have := range from {
		if foldsTo(have, name) {
			delete(from, have)
		}
	}
}

// foldsTo reports whether servers that build variables from field names cannot
// tell a from b: they take letters without case, and all but letters and digits
// alike.
func foldsTo(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if foldByte(a[i]) != foldByte(b[i]) {
			return false
		}
	}
	return true
}

func foldByte(c byte) byte {
	switch {
	case 'A' <= c && c <= 'Z':
		return c + 'a' - 'A'
	case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		return c
	}
	return '-'
}

func fold(name string) string {
	b := []byte(name)
	for i := range b {
		b[i] = foldByte(b[i])
	}
	return string(b)
}

const (
	ofConnection = "belongs to the connection or frames the message"
	ofOrigin     = "is made anew for every request"
	ofOverride   = "would make the upstream act on another request than the one that was judged"
	ofGRPC       = "says how a gRPC call ended"
)

// untouchable says, by folded name, why a field cannot be changed.
var untouchable = map[string]string{
	"host":                    "is the host; see Rewrite.Hostname",
	"connection":              ofConnection,
	"proxy-connection":        ofConnection,
	"keep-alive":              ofConnection,
	"proxy-authenticate":      ofConnection,
	"proxy-authorization":     ofConnection,
	"te":                      ofConnection,
	"trailer":                 ofConnection,
	"transfer-encoding":       ofConnection,
	"upgrade":                 ofConnection,
	"http2-settings":          ofConnection,
	"content-length":          ofConnection,
	"expect":                  ofConnection,
	"forwarded":               ofOrigin,
	"x-forwarded-for":         ofOrigin,
	"x-forwarded-host":        ofOrigin,
	"x-forwarded-proto":       ofOrigin,
	"x-http-method-override":  ofOverride,
	"x-http-method":           ofOverride,
	"x-method-override":       ofOverride,
	"x-original-url":          ofOverride,
	"x-rewrite-url":           ofOverride,
	"x-request-id":            "is the id that the whole call shares",
	"grpc-status":             ofGRPC,
	"grpc-message":            ofGRPC,
	"grpc-status-details-bin": ofGRPC,
}

// header compiles a HeaderChange. It returns nil for one that changes nothing.
func (f *faults) header(at gatemesh.Position, field string, in *HeaderChange) *headerChange {
	if len(in.Set)+len(in.Add)+len(in.Remove) == 0 {
		return nil
	}
	h := &headerChange{}
	seen := map[string]bool{}
	for i, x := range in.Set {
		where := fmt.Sprintf("%s.Set[%d]", field, i)
		x.Name = f.changeable(at, where+".Name", x.Name)
		f.fieldValue(at, where+".Value", x.Value)
		if seen[fold(x.Name)] {
			f.add(at, "%s.Name %s is set twice", where, x.Name)
		}
		seen[fold(x.Name)] = true
		h.set = append(h.set, x)
	}
	for i, x := range in.Add {
		where := fmt.Sprintf("%s.Add[%d]", field, i)
		x.Name = f.changeable(at, where+".Name", x.Name)
		f.fieldValue(at, where+".Value", x.Value)
		h.add = append(h.add, x)
	}
	for i, name := range in.Remove {
		h.remove = append(h.remove, f.changeable(at, fmt.Sprintf("%s.Remove[%d]", field, i), name))
	}
	return h
}

// changeable returns name in canonical form.
func (f *faults) changeable(at gatemesh.Position, field, name string) string {
	why, ok := untouchable[fold(name)]
	switch {
	case name == "":
		f.add(at, "%s is required", field)
	case !validFieldName(name):
		f.add(at, "%s %q is not the name of a header field", field, name)
	case ok:
		f.add(at, "%s %s cannot be changed: it %s", field, name, why)
	case gatemesh.CarriesIdentity(name):
		f.add(at, "%s %s cannot be changed: it carries an identity", field, name)
	}
	return textproto.CanonicalMIMEHeaderKey(name)
}

// fieldValue checks a value of RFC 9110 §5.5. It is not quoted: it may be a secret.
func (f *faults) fieldValue(at gatemesh.Position, field, value string) {
	switch {
	case value == "":
		f.add(at, "%s is required", field)
	case !validFieldValue(value):
		f.add(at, "%s has a control character, or white space at its ends", field)
	}
}

func validFieldValue(v string) bool {
	return strings.Trim(v, " \t") == v && !strings.ContainsFunc(v, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}
