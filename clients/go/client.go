// Package agentclient calls agents, normally through the sidecar beside the caller.
//
// A call has a deadline, may have an idempotency key, and fails with an error that [FailureOf] takes apart: who refused, why, and
// when repeating helps.
package agentclient

//go:generate ./generate.sh

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/structpb"

	agentv1 "mesh.local/agentclient/agent/v1"
)

// batchRecords is how many records of an ingest go in one message.
const batchRecords = 100

// TLSFiles are the files of a connection with (mutual) TLS. Certificate and key are read again for each connection, so that
// certificates can be rotated under a client that stays.
type TLSFiles struct {
	CA, Certificate, Key string
	// ServerName is what the server's certificate must be for; empty: the host that is dialled.
	ServerName string
}

// Options of a client. The zero value speaks clear text, as one does to the sidecar on loopback.
type Options struct {
	TLS *TLSFiles
	// Agent that is called; may be empty where only one is served.
	Agent string
	// Timeout of calls whose context has no deadline; 0: none.
	Timeout time.Duration
}

// Client calls agents over one channel. It may be used by many goroutines.
type Client struct {
	connection *grpc.ClientConn
	stub       agentv1.AgentServiceClient
	options    Options
}

// New makes a client for target, "host:port" or "unix:/path". It connects with the first call.
func New(target string, options Options) (*Client, error) {
	security := insecure.NewCredentials()
	if options.TLS != nil {
		config, err := options.TLS.config()
		if err != nil {
			return nil, err
		}
		security = credentials.NewTLS(config)
	}
	connection, err := grpc.NewClient(target, grpc.WithTransportCredentials(security))
	if err != nil {
		return nil, fmt.Errorf("target %s: %w", target, err)
	}
	return &Client{connection, agentv1.NewAgentServiceClient(connection), options}, nil
}

// Close ends the channel and all calls on it.
func (c *Client) Close() error { return c.connection.Close() }

// Call is what one call may carry beside its message.
type Call struct {
	// IdempotencyKey: under the same key the operation is done once.
	IdempotencyKey string
	// SessionID the call belongs to; may be empty.
	SessionID string
}

// Execute runs one operation.
func (c *Client) Execute(ctx context.Context, operation string, parameters map[string]any, call Call) (*agentv1.ExecuteResult, error) {
	fields, err := structpb.NewStruct(parameters)
	if err != nil {
		return nil, err
	}
	ctx, cancel := c.within(ctx)
	defer cancel()
	answer, err := c.stub.Execute(call.in(ctx), &agentv1.ExecuteRequest{
		Agent: c.options.Agent, Operation: operation, Parameters: fields, SessionId: call.SessionID,
	})
	return answer.GetResult(), err
}

// Stream runs one operation and gives each event as it happens, the result last. Leaving the loop early cancels the work.
func (c *Client) Stream(
	ctx context.Context, operation string, parameters map[string]any, call Call,
) iter.Seq2[*agentv1.ExecuteStreamResponse, error] {
	return func(yield func(*agentv1.ExecuteStreamResponse, error) bool) {
		fields, err := structpb.NewStruct(parameters)
		if err != nil {
			yield(nil, err)
			return
		}
		ctx, cancel := c.within(ctx)
		defer cancel()
		stream, err := c.stub.ExecuteStream(call.in(ctx), &agentv1.ExecuteStreamRequest{
			Agent: c.options.Agent, Operation: operation, Parameters: fields, SessionId: call.SessionID,
		})
		if err != nil {
			yield(nil, err)
			return
		}
		received(stream.Recv, yield)
	}
}

// Ingest sends records, read one at a time and packed into messages as they come; their number does not matter.
func (c *Client) Ingest(ctx context.Context, parameters map[string]any, records iter.Seq2[map[string]any, error]) (*agentv1.IngestResponse, error) {
	fields, err := structpb.NewStruct(parameters)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.stub.Ingest(ctx)
	if err != nil {
		return nil, err
	}
	target := &agentv1.IngestTarget{Agent: c.options.Agent, Parameters: fields}
	err = stream.Send(&agentv1.IngestRequest{Payload: &agentv1.IngestRequest_Target{Target: target}})
	batch := &agentv1.IngestBatch{}
	send := func() error {
		message := &agentv1.IngestRequest{Payload: &agentv1.IngestRequest_Batch{Batch: batch}}
		batch = &agentv1.IngestBatch{}
		return stream.Send(message)
	}
	for record, failed := range records {
		if failed != nil {
			return nil, failed
		}
		if err != nil {
			break
		}
		fields, failed := structpb.NewStruct(record)
		if failed != nil {
			return nil, failed
		}
		batch.Records = append(batch.Records, &agentv1.IngestRecord{Fields: fields})
		if len(batch.Records) == batchRecords {
			err = send()
		}
	}
	if err == nil && len(batch.Records) > 0 {
		err = send()
	}
	// io.EOF: the server has ended the stream already; CloseAndRecv says how.
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return stream.CloseAndRecv()
}

// Converse holds a conversation: each turn is sent as it comes, and answered in order. A turn that fails is an answer with an error
// in it. Leaving the loop early cancels the conversation.
func (c *Client) Converse(ctx context.Context, turns iter.Seq[*agentv1.ConverseRequest]) iter.Seq2[*agentv1.ConverseResponse, error] {
	return func(yield func(*agentv1.ConverseResponse, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := c.stub.Converse(ctx)
		if err != nil {
			yield(nil, err)
			return
		}
		go func() {
			for turn := range turns {
				if turn.Agent == "" {
					turn.Agent = c.options.Agent
				}
				if stream.Send(turn) != nil {
					return // The receiving side learns why.
				}
			}
			_ = stream.CloseSend()
		}()
		received(stream.Recv, yield)
	}
}

// Describe tells what the server can do.
func (c *Client) Describe(ctx context.Context) (*agentv1.DescribeResponse, error) {
	ctx, cancel := c.within(ctx)
	defer cancel()
	return c.stub.Describe(ctx, &agentv1.DescribeRequest{Agent: c.options.Agent})
}

func (c *Client) within(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, has := ctx.Deadline(); has || c.options.Timeout == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, c.options.Timeout)
}

func (call Call) in(ctx context.Context) context.Context {
	if call.IdempotencyKey == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "idempotency-key", call.IdempotencyKey)
}

func received[M any](receive func() (*M, error), yield func(*M, error) bool) {
	for {
		message, err := receive()
		if errors.Is(err, io.EOF) {
			return
		}
		if !yield(message, err) || err != nil {
			return
		}
	}
}

func (files TLSFiles) config() (*tls.Config, error) {
	pem, err := os.ReadFile(files.CA)
	if err != nil {
		return nil, fmt.Errorf("CA: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("CA: %s holds no certificate", files.CA)
	}
	config := &tls.Config{RootCAs: roots, ServerName: files.ServerName, MinVersion: tls.VersionTLS12}
	if files.Certificate != "" {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(files.Certificate, files.Key)
			return &pair, err
		}
	}
	return config, nil
}
