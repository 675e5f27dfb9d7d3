package main

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
)

// TransferPlan moves files, all at the same time, each once and on a connection of its own.
type TransferPlan struct {
	Target string `json:"target"` // host:port
	Method string `json:"method"`
	Upload bool   `json:"upload"`
	Files  []File `json:"files"`
	// Seconds until something that must happen counts as not happening.
	Patience float64 `json:"patience"`
}

// File is one file as messages: of an upload the first, one that follows it, and one that is sent over and over; of a
// download the request. All are base64 in JSON.
type File struct {
	First  []byte `json:"first"`
	Second []byte `json:"second"`
	Others []byte `json:"others"`
	Count  int    `json:"count"` // of the others
}

// TransferReport is what happened between "start" and "end".
type TransferReport struct {
	Seconds    float64 `json:"seconds"`
	Bytes      int     `json:"bytes"` // of messages, sent or received
	FirstError string  `json:"first_error"`
}

// Transfer moves the files of the plan. `tell` is called with "start" and "end" as the measured time begins and ends.
func Transfer(plan *TransferPlan, tell func(event string)) (*TransferReport, error) {
	if len(plan.Files) == 0 || plan.Patience <= 0 {
		return nil, fmt.Errorf("plan: files and patience are required")
	}
	window := grpc.WithInitialWindowSize(4 << 20)
	caller, err := newGRPCCaller(plan.Target, len(plan.Files), window, grpc.WithInitialConnWindowSize(4<<20))
	if err != nil {
		return nil, err
	}
	defer caller.Close()
	for _, connection := range caller.connections {
		connection.Connect()
	}
	ctx, cancel := context.WithTimeout(context.Background(), seconds(plan.Patience))
	defer cancel()
	report := &TransferReport{}
	var lock sync.Mutex
	var group sync.WaitGroup
	tell("start")
	began := time.Now()
	for number := range plan.Files {
		group.Go(func() {
			moved, err := move(ctx, caller.connections[number], plan, &plan.Files[number])
			lock.Lock()
			defer lock.Unlock()
			report.Bytes += moved
			if err != nil && report.FirstError == "" {
				report.FirstError = err.Error()
			}
		})
	}
	group.Wait()
	report.Seconds = time.Since(began).Seconds()
	tell("end")
	return report, nil
}

func move(ctx context.Context, connection *grpc.ClientConn, plan *TransferPlan, file *File) (int, error) {
	shape := &grpc.StreamDesc{ClientStreams: plan.Upload, ServerStreams: !plan.Upload}
	stream, err := connection.NewStream(ctx, shape, plan.Method)
	if err != nil {
		return 0, err
	}
	if err := stream.SendMsg(file.First); err != nil {
		return 0, receive(stream, err)
	}
	if plan.Upload {
		return send(stream, file)
	}
	if err := stream.CloseSend(); err != nil {
		return 0, err
	}
	for moved := 0; ; {
		var size int
		if err := stream.RecvMsg(&size); err == io.EOF {
			return moved, nil
		} else if err != nil {
			return moved, err
		}
		moved += size
	}
}

// send is an upload once its first message is out: the others go when the server has taken it up.
func send(stream grpc.ClientStream, file *File) (int, error) {
	if _, err := stream.Header(); err != nil {
		return 0, err
	}
	if err := stream.SendMsg(file.Second); err != nil {
		return 0, receive(stream, err)
	}
	moved := len(file.Second)
	for range file.Count {
		if err := stream.SendMsg(file.Others); err != nil {
			return moved, receive(stream, err)
		}
		moved += len(file.Others)
	}
	if err := stream.CloseSend(); err != nil {
		return moved, err
	}
	return moved, receive(stream, nil)
}

// receive is what the call ended with: an error of sending does not say why.
func receive(stream grpc.ClientStream, sending error) error {
	var size int
	if err := stream.RecvMsg(&size); err != nil {
		return err
	}
	if sending == io.EOF {
		return fmt.Errorf("the call ended before all was sent")
	}
	return sending
}
