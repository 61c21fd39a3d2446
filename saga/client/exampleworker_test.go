package client_test

import (
	"crypto/rand"
	"encoding/json"
	"log"
	"net"
	"os"
	"strconv"
	"strings"

	sdkclient "go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"

	"github.com/capsaga/capsaga/internal/activitytest"
	"github.com/capsaga/capsaga/saga"
	"github.com/capsaga/capsaga/workflows"
)

// exampleRun makes the examples' names their own in each run.
var exampleRun = "example" + strings.ToLower(rand.Text()[:10])

func exampleID(name string) string { return exampleRun + "-" + name }

// exampleWorker starts a worker on the real Temporal, over systems in memory.
func exampleWorker() (sdkclient.Client, saga.Prefix, func()) {
	base := 16000
	if text := os.Getenv("CAPSAGA_TEST_PORT_BASE"); text != "" {
		var err error
		if base, err = strconv.Atoi(text); err != nil {
			log.Fatalf("CAPSAGA_TEST_PORT_BASE: %v", err)
		}
	}
	c, err := sdkclient.Dial(sdkclient.Options{HostPort: net.JoinHostPort("127.0.0.1", strconv.Itoa(base+233)), Logger: activitytest.Quiet{}})
	if err != nil {
		log.Fatalf("the local stack's Temporal: %v", err)
	}
	if err := activitytest.AddAttributes(c); err != nil {
		log.Fatalf("add search attributes: %v", err)
	}
	prefix := saga.Prefix(exampleRun)
	w := worker.New(c, prefix.TaskQueue(), worker.Options{})
	workflows.Register(w)
	w.RegisterActivity(activitytest.NewSystems().Activities(nil))
	if err := w.Start(); err != nil {
		log.Fatalf("start a worker: %v", err)
	}
	return c, prefix, func() {
		w.Stop()
		c.Close()
	}
}

func exampleWrite(name, title string) saga.Write {
	return saga.Write{SagaID: exampleID(name), Mutations: []saga.Mutation{{
		Entity: "products", Op: saga.Upsert,
		Row: saga.Columns{"id": json.RawMessage(`42`), "title": json.RawMessage(title)},
	}}}
}
