package mesh.client;

import com.google.protobuf.Struct;
import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import io.grpc.stub.ClientCallStreamObserver;
import io.grpc.stub.ClientResponseObserver;
import io.grpc.stub.MetadataUtils;
import java.io.File;
import java.io.IOException;
import java.time.Duration;
import java.util.Iterator;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import mesh.agent.v1.AgentServiceGrpc;
import mesh.agent.v1.ConverseRequest;
import mesh.agent.v1.ConverseResponse;
import mesh.agent.v1.DescribeRequest;
import mesh.agent.v1.DescribeResponse;
import mesh.agent.v1.ExecuteRequest;
import mesh.agent.v1.ExecuteResult;
import mesh.agent.v1.ExecuteStreamRequest;
import mesh.agent.v1.ExecuteStreamResponse;
import mesh.agent.v1.IngestBatch;
import mesh.agent.v1.IngestRecord;
import mesh.agent.v1.IngestRequest;
import mesh.agent.v1.IngestResponse;
import mesh.agent.v1.IngestTarget;

/**
 * Calls agents over one channel; may be used by many threads. What fails throws {@link StatusRuntimeException}, which {@link
 * CallFailure#of} takes apart.
 */
public final class AgentClient implements AutoCloseable {
  private static final Metadata.Key<String> IDEMPOTENCY_KEY =
      Metadata.Key.of("idempotency-key", Metadata.ASCII_STRING_MARSHALLER);
  private static final int BATCH_RECORDS = 100;

  private final ManagedChannel channel;
  private final String agent;
  private final Duration timeout;

  private AgentClient(ManagedChannel channel, String agent, Duration timeout) {
    this.channel = channel;
    this.agent = agent;
    this.timeout = timeout;
  }

  /**
   * A client that speaks clear text, as one does to the sidecar on loopback.
   *
   * @param agent may be empty where only one is served
   * @param timeout deadline of each call but streams of ours
   */
  public static AgentClient plain(String target, String agent, Duration timeout) {
    return new AgentClient(Grpc.newChannelBuilder(target, InsecureChannelCredentials.create()).build(), agent, timeout);
  }

  /**
   * A client that speaks mTLS. The files are read now; after a rotation make a new client.
   *
   * @param serverName what the server's certificate must be for; empty: the host that is dialled
   * @throws IOException when a file cannot be read
   */
  public static AgentClient secure(
      String target, File ca, File certificate, File key, String serverName, String agent, Duration timeout)
      throws IOException {
    ChannelCredentials credentials =
        TlsChannelCredentials.newBuilder().trustManager(ca).keyManager(certificate, key).build();
    var builder = Grpc.newChannelBuilder(target, credentials);
    if (!serverName.isEmpty()) {
      builder.overrideAuthority(serverName);
    }
    return new AgentClient(builder.build(), agent, timeout);
  }

  /**
   * Runs one operation.
   *
   * @param idempotencyKey under the same key the operation is done once; may be empty
   */
  public ExecuteResult execute(String operation, Struct parameters, String idempotencyKey) {
    var request = ExecuteRequest.newBuilder().setAgent(agent).setOperation(operation).setParameters(parameters).build();
    return blocking(idempotencyKey).execute(request).getResult();
  }

  /** Runs one operation and gives each event as it happens, the result last. */
  public Iterator<ExecuteStreamResponse> stream(String operation, Struct parameters, String idempotencyKey) {
    var request =
        ExecuteStreamRequest.newBuilder().setAgent(agent).setOperation(operation).setParameters(parameters).build();
    return blocking(idempotencyKey).executeStream(request);
  }

