package main

import (
	"testing"

	"google.golang.org/grpc/codes"
)

func waitingPipe(numbers ...uint64) (*pipe, map[uint64]chan answer) {
	p := &pipe{waiting: map[uint64]chan answer{}, cut: map[uint64]*cutAnswer{}}
	waiting := map[uint64]chan answer{}
	for _, number := range numbers {
		waiting[number] = make(chan answer, 1)
		p.waiting[number] = waiting[number]
	}
	return p, waiting
}

func TestAFrameHasAllCallsThatAreReadyWithinItsBounds(t *testing.T) {
	p, _ := waitingPipe()
	for number := range uint64(mostFrameCalls + 10) {
		p.ready = append(p.ready, encodeCall(number+1, "/a.B/C", []byte("body"), 10))
	}
	for _, count := range []int{mostFrameCalls, 10, 0} {
		frame, found := p.frame(), 0
		for len(frame) > 0 {
			kind, call, _, rest, err := field(frame)
			if err != nil || kind != frameCalls {
				t.Fatal(kind, err)
			}
			_, _, number, _, err := field(call)
			if err != nil || number == 0 {
				t.Fatal(number, err)
			}
			frame, found = rest, found+1
		}
		if found != count {
			t.Fatalf("%d calls in a frame, not %d", found, count)
		}
	}
	for range 3 {
		p.ready = append(p.ready, encodeCall(1, "/a.B/C", make([]byte, mostRequestBytes-100), 0))
	}
	if size := len(p.frame()); size > mostFrameBytes || size < mostRequestBytes {
		t.Fatalf("a frame of %d bytes", size)
	}
}

func TestAnswersReachThoseWhoWaitForThemWholeOrInPieces(t *testing.T) {
	p, waiting := waitingPipe(1, 2, 3)
	status := appendBytes(appendVarint(nil, statusCode, 5), statusMessage, []byte("none"))
	frame := appendBytes(nil, frameAnswers, appendBytes(appendVarint(nil, answerNumber, 1), answerResponse, []byte("four")))
	frame = appendBytes(frame, frameAnswers, appendBytes(appendVarint(nil, answerNumber, 2), answerStatus, status))
	cut := appendVarint(appendBytes(appendVarint(nil, answerNumber, 3), answerResponse, []byte("ab")), answerSize, 5)
	frame = appendBytes(frame, frameAnswers, cut)
	if err := p.take(frame); err != nil {
		t.Fatal(err)
	}
	if got := <-waiting[1]; got.size != 4 || got.code != codes.OK {
		t.Error(got)
	}
	if got := <-waiting[2]; got.code != codes.NotFound || got.text != "none" {
		t.Error(got)
	}
	piece := appendBytes(appendVarint(nil, pieceNumber, 3), pieceData, []byte("cde"))
	if err := p.take(appendBytes(nil, framePieces, piece)); err != nil {
		t.Fatal(err)
	}
	if got := <-waiting[3]; got.size != 5 {
		t.Error(got)
	}
	if err := p.take([]byte{0xff}); err == nil {
		t.Error("a malformed frame was taken")
	}
}
