// Makes many calls at once on one channel and prints how they ended: {"OK": 6000, "UNAVAILABLE ...": 2}.
//
// Arguments: target, key, calls at once, calls of each caller, streams, the request of GetSession and that of
// WatchSession in base64. The streams are opened first and stay open until all calls have ended.
package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	getSession   = "/sessiond.v1.SessionService/GetSession"
	watchSession = "/sessiond.v1.EventService/WatchSession"
)

// rawCodec passes bytes through: no generated code is needed.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(value any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(value.([]byte))}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, value any) error {
	*value.(*[]byte) = data.Materialize()
	return nil
}

type tally struct {
	sync.Mutex
	ends map[string]int
}

func (t *tally) add(err error) {
	name := "OK"
	if err != nil {
		name = status.Code(err).String() + " " + status.Convert(err).Message()
	}
	t.Lock()
	defer t.Unlock()
	t.ends[name]++
}

func main() {
	target, key := os.Args[1], os.Args[2]
	callers, each, streams := number(os.Args[3]), number(os.Args[4]), number(os.Args[5])
	get, watch := decoded(os.Args[6]), decoded(os.Args[7])
	channel, err := grpc.NewClient("passthrough:///"+target,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{})),
		grpc.WithDisableRetry())
	check(err)
	ctx, cancel := context.WithTimeout(
		metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+key), 4*time.Minute)
	defer cancel()
	ends := &tally{ends: map[string]int{}}
	var opened sync.WaitGroup
	for range streams {
		opened.Go(func() { ends.add(open(ctx, channel, watch)) })
	}
	opened.Wait()
	var done sync.WaitGroup
	for range callers {
		done.Go(func() {
			for range each {
				var answer []byte
				ends.add(channel.Invoke(ctx, getSession, get, &answer))
			}
		})
	}
	done.Wait()
	check(json.NewEncoder(os.Stdout).Encode(ends.ends))
}

// open returns with the first frame; the stream stays open until the context ends.
func open(ctx context.Context, channel *grpc.ClientConn, request []byte) error {
	stream, err := channel.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, watchSession)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(request); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	var frame []byte
	return stream.RecvMsg(&frame)
}

func number(text string) int {
	value, err := strconv.Atoi(text)
	check(err)
	return value
}

func decoded(text string) []byte {
	data, err := base64.StdEncoding.DecodeString(text)
	check(err)
	return data
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
