package main

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
)

func bytesField(number int, value []byte) []byte {
	tagged := binary.AppendUvarint(nil, uint64(number)<<3|2)
	return append(binary.AppendUvarint(tagged, uint64(len(value))), value...)
}

func varintField(number int, value uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(nil, uint64(number)<<3), value)
}

func testEvent(seq uint64, requestID string) []byte {
	created := append(varintField(1, 1_700_000_000), varintField(2, 123_456_789)...)
	return slices.Concat(
		varintField(1, seq), bytesField(2, []byte("session")), bytesField(5, created), bytesField(7, []byte(requestID)),
		[]byte{15<<3 | 5, 1, 2, 3, 4}, []byte{16<<3&0x7f | 0x80 | 1, 1, 1, 2, 3, 4, 5, 6, 7, 8}, bytesField(11, []byte("payload")),
	)
}

func TestTheEventsOfAFrameAreRead(t *testing.T) {
	sent := fmt.Sprintf("%0*d", len(timeMark), 1_700_000_000_000_000_001)
	batch := slices.Concat(
		bytesField(1, testEvent(7, sent+"-more")), bytesField(1, testEvent(8, "theirs")), bytesField(2, []byte("position")),
	)
	var found []event
	kind, err := readFrame(bytesField(frameEvents, batch), func(one event) { found = append(found, one) })
	if err != nil || kind != frameEvents {
		t.Fatal(kind, err)
	}
	created := int64(1_700_000_000_123_456)
	if want := []event{{7, created, 1_700_000_000_000_000_001}, {8, created, 0}}; !slices.Equal(found, want) {
		t.Errorf("got %v", found)
	}
}

func TestOtherFramesHaveNoEvents(t *testing.T) {
	for _, kind := range []int{frameSnapshot, frameResumed, frameBookmark, 5, 6} {
		frame := bytesField(kind, bytesField(1, []byte{0xff}))
		got, err := readFrame(frame, func(event) { t.Error("an event") })
		if err != nil || got != kind {
			t.Errorf("frame %d is %d, %v", kind, got, err)
		}
	}
}

func TestWhatIsCutShortIsAnError(t *testing.T) {
	frame := bytesField(frameEvents, bytesField(1, testEvent(7, "id")))
	for size := 1; size < len(frame); size++ {
		if _, err := readFrame(frame[:size], func(event) {}); err == nil {
			t.Errorf("%d of %d bytes were taken", size, len(frame))
		}
	}
}

func TestAWatcherCountsAndSeesGaps(t *testing.T) {
	one := &watcher{}
	frame := func(seqs ...uint64) []byte {
		var batch []byte
		for _, seq := range seqs {
			batch = append(batch, bytesField(1, testEvent(seq, "id"))...)
		}
		return bytesField(frameEvents, batch)
	}
	one.take(frame(5), false)
	one.take(frame(6, 7), true)
	one.take(frame(9), true)
	one.take(bytesField(frameBookmark, nil), true)
	report := &WatchReport{}
	report.add([]*watcher{one})
	if report.Deliveries != 3 || report.Frames != 3 || report.Gaps != 1 || report.Bookmarks != 1 || len(one.commit) != 3 || len(one.sent) != 0 {
		t.Errorf("got %+v", report)
	}
}

func TestTheTimeOfSendingIsOfTheMarksLength(t *testing.T) {
	step := Step{Body: []byte(callMark + timeMark)}
	plan := Plan{Scripts: [][]Step{{step}}, Connections: 1, Callers: 1, Seconds: 1, Deadline: 1}
	if err := plan.prepare(); err != nil {
		t.Fatal(err)
	}
	body := plan.Scripts[0][0].request(nil)
	if len(body) != len(callMark)+len(timeMark) || sentTime(body[len(callMark):]) < 1_700_000_000_000_000_000 {
		t.Errorf("got %q", body)
	}
}
