package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/v2"
	"go.yaml.in/yaml/v3"
)

// MaxFile is the size of the largest file that is read, in bytes.
const MaxFile = 1 << 20

// EnvPrefix begins the name of every environment variable that is a key.
const EnvPrefix = "SIPWARD_"

// Options says where the layers of a configuration come from. The zero value means: defaults only.
type Options struct {
	// Path is the file to read. With Data it is only the name shown in problems.
	Path string
	// Data is the file's content; nil = read Path.
	Data []byte
	// Env are NAME=value pairs as os.Environ returns them. Names without EnvPrefix are ignored, and so are the names
	// that Kubernetes makes up for a Service called sipward (SIPWARD_PORT…, SIPWARD_SERVICE_…).
	Env []string
	// Sets are the key.path=value arguments of --set, later ones win.
	Sets []string
	// Addresses are those of this host; nil = ask the system. Used for the checks against own listeners.
	Addresses []netip.Addr
}

// layer orders problems by where they come from.
type layer uint8

const (
	layerFile layer = iota
	layerEnv
	layerSet
)

// place is where a value was written.
type place struct {
	source    string
	line, col int
	layer     layer
}

// loader collects the values of all layers, where each was written, and what is wrong.
type loader struct {
	source   string // name for problems that belong to no key that was written
	keyAt    map[string]place
	valueAt  map[string]place
	problems Problems
	lab      bool
	nodes    int // alias bombs: what expanding the file's nodes has cost
	bytes    int
}

// Load reads all layers and checks the result. The error is of type Problems when the configuration is at fault, and
// then lists everything that is wrong; a file that cannot be read is an ordinary error. The warnings are there in
// either case. The configuration is nil unless the error is.
func Load(o Options) (*Config, Problems, error) {
	l := &loader{source: bounded(o.Path), keyAt: map[string]place{}, valueAt: map[string]place{}}
	if l.source == "" {
		l.source = "configuration"
	}
	data := o.Data
	if data == nil && o.Path != "" {
		var err error
		if data, err = readBounded(o.Path); err != nil {
			return nil, nil, err
		}
	}
	if len(data) > MaxFile {
		return nil, nil, fmt.Errorf("%s: larger than %d bytes", l.source, MaxFile)
	}

	// Values stay text until they meet the key they belong to: what `yes`, 010 or 5060 is, is the key's business.
	// The delimiter cannot be part of a name, so pools and backends may be called as they like.
	k := koanf.New("\x1f")
	root, ok := l.parseFile(data)
	if !ok {
		// Not the YAML we read: whatever else could be said would not be true.
		failed, warnings := l.problems.split()
		return nil, warnings, failed
	}
	l.lay(k, root)
	l.environment(k, o.Env)
	l.sets(k, o.Sets)

	merged := k.Raw()
	if text, ok := merged["lab"].(string); ok {
		l.lab, _ = parseBool(text)
	}
	c := Default()
	l.decodeStruct(merged, reflect.ValueOf(c).Elem(), "")
	addresses := o.Addresses
	if addresses == nil {
		addresses = hostAddresses()
	}
	l.check(c, addresses)

	failed, warnings := l.problems.split()
	if len(failed) > 0 {
		return nil, warnings, failed
	}
	return c, warnings, nil
}

// lay puts one more layer over the others: maps are merged, everything else is replaced.
func (l *loader) lay(k *koanf.Koanf, values map[string]any) {
	if err := k.Load(confmap.Provider(values, ""), nil); err != nil {
		l.problem(place{source: l.source}, "", "%v", err)
	}
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("configuration file: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return nil, fmt.Errorf("configuration file: %w", err)
	}
	return data, nil
}

// parseFile turns the file into maps, lists and texts and notes where each stood. An empty file has no keys.
func (l *loader) parseFile(data []byte) (root map[string]any, ok bool) {
	d := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	if err := d.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, true
	} else if err != nil {
		l.syntax(err)
		return nil, false
	}
	if err := d.Decode(&second); err == nil {
		l.problem(place{l.source, second.Line, second.Column, layerFile}, "", "a second YAML document: only one is read")
		return nil, false
	} else if !errors.Is(err, io.EOF) {
		l.syntax(err)
		return nil, false
	}
	value := l.value(&doc, "", layerFile, l.source, 0)
	if value == nil {
		return nil, true
	}
	root, ok = value.(map[string]any)
	if !ok {
		l.problem(place{l.source, doc.Line, doc.Column, layerFile}, "", "want keys with values, for example `pools:`")
	}
	return root, ok
}

