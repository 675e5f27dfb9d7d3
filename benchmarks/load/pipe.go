package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// Fields of the messages of pipe_service.proto, which describes the protocol.
const (
	openMethod = "/sessiond.v1.PipeService/Open"

	frameCalls = 1

	callNumber  = 1
	callMethod  = 2
	callRequest = 3
	callTimeout = 4

	frameAnswers = 1
	framePieces  = 2

	answerNumber   = 1
	answerResponse = 2
	answerStatus   = 3
	answerSize     = 5

	pieceNumber = 1
	pieceData   = 2

	statusCode    = 1
	statusMessage = 2

	// What the server takes in one frame, and in one piece: the windows that it announces are not below these.
	mostFrameBytes   = 64 << 10
	mostFrameCalls   = 512
	mostRequestBytes = 32 << 10
)

var errTooLarge = errors.New("a request that would have to be cut")

type answer struct {
	size int
	code codes.Code
	text string
	err  error // the pipe ended before it
}

// pipe is one stream of calls.
type pipe struct {
	stream grpc.ClientStream
	wake   chan struct{}

	lock    sync.Mutex
	ready   [][]byte // encoded calls
	waiting map[uint64]chan answer
	cut     map[uint64]*cutAnswer
	number  uint64
	ended   error
}

type cutAnswer struct{ size, arrived int }

type pipeCaller struct {
	connections *grpcCaller
	pipes       []*pipe
	cancel      context.CancelFunc
}

// newPipeCaller opens a pipe on each connection.
func newPipeCaller(connections *grpcCaller) (*pipeCaller, error) {
	ctx, cancel := context.WithCancel(context.Background())
	caller := &pipeCaller{connections: connections, cancel: cancel}
	for _, connection := range connections.connections {
		stream, err := connection.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, openMethod)
		if err == nil {
			var window []byte
			err = stream.RecvMsg(&window)
		}
		if err != nil {
			caller.Close()
			return nil, err
		}
		one := &pipe{
			stream: stream, wake: make(chan struct{}, 1),
			waiting: map[uint64]chan answer{}, cut: map[uint64]*cutAnswer{},
		}
		caller.pipes = append(caller.pipes, one)
		go one.write(ctx)
		go one.read()
	}
	return caller, nil
}

func (c *pipeCaller) Call(ctx context.Context, connection int, method string, body []byte) (int, string, error) {
	return c.pipes[connection].call(ctx, method, body)
}

func (c *pipeCaller) Close() {
	c.cancel()
	c.connections.Close()
}

func (p *pipe) call(ctx context.Context, method string, body []byte) (int, string, error) {
	if len(body) > mostRequestBytes {
		return 0, "TooLarge", errTooLarge
	}
	var timeout uint64
	if deadline, ok := ctx.Deadline(); ok {
		timeout = uint64(max(1, time.Until(deadline).Milliseconds()))
	}
	done := make(chan answer, 1)
	p.lock.Lock()
	if p.ended != nil {
		defer p.lock.Unlock()
		return 0, codes.Unavailable.String(), p.ended
	}
	p.number++
	number := p.number
	p.waiting[number] = done
	p.ready = append(p.ready, encodeCall(number, method, body, timeout))
	p.lock.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
	select {
	case got := <-done:
		if got.err != nil {
			return 0, codes.Unavailable.String(), got.err
		}
		if got.code != codes.OK {
			return 0, got.code.String(), fmt.Errorf("%s: %s", got.code, got.text)
		}
		return got.size, codes.OK.String(), nil
	case <-ctx.Done():
		p.lock.Lock()
		delete(p.waiting, number)
		p.lock.Unlock()
		return 0, codes.DeadlineExceeded.String(), ctx.Err()
	}
}

// write sends all calls that are ready, as many in a frame as it may have.
func (p *pipe) write(ctx context.Context) {
	for {
		select {
		case <-p.wake:
		case <-ctx.Done():
			return
		}
		for {
			runtime.Gosched() // callers whose answers came in one frame send their next calls in one
			frame := p.frame()
			if len(frame) == 0 {
				break
			}
			if err := p.stream.SendMsg(frame); err != nil {
				return // the reader gets the reason
			}
		}
	}
}

