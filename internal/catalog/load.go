package catalog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/capsaga/capsaga/saga"
)

// DefaultPath is read when CAPSAGA_CATALOG is unset.
const DefaultPath = "capsaga.yaml"

// maxBytes bounds what is read: a catalog of a thousand entities with mappings
// stays far below it.
const maxBytes = 1 << 20

// File is a catalog with the place of each of its fields.
type File struct {
	Path    string
	Catalog *saga.Catalog
	lines   map[string]int
}

// FileOf returns a File for a catalog that was not read from one; its problems
// name fields without lines.
func FileOf(c *saga.Catalog) *File { return &File{Catalog: c} }

// Line returns the line of a field, or that of the nearest field that encloses
// it; 0 when none is known.
func (f *File) Line(field string) int {
	for {
		if line, ok := f.lines[field]; ok {
			return line
		}
		end := strings.LastIndexAny(field, ".[")
		if end < 0 {
			return 0
		}
		field = field[:end]
	}
}

// Load reads a catalog. Its errors are rejected *saga.Error; when the file's
// content is at fault, errors.As finds all of its Problems.
func Load(path string) (*File, error) {
	if path == "" {
		path = DefaultPath
	}
	content, err := read(path)
	if err != nil {
		return nil, unreadable(path, err)
	}
	return Parse(path, content)
}

var errTooLarge = fmt.Errorf("larger than %d bytes", maxBytes)

func read(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	content, err := io.ReadAll(io.LimitReader(file, maxBytes+1))
	if err == nil && len(content) > maxBytes {
		return nil, errTooLarge
	}
	return content, err
}

func unreadable(path string, err error) error {
	tried := path
	if absolute, absErr := filepath.Abs(path); absErr == nil && absolute != path {
		tried = fmt.Sprintf("%s (%s)", path, absolute)
	}
	var cause *fs.PathError
	reason := err.Error()
	if errors.As(err, &cause) {
		reason = cause.Err.Error()
	}
	return &saga.Error{
		Class: saga.Rejected, System: "catalog", Code: saga.CodeRejected, Err: err,
		Message: fmt.Sprintf("read %s: %s: set CAPSAGA_CATALOG to the path of the catalog", tried, reason),
	}
}

// Parse reads a catalog from memory; path is what its problems name.
func Parse(path string, content []byte) (*File, error) {
	d := &decoder{file: path, lines: map[string]int{}}
	f := &File{Path: path, lines: d.lines}
	if root := d.document(content); root != nil {
		f.Catalog = d.catalog(root)
	}
	d.problems.sort()
	if err := d.problems.Err(); err != nil {
		return nil, err
	}
	return f, nil
}

// document returns the root of the file's only document, or nil after a
// problem.
func (d *decoder) document(content []byte) *yaml.Node {
	var document, second yaml.Node
	reader := yaml.NewDecoder(bytes.NewReader(content))
	err := reader.Decode(&document)
	if errors.Is(err, io.EOF) || err == nil && len(document.Content) == 0 {
		d.problemAt(1, "", "the file is empty: want version, kafka_tables and entities")
		return nil
	}
	if err != nil {
		d.syntax(err)
		return nil
	}
	if err := reader.Decode(&second); err == nil {
		d.problemAt(max(second.Line, 1), "", "a second YAML document begins here: a catalog is one document")
	} else if !errors.Is(err, io.EOF) {
		d.syntax(err)
		return nil
	}
	root := document.Content[0]
	if d.refuseAliases(root) {
		return nil
	}
	return root
}

// refuseAliases keeps out anchors: a few lines of aliases of aliases stand for
// gigabytes, and no line would be to blame for what they expand to.
func (d *decoder) refuseAliases(n *yaml.Node) (found bool) {
	if n.Anchor != "" || n.Kind == yaml.AliasNode {
		d.problemAt(n.Line, "", "anchors and aliases are not allowed in a catalog: write the value out")
		return true
	}
	for _, child := range n.Content {
		found = d.refuseAliases(child) || found
	}
	return found
}

var syntaxForm = regexp.MustCompile(`(?s)^yaml: (?:line (\d+): )?(.*)$`)

func (d *decoder) syntax(err error) {
	line, text := 1, err.Error()
	if m := syntaxForm.FindStringSubmatch(text); m != nil {
		text = m[2]
		if n, convErr := strconv.Atoi(m[1]); convErr == nil {
			line = n
		}
	}
	d.problemAt(line, "", "not YAML: %s", text)
}
