import type { ServiceError } from "@grpc/grpc-js";
import { status } from "@grpc/grpc-js";
import { BadRequest, ErrorInfo, RetryInfo } from "./api/google/rpc/error_details.js";
import { Status } from "./api/google/rpc/status.js";

const TYPE = "type.googleapis.com/google.rpc.";

/** Why a call failed: its status, and what the details of the status say. */
export class CallFailure extends Error {
  override readonly name = "CallFailure";
  /** For machines: RATE_LIMITED, NO_RULE_ALLOWS, …; empty where the status came without details. */
  reason = "";
  /** Whose reason it is: "agent" or "sidecar". */
  domain = "";
  /** Every variable part of the message. */
  metadata: Record<string, string> = {};
  /** Seconds after which repeating may help; undefined: it was not said. */
  retryAfter?: number;
  /** The fields of the request that are wrong, with what is wrong. */
  violations: Record<string, string> = {};

  constructor(
    readonly code: status,
    message: string,
  ) {
    super(message);
  }

  /** Takes apart what grpc-js gave. Details that do not parse are left out. */
  static of(error: ServiceError): CallFailure {
    const failure = new CallFailure(error.code, error.details);
    for (const raw of error.metadata?.get("grpc-status-details-bin") ?? []) {
      try {
        if (Buffer.isBuffer(raw)) failure.read(Status.decode(raw));
      } catch {
        // The status stands without them.
      }
    }
    return failure;
  }

  /** A sidecar made this status; the agent may not have seen the call. */
  get isFromSidecar(): boolean {
    return this.domain === "sidecar";
  }

  toJSON(): Record<string, unknown> {
    return {
      code: status[this.code],
      number: this.code,
      message: this.message,
      reason: this.reason,
      domain: this.domain,
      metadata: this.metadata,
      from_sidecar: this.isFromSidecar,
      retry_after: this.retryAfter,
      ...(Object.keys(this.violations).length > 0 && { violations: this.violations }),
    };
  }

  private read(said: Status): void {
    for (const { type_url, value } of said.details) {
      if (type_url === `${TYPE}ErrorInfo`) {
        const info = ErrorInfo.decode(value);
        this.reason = info.reason;
        this.domain = info.domain;
        this.metadata = Object.fromEntries(Object.entries(info.metadata));
      } else if (type_url === `${TYPE}RetryInfo`) {
        const delay = RetryInfo.decode(value).retry_delay;
        if (delay !== undefined) this.retryAfter = Number(delay.seconds) + delay.nanos / 1e9;
      } else if (type_url === `${TYPE}BadRequest`) {
        for (const each of BadRequest.decode(value).field_violations) this.violations[each.field] = each.description;
      }
    }
  }
}
