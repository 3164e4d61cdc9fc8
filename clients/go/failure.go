package agentclient

import (
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Failure is why a call failed: its status, and what the details of the status say.
type Failure struct {
	Code    codes.Code
	Message string
	// Reason is for machines: RATE_LIMITED, NO_RULE_ALLOWS, …; empty where the status came without details.
	Reason string
	// Domain is whose reason it is: "agent" or "sidecar".
	Domain string
	// Metadata holds every variable part of the message.
	Metadata map[string]string
	// RetryAfter says when repeating may help; nil: it was not said.
	RetryAfter *time.Duration
	// Violations are the fields of the request that are wrong, with what is wrong.
	Violations map[string]string
}

// FailureOf takes apart the error of a call; nil when err is nil.
func FailureOf(err error) *Failure {
	if err == nil {
		return nil
	}
	said := status.Convert(err)
	failure := &Failure{Code: said.Code(), Message: said.Message()}
	for _, detail := range said.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			failure.Reason, failure.Domain, failure.Metadata = detail.Reason, detail.Domain, detail.Metadata
		case *errdetails.RetryInfo:
			after := detail.GetRetryDelay().AsDuration()
			failure.RetryAfter = &after
		case *errdetails.BadRequest:
			failure.Violations = map[string]string{}
			for _, each := range detail.FieldViolations {
				failure.Violations[each.Field] = each.Description
			}
		}
	}
	return failure
}

// IsFromSidecar tells whether a sidecar made this status; the agent may not have seen the call.
func (f *Failure) IsFromSidecar() bool { return f.Domain == "sidecar" }

func (f *Failure) Error() string {
	if f.Reason == "" {
		return fmt.Sprintf("%s: %s", f.Code, f.Message)
	}
	return fmt.Sprintf("%s (%s: %s): %s", f.Code, f.Domain, f.Reason, f.Message)
}
