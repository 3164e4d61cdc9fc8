// The driver of @grpc/grpc-js; see ../README.md. The library is the one of clients/node.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const grpc = createRequire(new URL("../../../../clients/node/package.json", import.meta.url))("@grpc/grpc-js");
const channels = new Map();
const stopped = new Set();
const same = (bytes) => bytes;

const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);

function dial(request) {
  const { tls, target } = request;
  const options = { "grpc.max_receive_message_length": 16 << 20 };
  if (request.keepalive) options["grpc.keepalive_time_ms"] = request.keepalive * 1000;
  if (request.service_config) options["grpc.service_config"] = request.service_config;
  if (request.gzip) options["grpc.default_compression_algorithm"] = 2;
  if (request.fresh) options["grpc.use_local_subchannel_pool"] = 1;
  if (!tls) return new grpc.Client(target, grpc.credentials.createInsecure(), options);
  options["grpc.ssl_target_name_override"] = tls.server_name;
  const security = grpc.credentials.createSsl(readFileSync(tls.ca), readFileSync(tls.key), readFileSync(tls.certificate));
  return new grpc.Client(target, security, options);
}

function channel(request) {
  if (request.fresh) return dial(request);
  const { target, tls, keepalive, service_config, gzip } = request;
  const name = JSON.stringify([target, tls, keepalive, service_config, gzip]);
  if (!channels.has(name)) channels.set(name, dial(request));
  return channels.get(name);
}

function pairs(metadata) {
  const found = [];
  for (const name of Object.keys(metadata?.getMap() ?? {})) {
    for (const value of metadata.get(name)) found.push([name, Buffer.isBuffer(value) ? value.toString("base64") : value]);
  }
  return found;
}

function call(request, client) {
  const messages = request.messages.map((each) => (typeof each === "number" ? Buffer.alloc(each) : Buffer.from(each, "base64")));
  const metadata = new grpc.Metadata();
  for (const [name, value] of request.metadata ?? []) {
    metadata.add(name, name.endsWith("-bin") ? Buffer.from(value, "base64") : value);
  }
  const options = request.timeout == null ? {} : { deadline: Date.now() + 1000 * request.timeout };
  const { method, kind } = request;
  return new Promise((resolve) => {
    const answers = [];
    let initial = [];
    const take = (data) =>
      answers.push({
        size: data.length,
        sha256: createHash("sha256").update(data).digest("hex"),
        data: data.subarray(0, 4096).toString("base64"),
      });
    let running;
    const answered = (error, data) => !error && take(data);
    if (kind === "unary") running = client.makeUnaryRequest(method, same, same, messages[0], metadata, options, answered);
    else if (kind === "client") running = client.makeClientStreamRequest(method, same, same, metadata, options, answered);
    else if (kind === "server") running = client.makeServerStreamRequest(method, same, same, messages[0], metadata, options);
    else running = client.makeBidiStreamRequest(method, same, same, metadata, options);
    if (kind === "server" || kind === "bidi") {
      running.on("data", (data) => {
        take(data);
        if (answers.length === request.cancel_after) running.cancel();
      });
      running.on("error", () => {}); // The status tells.
    }
    running.on("metadata", (found) => {
      initial = pairs(found);
    });
    running.on("status", ({ code, details, metadata: trailers }) =>
      // The answer of a unary call comes in the same turn, after the status.
      setImmediate(() => resolve({ code, message: details, initial, trailers: pairs(trailers), answers })),
    );
    if (kind === "client" || kind === "bidi") {
      for (const message of messages) running.write(message);
      running.end();
    }
  });
}

async function load(request) {
  let calls = 0;
  const failures = [];
  while (!stopped.has(request.id)) {
    const client = channel(request);
    const { code, message } = await call(request, client);
    if (request.fresh) client.close();
    calls += 1;
    if (code !== 0) failures.push({ code, message });
    if (calls % 10 === 0) say({ id: request.id, progress: calls, failures: failures.length });
  }
  return { calls, failures };
}

createInterface({ input: process.stdin }).on("line", async (line) => {
  const request = JSON.parse(line);
  if (request.op === "stop") {
    stopped.add(request.of);
    return;
  }
  try {
    say({ id: request.id, ...(await (request.op === "load" ? load(request) : call(request, channel(request)))) });
  } catch (error) {
    say({ id: request.id, error: String(error?.stack ?? error) });
  }
}).on("close", () => process.exit(0));
