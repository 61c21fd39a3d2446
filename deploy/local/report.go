package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// reporter tells the user what happens: lines for every reader, bars where a
// terminal is there. It writes to standard error, as standard output belongs to
// the answers of commands.
type reporter struct {
	mu       sync.Mutex
	out      io.Writer
	terminal bool
	start    time.Time
	bar      *progressbar.ProgressBar
}

func newReporter() *reporter {
	return &reporter{out: os.Stderr, terminal: term.IsTerminal(int(os.Stderr.Fd())), start: time.Now()}
}

// line prints one line, above the bar where one is shown.
func (r *reporter) line(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.bar != nil {
		_ = r.bar.Clear()
	}
	_, _ = fmt.Fprintf(r.out, format+"\n", args...)
}

// downloadProgress counts bytes and files of parallel downloads.
type downloadProgress struct {
	report      *reporter
	files       int
	total       int64
	mu          sync.Mutex
	doneFiles   int
	doneBytes   int64
	lastPrinted time.Time
	bar         *progressbar.ProgressBar
}

func (r *reporter) download(files int, total int64) *downloadProgress {
	p := &downloadProgress{report: r, files: files, total: total, lastPrinted: time.Now()}
	r.line("downloading %d files, %d MB", files, total>>20)
	if r.terminal {
		p.bar = progressbar.NewOptions64(total, progressbar.OptionSetWriter(r.out), progressbar.OptionShowBytes(true),
			progressbar.OptionSetDescription("downloading"), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
		r.mu.Lock()
		r.bar = p.bar
		r.mu.Unlock()
	}
	return p
}

// Write counts the bytes of a download.
func (p *downloadProgress) Write(b []byte) (int, error) {
	p.add(int64(len(b)))
	return len(b), nil
}

// undo takes back the bytes of an attempt that failed.
func (p *downloadProgress) undo(bytes int64) { p.add(-bytes) }

func (p *downloadProgress) add(bytes int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.doneBytes += bytes
	if p.bar != nil {
		p.report.mu.Lock()
		_ = p.bar.Set64(p.doneBytes)
		p.report.mu.Unlock()
		return
	}
	if time.Since(p.lastPrinted) > 5*time.Second {
		p.lastPrinted = time.Now()
		p.report.line("downloading: %d of %d files, %d of %d MB", p.doneFiles, p.files, p.doneBytes>>20, p.total>>20)
	}
}

func (p *downloadProgress) done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.doneFiles++
}

func (p *downloadProgress) close() {
	if p.bar != nil {
		p.report.mu.Lock()
		_ = p.bar.Finish()
		p.report.bar = nil
		p.report.mu.Unlock()
	}
	p.report.line("downloaded %d of %d files", p.doneFiles, p.files)
}
