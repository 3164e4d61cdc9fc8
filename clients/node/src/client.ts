import { readFileSync } from "node:fs";
import type { CallOptions, ClientReadableStream, ServiceError } from "@grpc/grpc-js";
import { credentials, Metadata } from "@grpc/grpc-js";
import type {
  ConverseResponse,
  DescribeResponse,
  ExecuteResult,
  ExecuteStreamResponse,
  IngestResponse,
} from "./api/agent/v1/agent.js";
import {
  AgentServiceClient,
  ConverseRequest,
  DescribeRequest,
  ExecuteRequest,
  ExecuteStreamRequest,
  IngestRequest,
} from "./api/agent/v1/agent.js";
import { CallFailure } from "./failure.js";

export { CallFailure };

/** Values of JSON by name. */
export type Fields = Record<string, unknown>;

/** The files of a connection with mTLS. They are read once: after a rotation make a new client. */
export interface TlsFiles {
  ca: string;
  certificate: string;
  key: string;
  /** What the server's certificate must be for; unset: the host that is dialled. */
  serverName?: string;
}

export interface ClientOptions {
  /** Unset: clear text, as one speaks to the sidecar on loopback. */
  tls?: TlsFiles;
  /** May be left out where only one agent is served. */
  agent?: string;
  /** Deadline of each call but streams of ours, in milliseconds. */
  timeoutMs?: number;
}

export interface OneCall {
  /** Under the same key the operation is done once. */
  idempotencyKey?: string;
  sessionId?: string;
  /** In milliseconds; unset: the client's. */
  timeoutMs?: number;
}

const BATCH_RECORDS = 100;

/** Calls agents over one channel. What fails throws CallFailure. */
export class AgentClient {
  private readonly stub: AgentServiceClient;

  constructor(
    target: string,
    private readonly options: ClientOptions = {},
  ) {
    const { tls } = options;
    const security = tls
      ? credentials.createSsl(readFileSync(tls.ca), readFileSync(tls.key), readFileSync(tls.certificate))
      : credentials.createInsecure();
    this.stub = new AgentServiceClient(
      target,
      security,
      tls?.serverName ? { "grpc.ssl_target_name_override": tls.serverName } : {},
    );
  }

  close(): void {
    this.stub.close();
  }

  /** Runs one operation. */
  execute(operation: string, parameters: Fields, call: OneCall = {}): Promise<ExecuteResult> {
    const request = ExecuteRequest.fromPartial(this.request(operation, parameters, call));
    return new Promise((resolve, reject) => {
      this.stub.execute(request, metadata(call), this.within(call), (error, answer) => {
        if (error) reject(CallFailure.of(error));
        else resolve(answer.result as ExecuteResult);
      });
    });
  }

  /** Runs one operation and gives each event as it happens, the result last. Leaving the loop early cancels the work. */
  stream(operation: string, parameters: Fields, call: OneCall = {}): AsyncGenerator<ExecuteStreamResponse> {
    const request = ExecuteStreamRequest.fromPartial(this.request(operation, parameters, call));
    return received(this.stub.executeStream(request, metadata(call), this.within(call)));
  }

  /** Sends records, read as fast as the server takes them and packed into messages; their number does not matter. */
  async ingest(parameters: Fields, records: Iterable<Fields> | AsyncIterable<Fields>): Promise<IngestResponse> {
    let failed: unknown;
    const ended = deferred<IngestResponse>();
    const sink = this.stub.ingest((error, answer) => {
      if (error) ended.reject(failed ?? CallFailure.of(error));
      else ended.resolve(answer);
    });
    const target = { agent: this.options.agent ?? "", parameters };
    const messages = async function* () {
      yield IngestRequest.fromPartial({ target });
      let batch: { fields: Fields }[] = [];
      for await (const fields of records) {
        batch.push({ fields });
        if (batch.length === BATCH_RECORDS) {
          yield IngestRequest.fromPartial({ batch: { records: batch } });
          batch = [];
        }
      }
      if (batch.length > 0) yield IngestRequest.fromPartial({ batch: { records: batch } });
    };
    sent(messages(), sink).catch((error: unknown) => {
      failed = error;
      sink.cancel();
    });
    return ended.promise;
  }

  /** Holds a conversation: each turn is sent as it comes, and answered in order. A turn that fails is an answer with an error. */
  async *converse(texts: Iterable<string> | AsyncIterable<string>): AsyncGenerator<ConverseResponse> {
    const call = this.stub.converse();
    const agent = this.options.agent ?? "";
    const turns = async function* () {
      for await (const text of texts) yield ConverseRequest.fromPartial({ agent, text });
    };
    let failed: unknown;
    sent(turns(), call).catch((error: unknown) => {
      failed = error;
      call.cancel();
    });
    try {
      yield* received(call);
    } catch (error) {
      throw failed ?? error;
    }
  }

  /** Tells what the server can do. */
  describe(): Promise<DescribeResponse> {
    const request = DescribeRequest.fromPartial({ agent: this.options.agent ?? "" });
    return new Promise((resolve, reject) => {
      this.stub.describe(request, new Metadata(), this.within({}), (error, answer) => {
        if (error) reject(CallFailure.of(error));
        else resolve(answer);
      });
    });
  }

  private request(operation: string, parameters: Fields, call: OneCall) {
    return { agent: this.options.agent ?? "", operation, parameters, session_id: call.sessionId ?? "" };
  }

  private within(call: OneCall): CallOptions {
    const timeout = call.timeoutMs ?? this.options.timeoutMs;
    return timeout === undefined ? {} : { deadline: Date.now() + timeout };
  }
}

function metadata(call: OneCall): Metadata {
  const found = new Metadata();
  if (call.idempotencyKey) found.set("idempotency-key", call.idempotencyKey);
  return found;
}

async function* received<T>(call: ClientReadableStream<T>): AsyncGenerator<T> {
  try {
    for await (const message of call) yield message as T;
  } catch (error) {
    throw CallFailure.of(error as ServiceError);
  } finally {
    call.cancel();
  }
}

interface Sink<T> {
  write(message: T): boolean;
  end(): void;
  once(event: "drain" | "close", then: () => void): unknown;
  off(event: "drain" | "close", then: () => void): unknown;
  readonly destroyed: boolean;
}

/** Waits while the transport is full, so that memory stays small however many messages there are. */
async function sent<T>(messages: AsyncIterable<T>, to: Sink<T>): Promise<void> {
  for await (const message of messages) {
    if (to.destroyed) return;
    if (!to.write(message)) {
      await new Promise<void>((resolve) => {
        const go = () => {
          to.off("drain", go);
          to.off("close", go);
          resolve();
        };
        to.once("drain", go);
        to.once("close", go);
      });
    }
  }
  to.end();
}

function deferred<T>() {
  let resolve!: (value: T) => void;
  let reject!: (error: unknown) => void;
  const promise = new Promise<T>((take, refuse) => {
    resolve = take;
    reject = refuse;
  });
  return { promise, resolve, reject };
}
