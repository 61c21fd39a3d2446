package config

import (
	"net"
	"strconv"
	"strings"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
)

// LookupEnv and Environ let Temporal's own reader see the same environment.
func (r *reader) LookupEnv(name string) (string, bool) {
	value, ok := r.values[name]
	return value, ok
}

// Environ is of the form of os.Environ.
func (r *reader) Environ() []string { return r.environ }

func (r *reader) temporal() client.Options {
	options, err := envconfig.LoadClientOptions(envconfig.LoadClientOptionsRequest{EnvLookup: r})
	if err != nil {
		r.refuse("TEMPORAL_CONFIG_FILE, TEMPORAL_PROFILE or TEMPORAL_*", "Temporal's settings cannot be read: %s", temporalReason(err))
	}
	if options.HostPort == "" {
		options.HostPort = DefaultTemporalAddress
	}
	if options.Namespace == "" {
		options.Namespace = client.DefaultNamespace
	}
	// With a scheme it is a name for gRPC's resolvers, which have forms of their own.
	if !strings.Contains(options.HostPort, "://") && !isHostPort(options.HostPort) {
		r.refuse(TemporalAddress, "%q: want host:port", options.HostPort)
	}
	// Where no network is, compression only costs: a fifteenth of a saga's computing.
	if _, _, here := onThisMachine(options.HostPort); here {
		options.ConnectionOptions.GrpcCompression = &client.GrpcCompressionNone{}
	}
	return options
}

// onThisMachine splits a loopback address.
func onThisMachine(address string) (host string, port int, ok bool) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, false
	}
	ip := net.ParseIP(host)
	port, err = strconv.Atoi(text)
	return host, port, err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}

// temporalReason leaves out what a parser quotes of the file: it may be an API
// key.
func temporalReason(err error) string {
	text := err.Error()
	if head, _, quoted := strings.Cut(text, "failed parsing config: "); quoted {
		return head + "the file is not valid TOML, or a value in it has another type than wanted; compare it with Temporal's documentation of environment configuration"
	}
	return text
}

// temporalUI returns the base of links into the Temporal UI. The local stack
// has it on the port above Temporal's own, and Temporal's development server,
// when it runs on its default port, a thousand above.
func (r *reader) temporalUI(address string) string {
	if base := r.httpURL(TemporalUIURL, ""); base != "" {
		return base
	}
	host, port, ok := onThisMachine(address)
	if !ok {
		return ""
	}
	distance := 1
	if port == 7233 {
		distance = 1000
	}
	return "http://" + net.JoinHostPort(host, strconv.Itoa(port+distance))
}
