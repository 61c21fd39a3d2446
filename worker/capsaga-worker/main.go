// Command capsaga-worker runs sagas and publishes PostgreSQL's changes to Kafka.
// It reads its configuration from the environment, logs to standard error and
// drains on SIGTERM and SIGINT.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/capsaga/capsaga/internal/redis"
	"github.com/capsaga/capsaga/worker"
)

func main() {
	redis.Silence()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "capsaga-worker:", err)
		os.Exit(1)
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	systems, err := worker.SystemsFromEnv(os.Environ())
	if err != nil {
		return err
	}
	config := worker.Config{Systems: systems, HTTPAddress: os.Getenv("CAPSAGA_HTTP_ADDRESS")}
	for role := range strings.FieldsFuncSeq(os.Getenv("CAPSAGA_ROLES"), func(r rune) bool { return r == ',' || r == ' ' }) {
		config.Roles = append(config.Roles, worker.Role(role))
	}
	if text := os.Getenv("CAPSAGA_DRAIN_TIMEOUT"); text != "" {
		if config.DrainTimeout, err = time.ParseDuration(text); err != nil || config.DrainTimeout <= 0 {
			return fmt.Errorf("CAPSAGA_DRAIN_TIMEOUT=%q: want a duration such as 20s", text)
		}
	}
	if config.Logger, err = newLogger(os.Getenv("CAPSAGA_LOG")); err != nil {
		return err
	}
	w, err := worker.Open(ctx, config)
	if err != nil {
		return err
	}
	return w.Run(ctx)
}

// newLogger reads "level", "format" or both, comma-separated: "debug,json".
func newLogger(setting string) (*slog.Logger, error) {
	level, json := slog.LevelInfo, false
	for word := range strings.SplitSeq(setting, ",") {
		switch word = strings.TrimSpace(word); word {
		case "", "text":
		case "json":
			json = true
		default:
			if err := level.UnmarshalText([]byte(word)); err != nil {
				return nil, fmt.Errorf("CAPSAGA_LOG=%q: want debug, info, warn or error, and text or json", setting)
			}
		}
	}
	options := &slog.HandlerOptions{Level: level}
	if json {
		return slog.New(slog.NewJSONHandler(os.Stderr, options)), nil
	}
	return slog.New(slog.NewTextHandler(os.Stderr, options)), nil
}
