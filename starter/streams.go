package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/capsaga/capsaga/internal/stream"
)

func (a *app) streamsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "streams", Short: "Show the replication streams: who holds them and how far they are", Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			infos, err := a.streams(cmd.Context())
			if err != nil {
				return err
			}
			return a.writeStreams(infos)
		},
	}
	cmd.AddCommand(a.drainCommand())
	return cmd
}

// noHolder is what nobody is there to say.
const noHolder = "no worker holds the stream: start one with the role stream"

func (a *app) streams(ctx context.Context) ([]stream.Info, error) {
	c, err := a.config()
	if err != nil {
		return nil, err
	}
	db, err := a.postgres(ctx, c)
	if err != nil {
		return nil, err
	}
	infos, err := stream.Status(ctx, db.Pool(), c.Prefix)
	for i := range infos {
		if !infos[i].Active && infos[i].Error == "" {
			infos[i].Error = noHolder
		}
	}
	return infos, withSchemaHint(err)
}

func (a *app) writeStreams(infos []stream.Info) error {
	if a.output == asJSON {
		if infos == nil {
			infos = []stream.Info{}
		}
		return writeJSON(a.stdout, infos)
	}
	if len(infos) == 0 {
		a.note("no stream has a slot yet: `capsaga catalog apply` creates what the catalog names")
		return nil
	}
	t := newTable(a.stdout, "NAME", "SLOT", "HOLDER", "ACTIVE", "CONFIRMED", "LAG", "BEHIND", "WAL", "KEPT", "GAP", "ERROR")
	for _, i := range infos {
		t.row(i.Name, i.Slot, dash(i.Holder), strconv.FormatBool(i.Active), i.ConfirmedLSN.String(),
			byteCount(i.LagBytes), fmt.Sprintf("%.1fs", i.LagSeconds), walText(i), byteCount(i.RetainedBytes), gapText(i.Gap), troubleText(i))
	}
	if err := t.flush(); err != nil {
		return err
	}
	for _, i := range infos {
		for _, alarm := range i.Alarms {
			a.note("%s: %s", i.Name, printable(alarm))
		}
	}
	return nil
}

// walText is what the server says of the WAL that the slot needs, and how far the
// slot is from being lost.
func walText(i stream.Info) string {
	switch {
	case !i.Exists:
		return "gone"
	case i.SafeBytes != nil && i.WALStatus != "lost":
		return i.WALStatus + ", " + byteCount(*i.SafeBytes) + " to go"
	}
	return dash(i.WALStatus)
}

// troubleText is what is wrong with the stream. What it has set aside is told in full
// below the table.
func troubleText(i stream.Info) string {
	if i.Error == "" && len(i.Alarms) > 0 {
		return fmt.Sprintf("%d told below", len(i.Alarms))
	}
	return dash(i.Error)
}

// gapText is the last gap: when it was found, and whether its backfill has been
// requested.
func gapText(gap *stream.Past) string {
	if gap == nil {
		return "-"
	}
	text := gap.At.UTC().Format("2006-01-02 15:04:05Z")
	if gap.Open {
		return text + " (open)"
	}
	return text + " (backfill requested)"
}

// byteCount is a number of bytes for people.
func byteCount(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n)/1024, 0
	for value >= 1024 && unit < len(units)-1 {
		value, unit = value/1024, unit+1
	}
	return fmt.Sprintf("%.1f %ciB", value, units[unit])
}
