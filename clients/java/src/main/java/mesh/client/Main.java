package mesh.client;

import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.MessageOrBuilder;
import com.google.protobuf.Struct;
import com.google.protobuf.Value;
import com.google.protobuf.util.JsonFormat;
import io.grpc.StatusRuntimeException;
import java.io.BufferedReader;
import java.io.File;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;

/**
 * Calls an agent of any kind of RPC from a shell. Prints JSON, one value per line.
 *
 * <p>Exit codes: 0 OK, 1 failed before a call was made, 2 wrong usage, 64 + the gRPC status number when a call failed.
 */
public final class Main {
  private static final int STATUS_OFFSET = 64;
  private static final String USAGE =
      """
      usage: Main [flags] describe | execute OPERATION JSON | stream OPERATION JSON | ingest JSON < RECORDS | converse < TEXTS
      flags: --target HOST:PORT --agent NAME --timeout SECONDS --idempotency-key KEY
             --tls-ca FILE --tls-cert FILE --tls-key FILE --server-name NAME""";

  private Main() {}

  public static void main(String[] arguments) {
    System.exit(run(arguments));
  }

  private static int run(String[] arguments) {
    Map<String, String> flags = new HashMap<>();
    List<String> words = new ArrayList<>();
    for (int i = 0; i < arguments.length; i++) {
      if (arguments[i].startsWith("--") && i + 1 < arguments.length) {
        flags.put(arguments[i].substring(2), arguments[++i]);
      } else {
        words.add(arguments[i]);
      }
    }
    try (var client = connect(flags)) {
      return call(client, words, flags.getOrDefault("idempotency-key", ""));
    } catch (StatusRuntimeException error) {
      var failure = CallFailure.of(error);
      System.err.println(print(shown(failure)));
      return STATUS_OFFSET + failure.code().value();
    } catch (IOException | IllegalArgumentException error) {
      System.err.println(error.getMessage());
      return 1;
    } catch (InterruptedException stopped) {
      Thread.currentThread().interrupt();
      return 1;
    }
  }

  private static AgentClient connect(Map<String, String> flags) throws IOException {
    var target = flags.getOrDefault("target", "127.0.0.1:50051");
    var agent = flags.getOrDefault("agent", "");
    var timeout = Duration.ofMillis((long) (1000 * Double.parseDouble(flags.getOrDefault("timeout", "60"))));
    if (!flags.containsKey("tls-ca")) {
      return AgentClient.plain(target, agent, timeout);
    }
    var certificate = new File(flags.getOrDefault("tls-cert", ""));
    var key = new File(flags.getOrDefault("tls-key", ""));
    var serverName = flags.getOrDefault("server-name", "");
    return AgentClient.secure(target, new File(flags.get("tls-ca")), certificate, key, serverName, agent, timeout);
  }

  private static int call(AgentClient client, List<String> words, String key) throws IOException, InterruptedException {
    switch (words.isEmpty() ? "" : words.get(0) + " " + (words.size() - 1)) {
      case "describe 0" -> System.out.println(print(client.describe()));
      case "execute 2" -> System.out.println(print(client.execute(words.get(1), object(words.get(2)), key)));
      case "stream 2" ->
          client.stream(words.get(1), object(words.get(2)), key).forEachRemaining(event -> System.out.println(print(event)));
      case "ingest 1" -> {
        Iterator<Struct> records = lines().map(Main::object).iterator();
        System.out.println(print(client.ingest(object(words.get(1)), records)));
      }
      case "converse 0" -> client.converse(lines().iterator(), answer -> System.out.println(print(answer)));
      default -> {
        System.err.println(USAGE);
        return 2;
      }
    }
    return 0;
  }

  private static Stream<String> lines() {
    return new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8)).lines();
  }

  private static Struct object(String text) {
    var parsed = Struct.newBuilder();
    try {
      JsonFormat.parser().merge(text, parsed);
    } catch (InvalidProtocolBufferException error) {
      throw new IllegalArgumentException(text + " is no JSON object: " + error.getMessage(), error);
    }
    return parsed.build();
  }

  private static String print(MessageOrBuilder message) {
    try {
      return JsonFormat.printer().preservingProtoFieldNames().omittingInsignificantWhitespace().print(message);
    } catch (InvalidProtocolBufferException error) {
      throw new IllegalStateException(error);
    }
  }

  private static Struct shown(CallFailure failure) {
    var said =
        Struct.newBuilder()
            .putFields("code", text(failure.code().name()))
            .putFields("number", number(failure.code().value()))
            .putFields("message", text(failure.message()))
            .putFields("reason", text(failure.reason()))
            .putFields("domain", text(failure.domain()))
            .putFields("metadata", texts(failure.metadata()))
            .putFields("from_sidecar", Value.newBuilder().setBoolValue(failure.isFromSidecar()).build());
    failure.retryAfter().ifPresent(after -> said.putFields("retry_after", number(after.toNanos() / 1e9)));
    if (!failure.violations().isEmpty()) {
      said.putFields("violations", texts(failure.violations()));
    }
    return Struct.newBuilder().putFields("error", Value.newBuilder().setStructValue(said).build()).build();
  }

  private static Value text(String value) {
    return Value.newBuilder().setStringValue(value).build();
  }

  private static Value number(double value) {
    return Value.newBuilder().setNumberValue(value).build();
  }

  private static Value texts(Map<String, String> values) {
    var found = Struct.newBuilder();
    values.forEach((name, value) -> found.putFields(name, text(value)));
    return Value.newBuilder().setStructValue(found).build();
  }
}
