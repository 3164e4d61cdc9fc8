package mesh.client;

import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.util.Durations;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Optional;

/**
 * Why a call failed: its status, and what the details of the status say.
 *
 * @param reason for machines: RATE_LIMITED, NO_RULE_ALLOWS, …; empty where the status came without details
 * @param domain whose reason it is: "agent" or "sidecar"
 * @param metadata every variable part of the message
 * @param retryAfter when repeating may help, if that was said
 * @param violations the fields of the request that are wrong, with what is wrong
 */
public record CallFailure(
    Status.Code code,
    String message,
    String reason,
    String domain,
    Map<String, String> metadata,
    Optional<Duration> retryAfter,
    Map<String, String> violations) {

  /** Takes apart what a call threw. */
  public static CallFailure of(StatusRuntimeException error) {
    String reason = "";
    String domain = "";
    Map<String, String> metadata = Map.of();
    Optional<Duration> retryAfter = Optional.empty();
    Map<String, String> violations = new LinkedHashMap<>();
    var said = StatusProto.fromThrowable(error);
    if (said != null) {
      for (var detail : said.getDetailsList()) {
        try {
          if (detail.is(ErrorInfo.class)) {
            var info = detail.unpack(ErrorInfo.class);
            reason = info.getReason();
            domain = info.getDomain();
            metadata = info.getMetadataMap();
          } else if (detail.is(RetryInfo.class)) {
            retryAfter = Optional.of(Duration.ofNanos(Durations.toNanos(detail.unpack(RetryInfo.class).getRetryDelay())));
          } else if (detail.is(BadRequest.class)) {
            for (var each : detail.unpack(BadRequest.class).getFieldViolationsList()) {
              violations.put(each.getField(), each.getDescription());
            }
          }
        } catch (InvalidProtocolBufferException unreadable) {
          continue; // The status stands without this detail.
        }
      }
    }
    var message = error.getStatus().getDescription();
    return new CallFailure(
        error.getStatus().getCode(), message == null ? "" : message, reason, domain, metadata, retryAfter, violations);
  }

  /** A sidecar made this status; the agent may not have seen the call. */
  public boolean isFromSidecar() {
    return domain.equals("sidecar");
  }
}
