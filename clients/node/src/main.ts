#!/usr/bin/env node
/**
 * Calls an agent of any kind of RPC from a shell. Prints JSON, one value per line.
 * Exit codes: 0 OK, 1 failed before a call was made, 2 wrong usage, 64 + the gRPC status number when a call failed.
 */
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import { AgentClient, CallFailure, type Fields } from "./client.js";

const STATUS_OFFSET = 64;
const USAGE =
  "usage: agent-client [flags] describe | execute OPERATION JSON | stream OPERATION JSON | ingest JSON < RECORDS | converse < TEXTS";

const { values: flags, positionals: words } = parseArgs({
  allowPositionals: true,
  options: {
    target: { type: "string", default: "127.0.0.1:50051" },
    agent: { type: "string", default: "" },
    timeout: { type: "string", default: "60" },
    "idempotency-key": { type: "string" },
    "tls-ca": { type: "string" },
    "tls-cert": { type: "string" },
    "tls-key": { type: "string" },
    "server-name": { type: "string" },
  },
});

const lines = () => createInterface({ input: process.stdin, crlfDelay: Number.POSITIVE_INFINITY });

async function* records(): AsyncGenerator<Fields> {
  for await (const line of lines()) yield JSON.parse(line) as Fields;
}

function show(value: unknown): void {
  console.log(JSON.stringify(value, (_, each: unknown) => (each instanceof Uint8Array ? Buffer.from(each).toString("base64") : each)));
}

async function run(client: AgentClient): Promise<number> {
  const call = { idempotencyKey: flags["idempotency-key"] };
  const [command, first = "", second = ""] = words;
  switch (`${command} ${words.length - 1}`) {
    case "describe 0":
      show(await client.describe());
      return 0;
    case "execute 2":
      show(await client.execute(first, JSON.parse(second) as Fields, call));
      return 0;
    case "stream 2":
      for await (const event of client.stream(first, JSON.parse(second) as Fields, call)) show(event);
      return 0;
    case "ingest 1":
      show(await client.ingest(JSON.parse(first) as Fields, records()));
      return 0;
    case "converse 0":
      for await (const answer of client.converse(lines())) show(answer);
      return 0;
    default:
      console.error(USAGE);
      return 2;
  }
}

async function main(): Promise<number> {
  let client: AgentClient | undefined;
  try {
    const tls = flags["tls-ca"]
      ? {
          ca: flags["tls-ca"],
          certificate: flags["tls-cert"] ?? "",
          key: flags["tls-key"] ?? "",
          serverName: flags["server-name"],
        }
      : undefined;
    client = new AgentClient(flags.target, { tls, agent: flags.agent, timeoutMs: 1000 * Number(flags.timeout) });
    return await run(client);
  } catch (error) {
    if (error instanceof CallFailure) {
      console.error(JSON.stringify({ error }));
      return STATUS_OFFSET + error.code;
    }
    console.error(String(error));
    return 1;
  } finally {
    client?.close();
  }
}

process.exitCode = await main();
