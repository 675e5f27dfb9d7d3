package main

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Report is what happened between "start" and "end".
type Report struct {
	Seconds       float64            `json:"seconds"`
	Calls         int                `json:"calls"` // answered OK
	Codes         map[string]int     `json:"codes"` // all answers
	FirstError    string             `json:"first_error"`
	P50           float64            `json:"p50_ms"` // of calls answered OK
	P99           float64            `json:"p99_ms"`
	Worst         float64            `json:"worst_ms"`
	P50ByMethod   map[string]float64 `json:"p50_ms_by_method"`
	ResponseBytes int                `json:"response_bytes"` // mean of calls answered OK
	NotSent       int                `json:"not_sent"`       // open loop: arrivals beyond most_waiting
}

// Caller makes one call. It answers with the size of the response and a status code's name, "OK" for success.
type Caller interface {
	Call(ctx context.Context, connection int, method string, body []byte) (size int, code string, err error)
	Close()
}

type sample struct {
	micros int32
	method string
}

// tally is one caller's part of the report.
type tally struct {
	samples    []sample
	codes      map[string]int
	bytes      int
	firstError string
}

type runner struct {
	plan     *Plan
	caller   Caller
	measured atomic.Bool
	stopped  atomic.Bool
	scripts  atomic.Uint64
}

// Run executes the plan. `tell` is called with "start" and "end" as the measured time begins and ends.
func Run(plan *Plan, tell func(event string)) (*Report, error) {
	if err := plan.prepare(); err != nil {
		return nil, err
	}
	caller, err := newCaller(plan)
	if err != nil {
		return nil, err
	}
	defer caller.Close()
	r := &runner{plan: plan, caller: caller}
	report := &Report{Codes: map[string]int{}, P50ByMethod: map[string]float64{}}
	tallies := make(chan *tally)
	if plan.Rate > 0 {
		go r.openLoop(tallies, &report.NotSent)
	} else {
		go r.closedLoop(tallies)
	}
	go func() {
		time.Sleep(seconds(plan.Warmup))
		tell("start")
		began := time.Now()
		r.measured.Store(true)
		time.Sleep(seconds(plan.Seconds))
		r.measured.Store(false)
		report.Seconds = time.Since(began).Seconds()
		tell("end")
		r.stopped.Store(true)
	}()
	report.gather(tallies)
	return report, nil
}

func (r *runner) closedLoop(tallies chan<- *tally) {
	var group sync.WaitGroup
	for number := range r.plan.Callers {
		group.Go(func() {
			mine := &tally{codes: map[string]int{}}
			for !r.stopped.Load() {
				r.script(number%r.plan.Connections, mine)
			}
			tallies <- mine
		})
	}
	group.Wait()
	close(tallies)
}

// openLoop starts scripts at a fixed rate, whatever becomes of those before.
func (r *runner) openLoop(tallies chan<- *tally, notSent *int) {
	var group sync.WaitGroup
	var lock sync.Mutex
	all := &tally{codes: map[string]int{}}
	waiting := make(chan struct{}, r.plan.MostWaiting)
	began := time.Now()
	for number := 0; !r.stopped.Load(); {
		due := int(time.Since(began).Seconds() * r.plan.Rate)
		for ; number < due; number++ {
			select {
			case waiting <- struct{}{}:
			default:
				if r.measured.Load() {
					*notSent++
				}
				continue
			}
			connection := number % r.plan.Connections
			group.Go(func() {
				mine := &tally{codes: map[string]int{}}
				r.script(connection, mine)
				<-waiting
				lock.Lock()
				defer lock.Unlock()
				all.add(mine)
			})
		}
		time.Sleep(time.Millisecond)
	}
	group.Wait()
	tallies <- all
	close(tallies)
}

func (r *runner) script(connection int, into *tally) {
	next := r.scripts.Add(1)
	script := r.plan.Scripts[next%uint64(len(r.plan.Scripts))]
	run := identifier()
	for i := range script {
		if r.stopped.Load() {
			return
		}
		step := &script[i]
		body := step.request(run)
		ctx, cancel := context.WithTimeout(context.Background(), seconds(r.plan.Deadline))
		began := time.Now()
		size, code, err := r.caller.Call(ctx, connection, step.Method, body)
		took := time.Since(began)
		cancel()
		if !r.measured.Load() {
			continue
		}
		into.codes[code]++
		if err != nil {
			if into.firstError == "" {
				into.firstError = step.Method + ": " + err.Error()
			}
			continue
		}
		into.bytes += size
		into.samples = append(into.samples, sample{int32(took.Microseconds()), step.Method})
	}
}

func (t *tally) add(other *tally) {
	t.samples = append(t.samples, other.samples...)
	t.bytes += other.bytes
	for code, count := range other.codes {
		t.codes[code] += count
	}
	if t.firstError == "" {
		t.firstError = other.firstError
	}
}

func (r *Report) gather(tallies <-chan *tally) {
	all := &tally{codes: r.Codes}
	for one := range tallies {
		all.add(one)
	}
	r.FirstError = all.firstError
	r.Calls = len(all.samples)
	if r.Calls == 0 {
		return
	}
	r.ResponseBytes = all.bytes / r.Calls
	every := make([]int32, 0, len(all.samples))
	methods := map[string][]int32{}
	for _, one := range all.samples {
		every = append(every, one.micros)
		methods[one.method] = append(methods[one.method], one.micros)
	}
	slices.Sort(every)
	r.P50, r.P99, r.Worst = quantile(every, 0.5), quantile(every, 0.99), quantile(every, 1)
	for method, some := range methods {
		slices.Sort(some)
		r.P50ByMethod[method] = quantile(some, 0.5)
	}
}

// quantile of sorted microseconds, in milliseconds.
func quantile(sorted []int32, q float64) float64 {
	return float64(sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]) / 1000
}

func seconds(value float64) time.Duration { return time.Duration(value * float64(time.Second)) }