func (p *pipe) frame() []byte {
	p.lock.Lock()
	defer p.lock.Unlock()
	size, count := 0, 0
	for count < len(p.ready) && count < mostFrameCalls && size+len(p.ready[count]) <= mostFrameBytes {
		size += len(p.ready[count])
		count++
	}
	frame := make([]byte, 0, size)
	for _, call := range p.ready[:count] {
		frame = append(frame, call...)
	}
	p.ready = p.ready[count:]
	return frame
}

func (p *pipe) read() {
	for {
		var frame []byte
		err := p.stream.RecvMsg(&frame)
		if err == nil {
			err = p.take(frame)
		}
		if err != nil {
			p.end(err)
			return
		}
	}
}

func (p *pipe) end(err error) {
	p.lock.Lock()
	defer p.lock.Unlock()
	p.ended = err
	for _, done := range p.waiting {
		done <- answer{err: err}
	}
	clear(p.waiting)
}

// take hands the answers of a frame to those who wait for them.
func (p *pipe) take(frame []byte) error {
	p.lock.Lock()
	defer p.lock.Unlock()
	for len(frame) > 0 {
		kind, value, _, rest, err := field(frame)
		if err != nil {
			return err
		}
		frame = rest
		switch kind {
		case frameAnswers:
			err = p.takeAnswer(value)
		case framePieces:
			err = p.takePiece(value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *pipe) takeAnswer(message []byte) error {
	var number uint64
	var got answer
	whole := 0
	for len(message) > 0 {
		kind, value, varint, rest, err := field(message)
		if err != nil {
			return err
		}
		message = rest
		switch kind {
		case answerNumber:
			number = varint
		case answerResponse:
			got.size = len(value)
		case answerStatus:
			if got.code, got.text, err = readStatus(value); err != nil {
				return err
			}
		case answerSize:
			whole = int(varint)
		}
	}
	if whole > got.size {
		p.cut[number] = &cutAnswer{size: whole, arrived: got.size}
		return nil
	}
	p.settle(number, got)
	return nil
}

func (p *pipe) takePiece(message []byte) error {
	var number uint64
	size := 0
	for len(message) > 0 {
		kind, value, varint, rest, err := field(message)
		if err != nil {
			return err
		}
		message = rest
		switch kind {
		case pieceNumber:
			number = varint
		case pieceData:
			size = len(value)
		}
	}
	cut, known := p.cut[number]
	if !known {
		return errMalformed
	}
	if cut.arrived += size; cut.arrived == cut.size {
		delete(p.cut, number)
		p.settle(number, answer{size: cut.size})
	}
	return nil
}

func (p *pipe) settle(number uint64, got answer) {
	if done, waits := p.waiting[number]; waits {
		delete(p.waiting, number)
		done <- got
	}
}

func readStatus(message []byte) (code codes.Code, text string, err error) {
	for len(message) > 0 {
		kind, value, varint, rest, err := field(message)
		if err != nil {
			return 0, "", err
		}
		message = rest
		switch kind {
		case statusCode:
			code = codes.Code(varint)
		case statusMessage:
			text = string(value)
		}
	}
	return code, text, nil
}

// encodeCall is a call as a field of a frame.
func encodeCall(number uint64, method string, body []byte, timeout uint64) []byte {
	call := make([]byte, 0, len(method)+len(body)+32)
	call = appendVarint(call, callNumber, number)
	call = appendBytes(call, callMethod, []byte(method))
	call = appendBytes(call, callRequest, body)
	if timeout > 0 {
		call = appendVarint(call, callTimeout, timeout)
	}
	return appendBytes(make([]byte, 0, len(call)+8), frameCalls, call)
}

func appendVarint(to []byte, number int, value uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(to, uint64(number)<<3), value)
}

func appendBytes(to []byte, number int, value []byte) []byte {
	to = binary.AppendUvarint(binary.AppendUvarint(to, uint64(number)<<3|2), uint64(len(value)))
	return append(to, value...)
}
