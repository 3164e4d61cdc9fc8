import assert from "node:assert/strict";
import { test } from "node:test";
import { Metadata, type ServiceError, status } from "@grpc/grpc-js";
import { ErrorInfo, RetryInfo } from "./api/google/rpc/error_details.js";
import { Status } from "./api/google/rpc/status.js";
import { CallFailure } from "./failure.js";

const TYPE = "type.googleapis.com/google.rpc.";

function failed(code: status, details: string, bin?: Buffer): ServiceError {
  const metadata = new Metadata();
  if (bin) metadata.set("grpc-status-details-bin", bin);
  return Object.assign(new Error(details), { code, details, metadata });
}

test("a refusal is taken apart", () => {
  const info = ErrorInfo.fromPartial({ reason: "RATE_LIMITED", domain: "sidecar", metadata: { rule: "per-caller" } });
  const retry = RetryInfo.fromPartial({ retry_delay: { seconds: "1", nanos: 500_000_000 } });
  const said = Status.fromPartial({
    code: status.RESOURCE_EXHAUSTED,
    details: [
      { type_url: `${TYPE}ErrorInfo`, value: Buffer.from(ErrorInfo.encode(info).finish()) },
      { type_url: `${TYPE}RetryInfo`, value: Buffer.from(RetryInfo.encode(retry).finish()) },
    ],
  });
  const found = CallFailure.of(failed(status.RESOURCE_EXHAUSTED, "too many", Buffer.from(Status.encode(said).finish())));
  assert.equal(found.reason, "RATE_LIMITED");
  assert.equal(found.retryAfter, 1.5);
  assert.deepEqual(found.metadata, { rule: "per-caller" });
  assert.ok(found.isFromSidecar);
});

test("details that do not parse are left out", () => {
  const found = CallFailure.of(failed(status.INTERNAL, "odd", Buffer.from([0xff, 0xff])));
  assert.equal(found.message, "odd");
  assert.equal(found.reason, "");
  assert.equal(found.isFromSidecar, false);
});
