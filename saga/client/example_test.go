package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/saga/client"
)

// A service writes a product and goes on as soon as PostgreSQL has it.
func ExampleClient_Write() {
	temporal, prefix, stop := exampleWorker()
	defer stop()
	sagas, err := client.New(client.Options{Temporal: temporal, Prefix: prefix})
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

	outcome, err := sagas.Write(ctx, saga.Write{
		SagaID: exampleID("order-1001"), // the idempotency key
		Mutations: []saga.Mutation{{
			Entity: "products", Op: saga.Upsert,
			Row: saga.Columns{"id": json.RawMessage(`42`), "title": json.RawMessage(`"Lamp"`)},
		}},
	}, client.WaitCommitted)
	if err != nil {
		log.Fatal(err)
	}
	switch outcome.Status {
	case saga.RejectedEnd:
		fmt.Println("refused:", outcome.Error.Message)
	default:
		fmt.Println("commit is", outcome.Step(saga.StepCommit).State)
		fmt.Println("a reader can be handed the token:", outcome.Token != "")
	}
	// Output:
	// commit is done
	// a reader can be handed the token: true
}

// Writing the same again, for example after a crash, is safe; another write under
// the same id is refused.
func ExampleClient_Write_again() {
	temporal, prefix, stop := exampleWorker()
	defer stop()
	sagas, err := client.New(client.Options{Temporal: temporal, Prefix: prefix})
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

	write := exampleWrite("order-1002", `"Lamp"`)
	first, err := sagas.Write(ctx, write, client.WaitVisible)
	if err != nil {
		log.Fatal(err)
	}
	second, err := sagas.Write(ctx, write, client.WaitVisible)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("one commit:", first.Version == second.Version)

	_, err = sagas.Write(ctx, exampleWrite("order-1002", `"Table"`), client.WaitVisible)
	var refused *saga.Error
	if errors.As(err, &refused) {
		fmt.Println(refused.Code)
	}
	// Output:
	// one commit: true
	// saga_id_reused
}

// Start returns at once; Wait joins the saga later, also from another process.
func ExampleClient_Wait() {
	temporal, prefix, stop := exampleWorker()
	defer stop()
	sagas, err := client.New(client.Options{Temporal: temporal, Prefix: prefix})
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

	write := exampleWrite("order-1003", `"Lamp"`)
	if err := sagas.Start(ctx, write); err != nil {
		log.Fatal(err)
	}
	outcome, err := sagas.Wait(ctx, write.SagaID, client.WaitVisible)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(outcome.Status)
	for _, step := range outcome.Steps {
		fmt.Println(step.Name, step.State)
	}
	// Output:
	// completed
	// commit done
	// redis done
	// kafka done
	// elasticsearch done
}

// Status asks where a saga stands, without waiting for it.
func ExampleClient_Status() {
	temporal, prefix, stop := exampleWorker()
	defer stop()
	sagas, err := client.New(client.Options{Temporal: temporal, Prefix: prefix})
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

	write := exampleWrite("order-1004", `"Lamp"`)
	if _, err := sagas.Write(ctx, write, client.WaitVisible); err != nil {
		log.Fatal(err)
	}
	outcome, err := sagas.Status(ctx, write.SagaID)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(outcome.SagaID == write.SagaID, outcome.ETags[0].Entity, outcome.ETags[0].Key)

	_, err = sagas.Status(ctx, "never-written")
	var unknown *saga.Error
	if errors.As(err, &unknown) {
		fmt.Println(unknown.Code)
	}
	// Output:
	// true products 42
	// unknown_saga
}

// Replay drives a saga on, whatever happened to it: here its workflow was
// terminated from outside.
func ExampleClient_Replay() {
	temporal, prefix, stop := exampleWorker()
	defer stop()
	sagas, err := client.New(client.Options{Temporal: temporal, Prefix: prefix})
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

	write := exampleWrite("order-1005", `"Lamp"`)
	write.BeforeSteps = []saga.Task{{Name: "reserve", TaskQueue: "away", Activity: "Reserve", Compensation: "Release"}}
	if err := sagas.Start(ctx, write); err != nil {
		log.Fatal(err)
	}
	if err := temporal.TerminateWorkflow(ctx, saga.WorkflowID(write.SagaID), "", "by hand"); err != nil {
		log.Fatal(err)
	}
	for range 2 {
		answer, err := sagas.Replay(ctx, write.SagaID, "", "") // without a level, it does not wait
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s: %q\n", answer.Did, answer.Note)
	}
	_ = temporal.TerminateWorkflow(ctx, saga.WorkflowID(write.SagaID), "", "the example is over")
	// Output:
	// started: ""
	// nothing: "it runs, and goes on by itself"
}

// Bulk does one operation on many sagas and goes on without its caller.
func ExampleClient_Bulk() {
	temporal, prefix, stop := exampleWorker()
	defer stop()
	sagas, err := client.New(client.Options{Temporal: temporal, Prefix: prefix})
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

	request := saga.BulkRequest{
		Request: exampleID("night-shift"), Identity: "replay what redis blocks",
		Operation: saga.Operation{Action: saga.ActionReplay},
		Filter:    saga.Filter{Statuses: []saga.Status{saga.Parked}, BlockedOn: "redis"},
	}
	run, err := sagas.Bulk(ctx, request)
	if err != nil {
		log.Fatal(err)
	}
	again, err := sagas.Bulk(ctx, request)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("one request:", run.RunID == again.RunID)
	progress, err := run.Progress(ctx, 0)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(progress.Done, "done", progress.Failed, "failed")
	_ = temporal.TerminateWorkflow(ctx, run.WorkflowID, "", "the example is over")
	// Output:
	// one request: true
	// 0 done 0 failed
}
