package main

import (
	"encoding/binary"
	"errors"
	"strconv"
)

// event is what a watcher looks at: the rest is skipped unread.
type event struct {
	seq     int64
	created int64 // create_time in microseconds since 1970: the database's clock, after the locks, before the commit
	sent    int64 // when the writer sent it, in nanoseconds since 1970, by its request_id; 0 when that says nothing
}

// Fields of WatchSessionResponse, and of WatchEventsResponse as far as they agree.
const (
	frameSnapshot = 1
	frameResumed  = 2
	frameEvents   = 3
	frameBookmark = 4
)

var errMalformed = errors.New("malformed frame")

// field takes the next field of a message: its number, its bytes or its varint, and what follows it.
func field(message []byte) (number int, value []byte, varint uint64, rest []byte, err error) {
	tag, n := binary.Uvarint(message)
	if n <= 0 {
		return 0, nil, 0, nil, errMalformed
	}
	message = message[n:]
	number = int(tag >> 3)
	size := 0
	switch tag & 7 {
	case 0:
		varint, n = binary.Uvarint(message)
		if n <= 0 {
			return 0, nil, 0, nil, errMalformed
		}
		return number, nil, varint, message[n:], nil
	case 1:
		size = 8
	case 2:
		length, n := binary.Uvarint(message)
		if n <= 0 || length > uint64(len(message)-n) {
			return 0, nil, 0, nil, errMalformed
		}
		message = message[n:]
		size = int(length)
	case 5:
		size = 4
	default:
		return 0, nil, 0, nil, errMalformed
	}
	if size > len(message) {
		return 0, nil, 0, nil, errMalformed
	}
	return number, message[:size], 0, message[size:], nil
}

// readFrame says what a frame is, and calls visit with each of its events.
func readFrame(frame []byte, visit func(event)) (kind int, err error) {
	for len(frame) > 0 {
		var body []byte
		if kind, body, _, frame, err = field(frame); err != nil {
			return 0, err
		}
		for kind == frameEvents && len(body) > 0 {
			var number int
			var value []byte
			if number, value, _, body, err = field(body); err != nil {
				return 0, err
			}
			if number == 1 {
				one, err := readEvent(value)
				if err != nil {
					return 0, err
				}
				visit(one)
			}
		}
	}
	return kind, nil
}

func readEvent(message []byte) (found event, err error) {
	for len(message) > 0 {
		var number int
		var value []byte
		var varint uint64
		if number, value, varint, message, err = field(message); err != nil {
			return event{}, err
		}
		switch number {
		case 1:
			found.seq = int64(varint)
		case 5:
			if found.created, err = readTime(value); err != nil {
				return event{}, err
			}
		case 7:
			found.sent = sentTime(value)
		}
	}
	return found, nil
}

// readTime is a Timestamp in microseconds since 1970.
func readTime(message []byte) (micros int64, err error) {
	for len(message) > 0 {
		var number int
		var varint uint64
		if number, _, varint, message, err = field(message); err != nil {
			return 0, err
		}
		switch number {
		case 1:
			micros += int64(varint) * 1_000_000
		case 2:
			micros += int64(varint) / 1_000
		}
	}
	return micros, nil
}

// sentTime is what stands where a request_id had the time mark: its first characters.
func sentTime(requestID []byte) int64 {
	if len(requestID) < len(timeMark) {
		return 0
	}
	nanos, err := strconv.ParseInt(string(requestID[:len(timeMark)]), 10, 64)
	if err != nil {
		return 0
	}
	return nanos
}