// syntax reports what the YAML parser found, with its line number as the position.
func (l *loader) syntax(err error) {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	at := place{source: l.source, layer: layerFile}
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		if number, after, ok := strings.Cut(rest, ": "); ok {
			if n, err := strconv.Atoi(number); err == nil {
				at.line, at.col, text = n, 1, after
			}
		}
	}
	l.problem(at, "", "not YAML: %s", cut(text))
}

// Bounds of one file's tree, aliases expanded.
const (
	maxDepth = 16
	maxNodes = 20_000
	maxBytes = 4 * MaxFile
)

// value turns a node into map[string]any, []any, string or nil. A problem leaves the value out.
func (l *loader) value(n *yaml.Node, path string, from layer, source string, depth int) any {
	at := place{source: source, layer: from}
	if from == layerFile {
		at.line, at.col = n.Line, n.Column
	}
	l.nodes++
	l.bytes += len(n.Value) + len(path)
	if depth > maxDepth || l.nodes > maxNodes || l.bytes > maxBytes {
		if l.nodes <= 2*maxNodes { // once is enough
			l.nodes = 3 * maxNodes
			l.problem(at, path, "too deep or too much (aliases that repeat each other?)")
		}
		return nil
	}
	l.valueAt[path] = at
	switch n.Kind {
	case yaml.DocumentNode:
		return l.value(n.Content[0], path, from, source, depth+1)
	case yaml.AliasNode:
		return l.value(n.Alias, path, from, source, depth+1)
	case yaml.SequenceNode:
		list := make([]any, 0, len(n.Content))
		for i, item := range n.Content {
			list = append(list, l.value(item, fmt.Sprintf("%s[%d]", path, i), from, source, depth+1))
		}
		return list
	case yaml.MappingNode:
		return l.mapping(n, path, from, source, depth)
	default:
		if n.Style&yaml.TaggedStyle != 0 {
			l.problem(at, path, "YAML tags are not supported")
			return nil
		}
		if n.Style == 0 && n.ShortTag() == "!!null" {
			return nil
		}
		return n.Value
	}
}

func (l *loader) mapping(n *yaml.Node, path string, from layer, source string, depth int) any {
	m := make(map[string]any, len(n.Content)/2)
	var merged []any
	for i := 0; i+1 < len(n.Content); i += 2 {
		name := n.Content[i]
		at := place{source: source, layer: from}
		if from == layerFile {
			at.line, at.col = name.Line, name.Column
		}
		if name.Kind != yaml.ScalarNode {
			l.problem(at, path, "a key must be a plain word")
			continue
		}
		if name.ShortTag() == "!!merge" {
			merged = append(merged, l.value(n.Content[i+1], path, from, source, depth+1))
			continue
		}
		sub := join(path, name.Value)
		if _, twice := m[name.Value]; twice {
			text := "given twice"
			if first := l.keyAt[sub]; first.line > 0 {
				text = fmt.Sprintf("given twice, first in line %d", first.line)
			}
			l.problem(at, sub, "%s", text)
			continue
		}
		l.keyAt[sub] = at
		m[name.Value] = l.value(n.Content[i+1], sub, from, source, depth+1)
	}
	// What `<<` brings in fills gaps only.
	for _, one := range merged {
		list, ok := one.([]any)
		if !ok {
			list = []any{one}
		}
		for _, item := range list {
			values, _ := item.(map[string]any)
			for name, v := range values {
				if _, own := m[name]; !own {
					m[name] = v
				}
			}
		}
	}
	return m
}

// environment lays the variables over the file, those of whole sections before those of single keys.
func (l *loader) environment(k *koanf.Koanf, env []string) {
	type variable struct{ name, value string }
	var vars []variable
	for _, pair := range env {
		name, value, ok := strings.Cut(pair, "=")
		short, ours := strings.CutPrefix(name, EnvPrefix)
		if !ok || !ours || isServiceLink(short) {
			continue
		}
		vars = append(vars, variable{name, value})
	}
	slices.SortFunc(vars, func(a, b variable) int {
		if d := strings.Count(a.name, "__") - strings.Count(b.name, "__"); d != 0 {
			return d
		}
		return strings.Compare(a.name, b.name)
	})
	for _, v := range vars {
		path := strings.Split(strings.ToLower(strings.TrimPrefix(v.name, EnvPrefix)), "__")
		l.override(k, path, v.value, place{source: "environment " + bounded(v.name), layer: layerEnv})
	}
}

