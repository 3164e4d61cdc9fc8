// Command agentclient calls an agent of any kind of RPC from a shell. Prints JSON, one value per line.
//
//	agentclient -target 127.0.0.1:8080 execute query '{"sql": "SELECT 1 AS one"}'
//	agentclient ingest '{"table": "people"}' < records.jsonl
//
// Exit codes: 0 OK, 1 failed before a call was made, 2 wrong usage, 64 + the gRPC status number when a call failed.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"iter"
	"os"
	"time"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"mesh.local/agentclient"
	agentv1 "mesh.local/agentclient/agent/v1"
)

const statusOffset = 64

var errUsage = errors.New("usage: agentclient [flags] describe | execute OPERATION JSON | stream OPERATION JSON | ingest JSON < RECORDS | converse < TEXTS")

func main() {
	target := flag.String("target", "127.0.0.1:50051", "host:port or unix:/path")
	agent := flag.String("agent", "", "agent to call; may be left out where only one is served")
	ca := flag.String("tls-ca", "", "speak TLS and check the server by this CA")
	certificate := flag.String("tls-cert", "", "our certificate, for mTLS")
	key := flag.String("tls-key", "", "its key")
	serverName := flag.String("server-name", "", "name the server's certificate is checked against")
	timeout := flag.Duration("timeout", time.Minute, "deadline of a call; not for streams of ours")
	idempotencyKey := flag.String("idempotency-key", "", "repeating under the same key changes nothing")
	flag.Parse()

	options := agentclient.Options{Agent: *agent, Timeout: *timeout}
	if *ca != "" {
		options.TLS = &agentclient.TLSFiles{CA: *ca, Certificate: *certificate, Key: *key, ServerName: *serverName}
	}
	err := run(*target, options, agentclient.Call{IdempotencyKey: *idempotencyKey}, flag.Args())
	if err == nil {
		return
	}
	if _, is := status.FromError(err); is {
		failure := agentclient.FailureOf(err)
		fmt.Fprintln(os.Stderr, string(shown(failure)))
		os.Exit(statusOffset + int(failure.Code))
	}
	fmt.Fprintln(os.Stderr, err)
	if errors.Is(err, errUsage) {
		os.Exit(2)
	}
	os.Exit(1)
}

func run(target string, options agentclient.Options, call agentclient.Call, words []string) error {
	client, err := agentclient.New(target, options)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx := context.Background()
	switch {
	case len(words) == 1 && words[0] == "describe":
		found, err := client.Describe(ctx)
		return printed(found, err)
	case len(words) == 3 && (words[0] == "execute" || words[0] == "stream"):
		parameters, err := object(words[2])
		if err != nil {
			return err
		}
		if words[0] == "execute" {
			found, err := client.Execute(ctx, words[1], parameters, call)
			return printed(found, err)
		}
		for event, err := range client.Stream(ctx, words[1], parameters, call) {
			if err := printed(event, err); err != nil {
				return err
			}
		}
		return nil
	case len(words) == 2 && words[0] == "ingest":
		parameters, err := object(words[1])
		if err != nil {
			return err
		}
		found, err := client.Ingest(ctx, parameters, records(os.Stdin))
		return printed(found, err)
	case len(words) == 1 && words[0] == "converse":
		for answer, err := range client.Converse(ctx, turns(os.Stdin)) {
			if err := printed(answer, err); err != nil {
				return err
			}
		}
		return nil
	}
	return errUsage
}

func object(text string) (map[string]any, error) {
	var found map[string]any
	if err := json.Unmarshal([]byte(text), &found); err != nil {
		return nil, fmt.Errorf("%s is no JSON object: %w", text, err)
	}
	return found, nil
}

func records(from io.Reader) iter.Seq2[map[string]any, error] {
	return func(yield func(map[string]any, error) bool) {
		lines := bufio.NewScanner(from)
		for lines.Scan() {
			record, err := object(lines.Text())
			if !yield(record, err) {
				return
			}
		}
		if err := lines.Err(); err != nil {
			yield(nil, err)
		}
	}
}

func turns(from io.Reader) iter.Seq[*agentv1.ConverseRequest] {
	return func(yield func(*agentv1.ConverseRequest) bool) {
		for lines := bufio.NewScanner(from); lines.Scan(); {
			if !yield(&agentv1.ConverseRequest{Text: lines.Text()}) {
				return
			}
		}
	}
}

func printed(message proto.Message, err error) error {
	if err != nil {
		return err
	}
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(message)
	if err != nil {
		return err
	}
	_, err = fmt.Println(string(text))
	return err
}

func shown(failure *agentclient.Failure) []byte {
	said := map[string]any{
		"code": failure.Code.String(), "number": failure.Code, "message": failure.Message, "reason": failure.Reason,
		"domain": failure.Domain, "metadata": failure.Metadata, "from_sidecar": failure.IsFromSidecar(),
	}
	if failure.RetryAfter != nil {
		said["retry_after"] = failure.RetryAfter.Seconds()
	}
	if failure.Violations != nil {
		said["violations"] = failure.Violations
	}
	text, err := json.Marshal(map[string]any{"error": said})
	if err != nil {
		return []byte(err.Error())
	}
	return text
}
