package main

import (
	"bytes"
	"io"
	"os"

	"github.com/spf13/cobra"
)

// benchFiles are where a measurement's result goes besides the output; none where
// they have no name.
type benchFiles struct{ svg, json string }

func (f *benchFiles) files(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.svg, "svg", "", "draw the result into this `file`")
	cmd.Flags().StringVar(&f.json, "json", "", "write the result as JSON into this `file`, too")
}

// writable finds out before the minutes of measuring what cannot be written.
func (f *benchFiles) writable() error {
	for _, name := range []string{f.svg, f.json} {
		if err := writable(name); err != nil {
			return err
		}
	}
	return nil
}

// benchResult is what a measurement found.
type benchResult interface {
	WriteTable(out io.Writer) error
	WriteSVG(out io.Writer) error
}

func (a *app) tellBench(f benchFiles, result benchResult) error {
	if err := writeFile(f.svg, result.WriteSVG); err != nil {
		return err
	}
	if err := writeFile(f.json, func(out io.Writer) error { return writeJSON(out, result) }); err != nil {
		return err
	}
	if a.output == asJSON {
		return writeJSON(a.stdout, result)
	}
	return result.WriteTable(a.stdout)
}

// writable returns an error if a file, unless it has no name, cannot be written.
func writable(name string) error {
	if name == "" {
		return nil
	}
	file, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o644) //nolint:gosec // a result is for all
	if err != nil {
		return err
	}
	return file.Close()
}

func writeFile(name string, write func(io.Writer) error) error {
	if name == "" {
		return nil
	}
	var content bytes.Buffer
	if err := write(&content); err != nil {
		return err
	}
	return os.WriteFile(name, content.Bytes(), 0o644)
}
