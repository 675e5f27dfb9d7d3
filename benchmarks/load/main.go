// Load drives a server with prepared requests and reports what it measured, so that a benchmark of a Python server is
// not a benchmark of a Python client.
//
//	load run   < plan.json  runs a Plan, writes one JSON object per line: {"event":"start"}, {"event":"end"}, a Report
//	load watch < plan.json  runs a WatchPlan in the same way: {"event":"open"} first, a WatchReport in the end
//	load transfer < plan.json  moves the files of a TransferPlan in the same way: a TransferReport in the end
//	load echo -bytes N      a gRPC server that answers every call with N bytes; prints its port; the client's own limit
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
)

func main() {
	if err := command(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func command(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("use: load run | load watch | load transfer | load echo")
	}
	switch args[0] {
	case "run":
		return execute(Run)
	case "watch":
		return execute(Watch)
	case "transfer":
		return execute(Transfer)
	case "echo":
		flags := flag.NewFlagSet("echo", flag.ContinueOnError)
		size := flags.Int("bytes", 200, "size of every answer")
		if err := flags.Parse(args[1:]); err != nil {
			return err
		}
		return Echo(*size, func(port int) { fmt.Println(port) })
	}
	return fmt.Errorf("unknown command %q", args[0])
}

// execute runs the plan that comes in, and writes what is told of it and the report.
func execute[P, R any](run func(plan *P, tell func(event string)) (*R, error)) error {
	var plan P
	if err := json.NewDecoder(os.Stdin).Decode(&plan); err != nil {
		return fmt.Errorf("plan: %w", err)
	}
	out := json.NewEncoder(os.Stdout)
	report, err := run(&plan, func(event string) { out.Encode(map[string]string{"event": event}) })
	if err != nil {
		return err
	}
	return out.Encode(report)
}