  /** Sends records, read as fast as the server takes them and packed into messages; their number does not matter. */
  public IngestResponse ingest(Struct parameters, Iterator<Struct> records) throws InterruptedException {
    var target = IngestTarget.newBuilder().setAgent(agent).setParameters(parameters);
    var messages =
        new Iterator<IngestRequest>() {
          private boolean begun;

          @Override
          public boolean hasNext() {
            return !begun || records.hasNext();
          }

          @Override
          public IngestRequest next() {
            if (!begun) {
              begun = true;
              return IngestRequest.newBuilder().setTarget(target).build();
            }
            var batch = IngestBatch.newBuilder();
            while (records.hasNext() && batch.getRecordsCount() < BATCH_RECORDS) {
              batch.addRecords(IngestRecord.newBuilder().setFields(records.next()));
            }
            return IngestRequest.newBuilder().setBatch(batch).build();
          }
        };
    var last = new IngestResponse[1];
    var sender = new Sender<IngestRequest, IngestResponse>(messages, answer -> last[0] = answer);
    AgentServiceGrpc.newStub(channel).ingest(sender);
    sender.await();
    return last[0];
  }

  /** Holds a conversation: each turn is sent as it comes, and answered in order. A turn that fails is an answer with an error. */
  public void converse(Iterator<String> texts, Consumer<ConverseResponse> answers) throws InterruptedException {
    var turns =
        new Iterator<ConverseRequest>() {
          @Override
          public boolean hasNext() {
            return texts.hasNext();
          }

          @Override
          public ConverseRequest next() {
            return ConverseRequest.newBuilder().setAgent(agent).setText(texts.next()).build();
          }
        };
    var sender = new Sender<ConverseRequest, ConverseResponse>(turns, answers);
    AgentServiceGrpc.newStub(channel).converse(sender);
    sender.await();
  }

  /** Tells what the server can do. */
  public DescribeResponse describe() {
    return blocking("").describe(DescribeRequest.newBuilder().setAgent(agent).build());
  }

  @Override
  public void close() throws InterruptedException {
    channel.shutdownNow().awaitTermination(5, TimeUnit.SECONDS);
  }

  private AgentServiceGrpc.AgentServiceBlockingStub blocking(String idempotencyKey) {
    var stub = AgentServiceGrpc.newBlockingStub(channel).withDeadlineAfter(timeout.toMillis(), TimeUnit.MILLISECONDS);
    if (idempotencyKey.isEmpty()) {
      return stub;
    }
    var metadata = new Metadata();
    metadata.put(IDEMPOTENCY_KEY, idempotencyKey);
    return stub.withInterceptors(MetadataUtils.newAttachHeadersInterceptor(metadata));
  }

  /** Sends while the transport is ready for more, so that memory stays small however many messages there are. */
  private static final class Sender<Q, A> implements ClientResponseObserver<Q, A> {
    private final Iterator<Q> messages;
    private final Consumer<A> answers;
    private final CompletableFuture<Void> ended = new CompletableFuture<>();
    private boolean isComplete;

    Sender(Iterator<Q> messages, Consumer<A> answers) {
      this.messages = messages;
      this.answers = answers;
    }

    void await() throws InterruptedException {
      try {
        ended.get();
      } catch (ExecutionException error) {
        if (error.getCause() instanceof StatusRuntimeException failed) {
          throw failed;
        }
        throw new IllegalStateException(error.getCause());
      }
    }

    @Override
    public void beforeStart(ClientCallStreamObserver<Q> call) {
      call.setOnReadyHandler(
          () -> {
            try {
              while (!isComplete && call.isReady()) {
                if (messages.hasNext()) {
                  call.onNext(messages.next());
                } else {
                  isComplete = true;
                  call.onCompleted();
                }
              }
            } catch (RuntimeException unreadable) { // of the caller's iterator
              isComplete = true;
              ended.completeExceptionally(unreadable);
              call.cancel("the messages cannot be read", unreadable);
            }
          });
    }

    @Override
    public void onNext(A answer) {
      answers.accept(answer);
    }

    @Override
    public void onError(Throwable error) {
      ended.completeExceptionally(error);
    }

    @Override
    public void onCompleted() {
      ended.complete(null);
    }
  }
}