// isServiceLink reports whether the rest of a SIPWARD_ name is one that Kubernetes and Docker links make up for a
// service called sipward.
func isServiceLink(short string) bool {
	return short == "PORT" || strings.HasPrefix(short, "PORT_") || strings.HasPrefix(short, "SERVICE_")
}

func (l *loader) sets(k *koanf.Koanf, sets []string) {
	for _, s := range sets {
		name, value, ok := strings.Cut(s, "=")
		name = strings.TrimSpace(name)
		at := place{source: strings.TrimSpace("--set " + bounded(name)), layer: layerSet}
		if !ok || name == "" {
			l.problem(at, "", "want --set key.path=value")
			continue
		}
		l.override(k, strings.Split(name, "."), value, at)
	}
}

// override lays one value over what is there. Elements of a list are addressed by their number from 0; the number
// after the last one appends.
func (l *loader) override(k *koanf.Koanf, path []string, text string, at place) {
	if len(path) > maxDepth || len(text) > MaxFile {
		l.problem(at, "", "too deep or too long")
		return
	}
	old := k.Raw()
	shown, kind := l.locate(old, path, at)
	value := any(text)
	if kind != nil {
		var ok bool
		if value, ok = l.overrideValue(text, kind, shown, at); !ok {
			return
		}
	}
	for sub := range l.valueAt {
		if strings.HasPrefix(sub, shown+".") || strings.HasPrefix(sub, shown+"[") {
			delete(l.valueAt, sub)
			delete(l.keyAt, sub)
		}
	}
	l.valueAt[shown], l.keyAt[shown] = at, at
	replaced, err := replace(old, path, value)
	if err != nil {
		l.problem(at, shown, "%v", err)
		return
	}
	root, ok := replaced.(map[string]any)
	if !ok {
		return
	}
	l.lay(k, root)
}

// locate follows a path through what is there and through the keys. It fixes the letter case of names in place, for
// the environment knows no lower case, and returns the path as problems show it and the type of the value (nil: no
// such key, which decoding reports). Sections that the path brings into being are noted as written here.
func (l *loader) locate(tree any, path []string, here place) (string, reflect.Type) {
	kind := reflect.TypeFor[Config]()
	shown := ""
	for i, name := range path {
		if kindOf(tree) == "text" {
			l.keyAt[shown], l.valueAt[shown] = here, here
		}
		if m, ok := tree.(map[string]any); ok {
			if _, exact := m[name]; !exact {
				for have := range m {
					if strings.EqualFold(have, name) {
						name, path[i] = have, have
						break
					}
				}
			}
			tree = m[name]
		} else if list, ok := tree.([]any); ok {
			tree = nil
			if n, err := strconv.Atoi(name); err == nil && n >= 0 && n < len(list) {
				tree = list[n]
			}
		}
		switch {
		case kind == nil:
			shown = join(shown, name)
		case kind.Kind() == reflect.Map:
			shown, kind = join(shown, name), kind.Elem()
		case kind.Kind() == reflect.Slice:
			shown, kind = fmt.Sprintf("%s[%s]", shown, name), kind.Elem()
		default:
			f, ok := field(kind, name)
			kind = nil
			if ok {
				kind = f.Type
			}
			shown = join(shown, name)
		}
	}
	return shown, kind
}

