package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// WatchPlan is watchers, and what writes meanwhile. Without scripts nobody writes.
type WatchPlan struct {
	Plan
	// One watcher each: a streaming method and its request.
	Streams           []Step  `json:"streams"`
	StreamConnections int     `json:"stream_connections"`
	Patience          float64 `json:"patience"` // seconds until each must have had its first frame
	// Watchers that take their first frame and then nothing for stallFor, on a connection each; opened again and again.
	Stalled []Step `json:"stalled"`
}

// WatchReport is what happened between "start" and "end". What stalled watchers got is not in it.
type WatchReport struct {
	Seconds    float64 `json:"seconds"`
	Deliveries int     `json:"deliveries"` // events, each counted for every watcher that got it
	Frames     int     `json:"frames"`
	Bytes      int     `json:"bytes"`
	Bookmarks  int     `json:"bookmarks"`
	Gaps       int     `json:"gaps"` // events whose seq did not follow that of the event before, at any time
	// From the event's create_time to its arrival.
	CommitP50   float64 `json:"commit_p50_ms"`
	CommitP99   float64 `json:"commit_p99_ms"`
	CommitWorst float64 `json:"commit_worst_ms"`
	// From the writer's call to the arrival.
	SentP50      float64        `json:"sent_p50_ms"`
	SentP99      float64        `json:"sent_p99_ms"`
	Ended        map[string]int `json:"ended"` // streams that the server ended, by status, at any time
	FirstError   string         `json:"first_error"`
	StalledEnded map[string]int `json:"stalled_ended"` // how stalled streams had ended when they were read again
	Writes       *Report        `json:"writes"`        // null when nobody writes
}

const openingAtOnce = 128

const (
	// What a stream may have unread when it stalls: the least that HTTP/2 and grpc-go allow.
	smallestWindow = 65535
	// Longer than the server's patience with a watcher (10 s).
	stallFor = 15 * time.Second
	// Reading again shows by then how the server has ended a stream, if it has.
	stallEnd = time.Second
)

type watcher struct {
	step       *Step
	connection *grpc.ClientConn
	seq        int64

	deliveries, frames, bytes, bookmarks, gaps int
	commit, sent                               []int32 // microseconds
}

type watching struct {
	measured atomic.Bool
	stopping atomic.Bool

	lock         sync.Mutex
	ended        map[string]int
	firstError   string
	stalledEnded map[string]int
}

// Watch executes the plan. `tell` is called with "open" once every stream has had its first frame, then as in Run.
func Watch(plan *WatchPlan, tell func(event string)) (*WatchReport, error) {
	if len(plan.Streams) == 0 || plan.StreamConnections < 1 || plan.Seconds <= 0 || plan.Patience <= 0 {
		return nil, errors.New("plan: streams, stream_connections, seconds and patience are required")
	}
	readers, err := newGRPCCaller(plan.Target, plan.StreamConnections)
	if err != nil {
		return nil, err
	}
	defer readers.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	w := &watching{ended: map[string]int{}, stalledEnded: map[string]int{}}
	watchers := make([]*watcher, len(plan.Streams))
	for number := range plan.Streams {
		watchers[number] = &watcher{
			step:       &plan.Streams[number],
			connection: readers.connections[number%plan.StreamConnections],
		}
	}
	group, err := w.open(ctx, watchers, plan.Patience)
	if err != nil {
		return nil, err
	}
	stalled, err := newGRPCCaller(plan.Target, len(plan.Stalled), grpc.WithInitialWindowSize(smallestWindow))
	if err != nil {
		return nil, err
	}
	defer stalled.Close()
	for number := range plan.Stalled {
		opened := make(chan error, 1)
		go w.stall(ctx, stalled.connections[number], &plan.Stalled[number], opened)
		if err := <-opened; err != nil {
			return nil, fmt.Errorf("stalled stream: %w", err)
		}
	}
	tell("open")
	report := &WatchReport{}
	err = w.write(plan, report, tell)
	w.stopping.Store(true)
	cancel()
	group.Wait()
	if err != nil {
		return nil, err
	}
	w.lock.Lock()
	defer w.lock.Unlock()
	report.Ended, report.FirstError, report.StalledEnded = w.ended, w.firstError, w.stalledEnded
	report.add(watchers)
	return report, nil
}

// write makes the plan's calls, or waits as long as they would take.
func (w *watching) write(plan *WatchPlan, report *WatchReport, tell func(event string)) error {
	mark := func(event string) {
		w.measured.Store(event == "start")
		tell(event)
	}
	if len(plan.Scripts) > 0 {
		writes, err := Run(&plan.Plan, mark)
		if err != nil {
			return err
		}
		report.Writes, report.Seconds = writes, writes.Seconds
		return nil
	}
	time.Sleep(seconds(plan.Warmup))
	mark("start")
	began := time.Now()
	time.Sleep(seconds(plan.Seconds))
	report.Seconds = time.Since(began).Seconds()
	mark("end")
	return nil
}

