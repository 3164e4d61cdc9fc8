import com.google.protobuf.ListValue;
import com.google.protobuf.Struct;
import com.google.protobuf.Value;
import com.google.protobuf.util.JsonFormat;
import io.grpc.CallOptions;
import io.grpc.ClientCall;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.TlsChannelCredentials;
import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;

/** The driver of grpc-java; see ../README.md. */
public final class Driver {
  private static final Map<String, ManagedChannel> CHANNELS = new ConcurrentHashMap<>();
  private static final Set<Integer> STOPPED = ConcurrentHashMap.newKeySet();

  private static final MethodDescriptor.Marshaller<byte[]> RAW =
      new MethodDescriptor.Marshaller<>() {
        @Override
        public InputStream stream(byte[] value) {
          return new ByteArrayInputStream(value);
        }

        @Override
        public byte[] parse(InputStream stream) {
          try {
            return stream.readAllBytes();
          } catch (IOException error) {
            throw new UncheckedIOException(error);
          }
        }
      };

  public static void main(String[] arguments) throws Exception {
    var workers =
        Executors.newCachedThreadPool(
            task -> {
              var thread = new Thread(task);
              thread.setDaemon(true);
              return thread;
            });
    var lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line = lines.readLine(); line != null; line = lines.readLine()) {
      var parsed = Struct.newBuilder();
      JsonFormat.parser().merge(line, parsed);
      var request = parsed.build().getFieldsMap();
      if (text(request, "op").equals("stop")) {
        STOPPED.add(number(request, "of"));
        continue;
      }
      workers.submit(() -> serve(request));
    }
    System.exit(0);
  }

  private static void serve(Map<String, Value> request) {
    Struct.Builder found;
    try {
      found = text(request, "op").equals("load") ? load(request) : call(request, channel(request));
    } catch (Exception error) {
      found = Struct.newBuilder().putFields("error", value(error.toString()));
    }
    say(found.putFields("id", value(number(request, "id"))));
  }

  private static synchronized void say(Struct.Builder value) {
    try {
      System.out.println(JsonFormat.printer().omittingInsignificantWhitespace().print(value));
    } catch (IOException error) {
      throw new UncheckedIOException(error);
    }
  }

  private static ManagedChannel dial(Map<String, Value> request) throws IOException {
    var credentials = InsecureChannelCredentials.create();
    Map<String, Value> tls = Map.of();
    if (request.containsKey("tls") && request.get("tls").hasStructValue()) {
      tls = request.get("tls").getStructValue().getFieldsMap();
      credentials =
          TlsChannelCredentials.newBuilder()
              .trustManager(new File(text(tls, "ca")))
              .keyManager(new File(text(tls, "certificate")), new File(text(tls, "key")))
              .build();
    }
    var builder = Grpc.newChannelBuilder(text(request, "target"), credentials).maxInboundMessageSize(16 << 20);
    if (!tls.isEmpty()) {
      builder.overrideAuthority(text(tls, "server_name"));
    }
    if (number(request, "keepalive") > 0) {
      builder.keepAliveTime(number(request, "keepalive"), TimeUnit.SECONDS);
    }
    if (!text(request, "service_config").isEmpty()) {
      var config = Struct.newBuilder();
      JsonFormat.parser().merge(text(request, "service_config"), config);
      @SuppressWarnings("unchecked")
      var plain = (Map<String, ?>) plain(Value.newBuilder().setStructValue(config).build());
      builder.defaultServiceConfig(plain);
    }
    return builder.build();
  }

  private static ManagedChannel channel(Map<String, Value> request) throws IOException {
    if (flag(request, "fresh")) {
      return dial(request);
    }
    var name = request.get("target") + "|" + request.get("tls") + "|" + request.get("keepalive") + "|" + request.get("service_config");
    synchronized (CHANNELS) {
      if (!CHANNELS.containsKey(name)) {
        CHANNELS.put(name, dial(request));
      }
      return CHANNELS.get(name);
    }
  }

  private static Struct.Builder call(Map<String, Value> request, ManagedChannel channel) throws Exception {
    List<byte[]> messages = new ArrayList<>();
    for (var each : request.get("messages").getListValue().getValuesList()) {
      messages.add(each.hasNumberValue() ? new byte[(int) each.getNumberValue()] : Base64.getDecoder().decode(each.getStringValue()));
    }
    var kind =
        switch (text(request, "kind")) {
          case "unary" -> MethodDescriptor.MethodType.UNARY;
          case "server" -> MethodDescriptor.MethodType.SERVER_STREAMING;
          case "client" -> MethodDescriptor.MethodType.CLIENT_STREAMING;
          default -> MethodDescriptor.MethodType.BIDI_STREAMING;
        };
    var method =
        MethodDescriptor.<byte[], byte[]>newBuilder(RAW, RAW)
            .setFullMethodName(text(request, "method").substring(1))
            .setType(kind)
            .build();
    var options = CallOptions.DEFAULT;
    if (request.containsKey("timeout") && request.get("timeout").hasNumberValue()) {
      options = options.withDeadlineAfter((long) (1000 * request.get("timeout").getNumberValue()), TimeUnit.MILLISECONDS);
    }
    if (flag(request, "gzip")) {
      options = options.withCompression("gzip");
    }
    int cancelAfter =
        request.containsKey("cancel_after") && request.get("cancel_after").hasNumberValue()
            ? number(request, "cancel_after")
            : -1;
    ClientCall<byte[], byte[]> call = channel.newCall(method, options);
    var ended = new CompletableFuture<Struct.Builder>();
    call.start(new Ending(call, cancelAfter, ended), metadata(request));
    call.request(Integer.MAX_VALUE);
    for (var message : messages) {
      call.sendMessage(message);
    }
    call.halfClose();
    return ended.get();
  }

  private static final class Ending extends ClientCall.Listener<byte[]> {
    private final ClientCall<byte[], byte[]> call;
    private final int cancelAfter;
    private final CompletableFuture<Struct.Builder> ended;
    private final ListValue.Builder answers = ListValue.newBuilder();
    private Value initial = pairs(new Metadata());

    Ending(ClientCall<byte[], byte[]> call, int cancelAfter, CompletableFuture<Struct.Builder> ended) {
      this.call = call;
      this.cancelAfter = cancelAfter;
      this.ended = ended;
    }

    @Override
    public void onHeaders(Metadata headers) {
      initial = pairs(headers);
    }

    @Override
    public void onMessage(byte[] message) {
      try {
        var answer =
            Struct.newBuilder()
                .putFields("size", value(message.length))
                .putFields("sha256", value(HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(message))))
                .putFields("data", value(Base64.getEncoder().encodeToString(Arrays.copyOf(message, Math.min(message.length, 4096)))));
        answers.addValues(Value.newBuilder().setStructValue(answer));
      } catch (Exception error) {
        ended.completeExceptionally(error);
      }
      if (answers.getValuesCount() == cancelAfter) {
        call.cancel("enough", null);
      }
    }

    @Override
    public void onClose(Status status, Metadata trailers) {
      ended.complete(
          Struct.newBuilder()
              .putFields("code", value(status.getCode().value()))
              .putFields("message", value(status.getDescription() == null ? "" : status.getDescription()))
              .putFields("initial", initial)
              .putFields("trailers", pairs(trailers))
              .putFields("answers", Value.newBuilder().setListValue(answers).build()));
    }
  }

  private static Struct.Builder load(Map<String, Value> request) throws Exception {
    int id = number(request, "id");
    int calls = 0;
    var failures = ListValue.newBuilder();
    while (!STOPPED.contains(id)) {
      var channel = channel(request);
      var found = call(request, channel).getFieldsMap();
      if (flag(request, "fresh")) {
        channel.shutdownNow();
      }
      calls++;
      if (found.get("code").getNumberValue() != 0) {
        failures.addValues(
            Value.newBuilder()
                .setStructValue(Struct.newBuilder().putFields("code", found.get("code")).putFields("message", found.get("message"))));
      }
      if (calls % 10 == 0) {
        say(
            Struct.newBuilder()
                .putFields("id", value(id))
                .putFields("progress", value(calls))
                .putFields("failures", value(failures.getValuesCount())));
      }
    }
    return Struct.newBuilder()
        .putFields("calls", value(calls))
        .putFields("failures", Value.newBuilder().setListValue(failures).build());
  }

  private static Metadata metadata(Map<String, Value> request) {
    var found = new Metadata();
    if (request.containsKey("metadata")) {
      for (var pair : request.get("metadata").getListValue().getValuesList()) {
        var name = pair.getListValue().getValues(0).getStringValue();
        var value = pair.getListValue().getValues(1).getStringValue();
        if (name.endsWith("-bin")) {
          found.put(Metadata.Key.of(name, Metadata.BINARY_BYTE_MARSHALLER), Base64.getDecoder().decode(value));
        } else {
          found.put(Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER), value);
        }
      }
    }
    return found;
  }

  private static Value pairs(Metadata metadata) {
    var found = ListValue.newBuilder();
    for (var name : metadata.keys()) {
      if (name.endsWith("-bin")) {
        for (var each : metadata.getAll(Metadata.Key.of(name, Metadata.BINARY_BYTE_MARSHALLER))) {
          found.addValues(pair(name, Base64.getEncoder().encodeToString(each)));
        }
      } else {
        for (var each : metadata.getAll(Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER))) {
          found.addValues(pair(name, each));
        }
      }
    }
    return Value.newBuilder().setListValue(found).build();
  }

  private static Value pair(String name, String value) {
    return Value.newBuilder().setListValue(ListValue.newBuilder().addValues(value(name)).addValues(value(value))).build();
  }

  /** As grpc-java wants a service configuration: maps, lists, strings, doubles, booleans. */
  private static Object plain(Value value) {
    return switch (value.getKindCase()) {
      case STRUCT_VALUE -> {
        var found = new java.util.HashMap<String, Object>();
        value.getStructValue().getFieldsMap().forEach((name, each) -> found.put(name, plain(each)));
        yield found;
      }
      case LIST_VALUE -> value.getListValue().getValuesList().stream().map(Driver::plain).toList();
      case NUMBER_VALUE -> value.getNumberValue();
      case BOOL_VALUE -> value.getBoolValue();
      default -> value.getStringValue();
    };
  }

  private static String text(Map<String, Value> from, String name) {
    return from.containsKey(name) ? from.get(name).getStringValue() : "";
  }

  private static int number(Map<String, Value> from, String name) {
    return from.containsKey(name) ? (int) from.get(name).getNumberValue() : 0;
  }

  private static boolean flag(Map<String, Value> from, String name) {
    return from.containsKey(name) && from.get(name).getBoolValue();
  }

  private static Value value(String text) {
    return Value.newBuilder().setStringValue(text).build();
  }

  private static Value value(double number) {
    return Value.newBuilder().setNumberValue(number).build();
  }
}
