// The driver of grpc-go; see ../README.md.
package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

type files struct {
	CA          string `json:"ca"`
	Certificate string `json:"certificate"`
	Key         string `json:"key"`
	ServerName  string `json:"server_name"`
}

type request struct {
	ID            int               `json:"id"`
	Op            string            `json:"op"`
	Of            int               `json:"of"`
	Target        string            `json:"target"`
	TLS           *files            `json:"tls"`
	Method        string            `json:"method"`
	Kind          string            `json:"kind"`
	Messages      []json.RawMessage `json:"messages"`
	Metadata      [][2]string       `json:"metadata"`
	Timeout       *float64          `json:"timeout"`
	Gzip          bool              `json:"gzip"`
	CancelAfter   *int              `json:"cancel_after"`
	Keepalive     int               `json:"keepalive"`
	ServiceConfig string            `json:"service_config"`
	Fresh         bool              `json:"fresh"`
}

type answer struct {
	Size   int    `json:"size"`
	SHA256 string `json:"sha256"`
	Data   string `json:"data"`
}

type ending struct {
	ID       int         `json:"id"`
	Code     int         `json:"code"`
	Message  string      `json:"message"`
	Initial  [][2]string `json:"initial"`
	Trailers [][2]string `json:"trailers"`
	Answers  []answer    `json:"answers"`
	Error    string      `json:"error,omitempty"`
}

type failure struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

// raw passes messages as they are.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (raw) Unmarshal(data []byte, v any) error { *v.(*[]byte) = append([]byte(nil), data...); return nil }
func (raw) Name() string                       { return "proto" }

var (
	lock     sync.Mutex
	channels = map[string]*grpc.ClientConn{}
	stops    = map[int]chan struct{}{}
)

func say(value any) {
	text, _ := json.Marshal(value)
	lock.Lock()
	defer lock.Unlock()
	fmt.Println(string(text))
}

func dial(r *request) (*grpc.ClientConn, error) {
	security := insecure.NewCredentials()
	if r.TLS != nil {
		pem, err := os.ReadFile(r.TLS.CA)
		if err != nil {
			return nil, err
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
		pair, err := tls.LoadX509KeyPair(r.TLS.Certificate, r.TLS.Key)
		if err != nil {
			return nil, err
		}
		security = credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: r.TLS.ServerName, Certificates: []tls.Certificate{pair}})
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(security),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20), grpc.ForceCodec(raw{})),
	}
	if r.Keepalive > 0 {
		options = append(options, grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: time.Duration(r.Keepalive) * time.Second}))
	}
	if r.ServiceConfig != "" {
		options = append(options, grpc.WithDefaultServiceConfig(r.ServiceConfig))
	}
	return grpc.NewClient(r.Target, options...)
}

func channel(r *request) (*grpc.ClientConn, error) {
	if r.Fresh {
		return dial(r)
	}
	name, _ := json.Marshal([]any{r.Target, r.TLS, r.Keepalive, r.ServiceConfig})
	lock.Lock()
	defer lock.Unlock()
	if found := channels[string(name)]; found != nil {
		return found, nil
	}
	made, err := dial(r)
	if err == nil {
		channels[string(name)] = made
	}
	return made, err
}

func pairs(md metadata.MD) [][2]string {
	found := [][2]string{}
	for name, values := range md {
		for _, value := range values {
			if strings.HasSuffix(name, "-bin") {
				value = base64.StdEncoding.EncodeToString([]byte(value))
			}
			found = append(found, [2]string{name, value})
		}
	}
	return found
}

func call(r *request, connection *grpc.ClientConn) (*ending, error) {
	messages := make([][]byte, len(r.Messages))
	for i, each := range r.Messages {
		var size int
		var text string
		if json.Unmarshal(each, &size) == nil {
			messages[i] = make([]byte, size)
		} else if err := json.Unmarshal(each, &text); err != nil {
			return nil, err
		} else if messages[i], err = base64.StdEncoding.DecodeString(text); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if r.Timeout != nil {
		ctx, cancel = context.WithTimeout(ctx, time.Duration(*r.Timeout*float64(time.Second)))
		defer cancel()
	}
	for _, pair := range r.Metadata {
		value := pair[1]
		if strings.HasSuffix(pair[0], "-bin") {
			decoded, err := base64.StdEncoding.DecodeString(value)
			if err != nil {
				return nil, err
			}
			value = string(decoded)
		}
		ctx = metadata.AppendToOutgoingContext(ctx, pair[0], value)
	}
	var options []grpc.CallOption
	if r.Gzip {
		options = append(options, grpc.UseCompressor("gzip"))
	}
	found := &ending{Answers: []answer{}}
	take := func(data []byte) {
		sum := sha256.Sum256(data)
		found.Answers = append(found.Answers, answer{len(data), hex.EncodeToString(sum[:]), base64.StdEncoding.EncodeToString(data[:min(len(data), 4096)])})
	}
	var err error
	if r.Kind == "unary" {
		var data []byte
		var header, trailer metadata.MD
		err = connection.Invoke(ctx, r.Method, &messages[0], &data, append(options, grpc.Header(&header), grpc.Trailer(&trailer))...)
		if err == nil {
			take(data)
		}
		found.Initial, found.Trailers = pairs(header), pairs(trailer)
	} else {
		description := &grpc.StreamDesc{ServerStreams: r.Kind != "client", ClientStreams: r.Kind != "server"}
		var stream grpc.ClientStream
		stream, err = connection.NewStream(ctx, description, r.Method, options...)
		if err == nil {
			go func() {
				for i := range messages {
					if stream.SendMsg(&messages[i]) != nil {
						return
					}
				}
				_ = stream.CloseSend()
			}()
			for {
				var data []byte
				if err = stream.RecvMsg(&data); err != nil {
					break
				}
				take(data)
				if r.CancelAfter != nil && len(found.Answers) == *r.CancelAfter {
					cancel()
				}
				if r.Kind == "client" {
					break
				}
			}
			if errors.Is(err, io.EOF) {
				err = nil
			}
			if header, failed := stream.Header(); failed == nil {
				found.Initial = pairs(header)
			}
			found.Trailers = pairs(stream.Trailer())
		}
	}
	said := status.Convert(err)
	found.Code, found.Message = int(said.Code()), said.Message()
	return found, nil
}

func load(r *request, stop chan struct{}) {
	calls, failures := 0, []failure{}
	for {
		select {
		case <-stop:
			say(map[string]any{"id": r.ID, "calls": calls, "failures": failures})
			return
		default:
		}
		connection, err := channel(r)
		found := &ending{}
		if err == nil {
			found, err = call(r, connection)
			if r.Fresh {
				connection.Close()
			}
		}
		calls++
		if err != nil {
			failures = append(failures, failure{-1, err.Error()})
		} else if found.Code != 0 {
			failures = append(failures, failure{found.Code, found.Message})
		}
		if calls%10 == 0 {
			say(map[string]any{"id": r.ID, "progress": calls, "failures": len(failures)})
		}
	}
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		r := &request{}
		if err := json.Unmarshal(lines.Bytes(), r); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		switch r.Op {
		case "stop":
			lock.Lock()
			close(stops[r.Of])
			lock.Unlock()
		case "load":
			stop := make(chan struct{})
			lock.Lock()
			stops[r.ID] = stop
			lock.Unlock()
			go load(r, stop)
		default:
			go func() {
				connection, err := channel(r)
				found := &ending{}
				if err == nil {
					found, err = call(r, connection)
				}
				if err != nil {
					found = &ending{Error: err.Error()}
				}
				found.ID = r.ID
				say(found)
			}()
		}
	}
}
