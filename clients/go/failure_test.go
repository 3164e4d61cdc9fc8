package agentclient

import (
	"errors"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

func TestARefusalIsTakenApart(t *testing.T) {
	said, err := status.New(codes.ResourceExhausted, "100 per minute").WithDetails(
		&errdetails.ErrorInfo{Reason: "RATE_LIMITED", Domain: "sidecar", Metadata: map[string]string{"rule": "per-caller"}},
		&errdetails.RetryInfo{RetryDelay: durationpb.New(1500 * time.Millisecond)},
	)
	if err != nil {
		t.Fatal(err)
	}
	found := FailureOf(said.Err())
	if found.Code != codes.ResourceExhausted || found.Reason != "RATE_LIMITED" || !found.IsFromSidecar() {
		t.Errorf("taken apart as %+v", found)
	}
	if found.RetryAfter == nil || *found.RetryAfter != 1500*time.Millisecond || found.Metadata["rule"] != "per-caller" {
		t.Errorf("taken apart as %+v", found)
	}
	if got, want := found.Error(), "ResourceExhausted (sidecar: RATE_LIMITED): 100 per minute"; got != want {
		t.Errorf("%q, not %q", got, want)
	}
}

func TestAnErrorOfNoCall(t *testing.T) {
	if FailureOf(nil) != nil {
		t.Error("no error is no failure")
	}
	if found := FailureOf(errors.New("disk full")); found.Code != codes.Unknown || found.IsFromSidecar() || found.RetryAfter != nil {
		t.Errorf("taken apart as %+v", found)
	}
}