// open returns once every watcher has had its first frame; they go on in the group until ctx is cancelled.
func (w *watching) open(ctx context.Context, watchers []*watcher, patience float64) (*sync.WaitGroup, error) {
	group := &sync.WaitGroup{}
	opening := make(chan struct{}, openingAtOnce)
	opened := make(chan error, len(watchers))
	go func() {
		for _, one := range watchers {
			opening <- struct{}{}
			group.Go(func() {
				w.watch(ctx, one, func(err error) {
					<-opening
					opened <- err
				})
			})
		}
	}()
	enough := time.After(seconds(patience))
	for range watchers {
		select {
		case err := <-opened:
			if err != nil {
				return nil, fmt.Errorf("stream: %w", err)
			}
		case <-enough:
			return nil, fmt.Errorf("not all streams were open after %g s", patience)
		}
	}
	return group, nil
}

// watch reads one stream to its end. `opened` is called once, with the first frame or the error in its place.
func (w *watching) watch(ctx context.Context, one *watcher, opened func(error)) {
	stream, err := start(ctx, one.connection, one.step)
	first := true
	for err == nil {
		var frame []byte
		if err = stream.RecvMsg(&frame); err == nil {
			err = one.take(frame, w.measured.Load())
		}
		if first {
			first = false
			opened(err)
		}
	}
	if first {
		opened(err)
	}
	if w.stopping.Load() || ctx.Err() != nil {
		return
	}
	w.lock.Lock()
	defer w.lock.Unlock()
	w.ended[status.Code(err).String()]++
	if w.firstError == "" {
		w.firstError = err.Error()
	}
}

// take counts a frame that has just arrived.
func (o *watcher) take(frame []byte, measured bool) error {
	now := time.Now().UnixNano()
	kind, err := readFrame(frame, func(one event) {
		if o.seq != 0 && one.seq != o.seq+1 {
			o.gaps++
		}
		o.seq = one.seq
		if !measured {
			return
		}
		o.deliveries++
		o.commit = append(o.commit, int32(now/1000-one.created))
		if one.sent != 0 {
			o.sent = append(o.sent, int32((now-one.sent)/1000))
		}
	})
	if measured {
		o.frames++
		o.bytes += len(frame)
		if kind == frameBookmark {
			o.bookmarks++
		}
	}
	return err
}

// stall keeps a stream open that it does not read, until ctx is cancelled. `opened` gets what became of the first one.
func (w *watching) stall(ctx context.Context, connection *grpc.ClientConn, step *Step, opened chan<- error) {
	for ctx.Err() == nil {
		ctx, cancel := context.WithTimeout(ctx, stallFor+stallEnd)
		stream, err := start(ctx, connection, step)
		var frame []byte
		if err == nil {
			err = stream.RecvMsg(&frame)
		}
		select {
		case opened <- err:
		default:
		}
		select {
		case <-time.After(stallFor):
		case <-ctx.Done():
		}
		for err == nil {
			err = stream.RecvMsg(&frame)
		}
		if ctx.Err() == nil {
			w.lock.Lock()
			w.stalledEnded[status.Code(err).String()]++
			w.lock.Unlock()
		}
		cancel()
	}
}

func start(ctx context.Context, connection *grpc.ClientConn, step *Step) (grpc.ClientStream, error) {
	stream, err := connection.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, step.Method)
	if err != nil {
		return nil, err
	}
	if err := stream.SendMsg(step.Body); err != nil {
		return nil, err
	}
	return stream, stream.CloseSend()
}

func (r *WatchReport) add(watchers []*watcher) {
	var commit, sent []int32
	for _, one := range watchers {
		r.Deliveries += one.deliveries
		r.Frames += one.frames
		r.Bytes += one.bytes
		r.Bookmarks += one.bookmarks
		r.Gaps += one.gaps
		commit = append(commit, one.commit...)
		sent = append(sent, one.sent...)
	}
	if len(commit) > 0 {
		slices.Sort(commit)
		r.CommitP50, r.CommitP99, r.CommitWorst = quantile(commit, 0.5), quantile(commit, 0.99), quantile(commit, 1)
	}
	if len(sent) > 0 {
		slices.Sort(sent)
		r.SentP50, r.SentP99 = quantile(sent, 0.5), quantile(sent, 0.99)
	}
}
