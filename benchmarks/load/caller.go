package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

func newCaller(plan *Plan) (Caller, error) {
	switch plan.Protocol {
	case "grpc", "pipe":
		var more []grpc.DialOption
		if plan.Key != "" {
			more = append(more, grpc.WithPerRPCCredentials(bearer(plan.Key)))
		}
		caller, err := newGRPCCaller(plan.Target, plan.Connections, more...)
		if err != nil || plan.Protocol == "grpc" {
			return caller, err
		}
		return newPipeCaller(caller)
	case "http":
		transport := &http.Transport{MaxIdleConnsPerHost: 1024, MaxConnsPerHost: 1024}
		return &httpCaller{base: "http://" + plan.Target, client: &http.Client{Transport: transport}}, nil
	}
	return nil, fmt.Errorf("unknown protocol %q", plan.Protocol)
}

// rawCodec passes bytes through, so that the client spends nothing on protobuf.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(value any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(value.([]byte))}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, value any) error {
	switch into := value.(type) {
	case *int:
		*into = data.Len()
	case *[]byte:
		*into = data.Materialize()
	}
	return nil
}

// bearer is an API key, sent without TLS: to loopback only.
type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

func (bearer) RequireTransportSecurity() bool { return false }

type grpcCaller struct{ connections []*grpc.ClientConn }

func newGRPCCaller(target string, connections int, more ...grpc.DialOption) (*grpcCaller, error) {
	caller := &grpcCaller{}
	options := append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{}), grpc.MaxCallRecvMsgSize(16<<20)),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
	}, more...)
	for range connections {
		connection, err := grpc.NewClient("passthrough:///"+target, options...)
		if err != nil {
			return nil, err
		}
		caller.connections = append(caller.connections, connection)
	}
	return caller, nil
}

func (c *grpcCaller) Call(ctx context.Context, connection int, method string, body []byte) (int, string, error) {
	var size int
	err := c.connections[connection].Invoke(ctx, method, body, &size)
	return size, status.Code(err).String(), err
}

func (c *grpcCaller) Close() {
	for _, connection := range c.connections {
		connection.Close()
	}
}

type httpCaller struct {
	base   string
	client *http.Client
}

func (c *httpCaller) Call(ctx context.Context, _ int, method string, body []byte) (int, string, error) {
	verb, path, _ := strings.Cut(method, " ")
	request, err := http.NewRequestWithContext(ctx, verb, c.base+path, bytes.NewReader(body))
	if err != nil {
		return 0, "BAD", err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := c.client.Do(request)
	if err != nil {
		return 0, "FAILED", err
	}
	defer response.Body.Close()
	size, err := io.Copy(io.Discard, response.Body)
	if err != nil {
		return 0, "FAILED", err
	}
	if response.StatusCode >= 300 {
		return 0, strconv.Itoa(response.StatusCode), fmt.Errorf("status %d", response.StatusCode)
	}
	return int(size), "OK", nil
}

func (c *httpCaller) Close() { c.client.CloseIdleConnections() }

// Echo serves any method with the same bytes until the process ends. `ready` is called with the port.
func Echo(size int, ready func(port int)) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	answer := bytes.Repeat([]byte{'x'}, size)
	server := grpc.NewServer(
		grpc.ForceServerCodecV2(rawCodec{}),
		grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
			var request []byte
			if err := stream.RecvMsg(&request); err != nil {
				return err
			}
			return stream.SendMsg(answer)
		}),
	)
	ready(listener.Addr().(*net.TCPAddr).Port)
	return server.Serve(listener)
}
