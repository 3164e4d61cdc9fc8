package mesh.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.Any;
import com.google.protobuf.util.Durations;
import com.google.rpc.Code;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import com.google.rpc.Status;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.util.Optional;
import org.junit.jupiter.api.Test;

class CallFailureTest {
  @Test
  void aRefusalIsTakenApart() {
    var info = ErrorInfo.newBuilder().setReason("RATE_LIMITED").setDomain("sidecar").putMetadata("rule", "per-caller");
    var retry = RetryInfo.newBuilder().setRetryDelay(Durations.fromMillis(1500));
    var said =
        Status.newBuilder()
            .setCode(Code.RESOURCE_EXHAUSTED_VALUE)
            .setMessage("100 per minute")
            .addDetails(Any.pack(info.build()))
            .addDetails(Any.pack(retry.build()));
    var found = CallFailure.of(StatusProto.toStatusRuntimeException(said.build()));
    assertEquals("RATE_LIMITED", found.reason());
    assertEquals("per-caller", found.metadata().get("rule"));
    assertEquals(Optional.of(Duration.ofMillis(1500)), found.retryAfter());
    assertTrue(found.isFromSidecar());
  }

  @Test
  void aStatusWithoutDetails() {
    var found = CallFailure.of(io.grpc.Status.UNAVAILABLE.asRuntimeException());
    assertEquals("", found.message());
    assertFalse(found.isFromSidecar());
    assertEquals(Optional.empty(), found.retryAfter());
  }
}