// overrideValue reads the text of a variable or --set: YAML where it is a list or a map, else the text itself. A list
// of plain words may be written with commas.
func (l *loader) overrideValue(text string, kind reflect.Type, shown string, at place) (any, bool) {
	isList, isMap := kind.Kind() == reflect.Slice, isSection(kind) || kind.Kind() == reflect.Map
	trimmed := strings.TrimSpace(text)
	// A list may also begin with a bracketed IPv6 address: [::1]:53,[::2]:53
	isYAML := isList && strings.HasPrefix(trimmed, "[") && !strings.HasPrefix(trimmed[strings.IndexByte(trimmed, ']')+1:], ":")
	if isYAML || (isMap && strings.HasPrefix(trimmed, "{")) {
		var doc yaml.Node
		if err := yaml.Unmarshal([]byte(trimmed), &doc); err != nil {
			l.problem(at, shown, "not YAML: %s", cut(strings.TrimPrefix(err.Error(), "yaml: ")))
			return nil, false
		}
		return l.value(&doc, shown, at.layer, at.source, 0), true
	}
	if !isList {
		return text, true
	}
	list := []any{}
	for item := range strings.SplitSeq(trimmed, ",") {
		if item = strings.TrimSpace(item); item != "" {
			list = append(list, item)
		}
	}
	return list, true
}

// replace returns the tree with one value replaced. What is not on the path is shared with the old tree.
func replace(tree any, path []string, value any) (any, error) {
	if len(path) == 0 {
		return value, nil
	}
	n, err := strconv.Atoi(path[0])
	list, isList := tree.([]any)
	if isList || (tree == nil && err == nil) {
		if err != nil || n < 0 || n > len(list) {
			return nil, fmt.Errorf("want the number of an element, 0 to %d", len(list))
		}
		list = slices.Clone(list)
		if n == len(list) {
			list = append(list, nil)
		}
		if short, ok := list[n].(string); ok && len(path) > 1 {
			list[n] = map[string]any{"address": short} // the short form of a listener or backend
		}
		list[n], err = replace(list[n], path[1:], value)
		return list, err
	}
	old, _ := tree.(map[string]any)
	m := make(map[string]any, len(old)+1)
	for name, v := range old {
		m[name] = v
	}
	m[path[0]], err = replace(m[path[0]], path[1:], value)
	return m, err
}

// problem notes an error, warn a warning, at a place.
func (l *loader) problem(at place, key, format string, args ...any) {
	l.add(at, key, false, fmt.Sprintf(format, args...))
}

func (l *loader) add(at place, key string, warning bool, text string) {
	if len(l.problems) > 10*maxProblems {
		return
	}
	l.problems = append(l.problems, Problem{
		Source: at.source, Line: at.line, Col: at.col, Key: bounded(key), Text: text, Warning: warning, layer: at.layer,
	})
}

// errorf notes that the value of a key is wrong.
func (l *loader) errorf(key, format string, args ...any) {
	l.add(l.at(key, l.valueAt), key, false, fmt.Sprintf(format, args...))
}

// keyErrorf notes that a key itself is wrong, or that something under it is missing.
func (l *loader) keyErrorf(key, format string, args ...any) {
	l.add(l.at(key, l.keyAt), key, false, fmt.Sprintf(format, args...))
}

func (l *loader) warnf(key, format string, args ...any) {
	l.add(l.at(key, l.keyAt), key, true, fmt.Sprintf(format, args...))
}

// isBroken reports whether something under a key is wrong already, so that what follows from it needs no words.
func (l *loader) isBroken(key string) bool {
	return slices.ContainsFunc(l.problems, func(p Problem) bool {
		rest, under := strings.CutPrefix(p.Key, key)
		return under && !p.Warning && (rest == "" || rest[0] == '.' || rest[0] == '[')
	})
}

// at finds where a key was written: itself, else the nearest section around it, else the file as a whole.
func (l *loader) at(key string, places map[string]place) place {
	for key != "" {
		if p, ok := places[key]; ok {
			return p
		}
		if p, ok := l.valueAt[key]; ok {
			return p
		}
		key = parent(key)
	}
	return place{source: l.source}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func parent(path string) string {
	return path[:max(0, strings.LastIndexAny(path, ".["))]
}

// bounded makes a name from outside fit for a message: one line, not too long.
func bounded(s string) string {
	const most = 128
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// hostAddresses returns the addresses of this host that others could reach it by. An error means none: the checks
// that use them are advice.
func hostAddresses() []netip.Addr {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var out []netip.Addr
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLinkLocalUnicast() {
			out = append(out, p.Addr().Unmap())
		}
	}
	return out
}

// cut shortens what the YAML library says: it repeats the file.
func cut(text string) string {
	const enough = 200
	if len(text) <= enough {
		return text
	}
	return strings.ToValidUTF8(text[:enough], "") + "…"
}
