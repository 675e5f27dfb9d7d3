package main

import (
	"bytes"
	"testing"
)

func TestMarksAreReplacedByIdentifiersOfTheSameLength(t *testing.T) {
	body := []byte("a" + callMark + "b" + runMark + "c" + callMark)
	plan := Plan{Scripts: [][]Step{{{Body: body}}}, Connections: 1, Callers: 1, Seconds: 1, Deadline: 1}
	if err := plan.prepare(); err != nil {
		t.Fatal(err)
	}
	run := identifier()
	first, second := plan.Scripts[0][0].request(run), plan.Scripts[0][0].request(run)
	if len(first) != len(body) || bytes.Contains(first, []byte("%")) {
		t.Fatalf("marks left or length changed: %q", first)
	}
	call := len(callMark)
	if !bytes.Equal(first[1:1+call], first[len(first)-call:]) {
		t.Error("one call has one identifier")
	}
	if bytes.Equal(first[1:1+call], second[1:1+call]) {
		t.Error("two calls share an identifier")
	}
	if !bytes.Equal(first[2+call:2+call+len(run)], run) {
		t.Error("the run's identifier is not where its mark was")
	}
	if !bytes.Contains(body, []byte(callMark)) {
		t.Error("the template was changed")
	}
}

func TestQuantilesAreOfTheSamples(t *testing.T) {
	sorted := make([]int32, 100)
	for i := range sorted {
		sorted[i] = int32(i+1) * 1000
	}
	if p50, p99, worst := quantile(sorted, 0.5), quantile(sorted, 0.99), quantile(sorted, 1); p50 != 51 || p99 != 100 || worst != 100 {
		t.Errorf("got %v, %v, %v", p50, p99, worst)
	}
}
