package main

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"sync/atomic"
	"time"
)

// Plan says what to send where, how hard and for how long.
type Plan struct {
	Target string `json:"target"` // host:port
	// "grpc": a step's method is "/package.Service/Method". "pipe": the same calls, through a pipe on each connection.
	// "http": it is "GET /path", the body is JSON.
	Protocol    string  `json:"protocol"`
	Key         string  `json:"key"` // API key of every call; empty: none
	Connections int     `json:"connections"`
	Callers     int     `json:"callers"` // closed loop: each has one call under way
	Rate        float64 `json:"rate"`    // calls per second, open loop; 0: closed loop
	MostWaiting int     `json:"most_waiting"`
	Deadline    float64 `json:"deadline"` // seconds of each call
	Warmup      float64 `json:"warmup"`   // seconds before the measured ones
	Seconds     float64 `json:"seconds"`
	// Callers take scripts in turn, and make a script's calls one after the other.
	Scripts [][]Step `json:"scripts"`
}

// Step is one call. In its body, every occurrence of a mark is replaced by an identifier of the same length.
type Step struct {
	Method string `json:"method"`
	Body   []byte `json:"body"` // base64 in JSON

	calls, runs, times []int // where the marks stand
}

const (
	callMark = "%call-unique-identifier%" // new in each call
	runMark  = "%run--unique-identifier%" // new each time that a script begins
	timeMark = "%nanoseconds-since-1970%" // when the call is sent, with leading zeros
)

var identifiers struct {
	prefix [8]byte
	count  atomic.Uint64
}

func init() {
	var random [4]byte
	rand.Read(random[:])
	hex.Encode(identifiers.prefix[:], random[:])
}

func identifier() []byte {
	return fmt.Appendf(nil, "%s%016x", identifiers.prefix[:], identifiers.count.Add(1))
}

func (p *Plan) prepare() error {
	if len(p.Scripts) == 0 || p.Connections < 1 || p.Seconds <= 0 || p.Deadline <= 0 || (p.Callers < 1 && p.Rate <= 0) {
		return fmt.Errorf("plan: scripts, connections, seconds, deadline and callers or rate are required")
	}
	for _, script := range p.Scripts {
		for i := range script {
			script[i].calls = positions(script[i].Body, callMark)
			script[i].runs = positions(script[i].Body, runMark)
			script[i].times = positions(script[i].Body, timeMark)
		}
	}
	return nil
}

func positions(body []byte, mark string) []int {
	var found []int
	for at := 0; ; {
		next := bytes.Index(body[at:], []byte(mark))
		if next < 0 {
			return found
		}
		found = append(found, at+next)
		at += next + len(mark)
	}
}

// request is the body with its marks replaced.
func (s *Step) request(run []byte) []byte {
	if len(s.calls) == 0 && len(s.runs) == 0 && len(s.times) == 0 {
		return s.Body
	}
	body := bytes.Clone(s.Body)
	if len(s.calls) > 0 {
		call := identifier()
		for _, at := range s.calls {
			copy(body[at:], call)
		}
	}
	for _, at := range s.runs {
		copy(body[at:], run)
	}
	if len(s.times) > 0 {
		now := fmt.Appendf(nil, "%0*d", len(timeMark), time.Now().UnixNano())
		for _, at := range s.times {
			copy(body[at:], now)
		}
	}
	return body
}
