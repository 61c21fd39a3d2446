package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	kafkaPort           = 92
	kafkaControllerPort = 93
)

// kafkaProperties is a single KRaft node. Topics are made by "capsaga catalog
// apply" alone; internal topics get by with one replica. After a kill the broker
// is let in again only when its old session has timed out: hence the short one.
const kafkaProperties = `# Written by capsaga-local at each start.
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@%[2]s
listeners=CLIENT://%[1]s,CONTROLLER://%[2]s
advertised.listeners=CLIENT://%[1]s
listener.security.protocol.map=CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=CLIENT
controller.listener.names=CONTROLLER
log.dirs=%[3]s
auto.create.topics.enable=false
num.partitions=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
log.retention.hours=720
log.segment.bytes=134217728
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=true
`

func (s *stack) kafka() *server {
	return &server{
		name:    "kafka",
		ports:   []port{{"client", kafkaPort}, {"controller", kafkaControllerPort}},
		sets:    []string{"kafka"},
		install: func(context.Context) error { _, err := s.java(); return err },
		prepare: s.prepareKafka,
		probe:   s.probeKafka,
		stop:    syscall.SIGTERM,
	}
}

func (s *stack) prepareKafka(ctx context.Context) (command, error) {
	java, err := s.java()
	if err != nil {
		return command{}, err
	}
	jars, err := lockedSet("kafka")
	if err != nil {
		return command{}, err
	}
	data, properties := s.path("kafka", "data"), s.path("kafka", "server.properties")
	if err := s.serverDir(data, 0o700); err != nil {
		return command{}, err
	}
	content := fmt.Sprintf(kafkaProperties, s.address(kafkaPort), s.address(kafkaControllerPort), data)
	if err := s.serverFile(properties, content); err != nil {
		return command{}, err
	}
	if _, err := os.Stat(filepath.Join(data, "meta.properties")); errors.Is(err, os.ErrNotExist) {
		// The cluster id needs to be unique only among nodes that meet.
		if err := s.run(ctx, command{path: java.java(), args: []string{
			"-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
			"-cp", s.cache.classPath(jars), "kafka.tools.StorageTool", "format", "-t", "Y2Fwc2FnYS1sb2NhbC0xMQ", "-c", properties,
		}}); err != nil {
			return command{}, fmt.Errorf("format the storage: %w", err)
		}
	}
	return command{path: java.java(), dir: data, args: []string{
		"-Xms128m", "-Xmx512m", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true",
		"-Dorg.slf4j.simpleLogger.showDateTime=true", "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSZ",
		"-Djava.io.tmpdir=" + s.path("tmp"),
		"-cp", s.cache.classPath(jars), "kafka.Kafka", properties,
	}}, nil
}

// probeKafka asks for the brokers that may lead partitions: the port answers
// before the broker is registered, and a topic made then would be refused.
func (s *stack) probeKafka(ctx context.Context) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(s.address(kafkaPort)), kgo.RequestRetries(0))
	if err != nil {
		return err
	}
	defer client.Close()
	metadata, err := kmsg.NewPtrMetadataRequest().RequestWith(ctx, client)
	if err != nil {
		return err
	}
	if len(metadata.Brokers) == 0 {
		return errors.New("no broker is registered yet")
	}
	return nil
}
