package config

import (
	"reflect"
	"strconv"
	"strings"
	"sync"
)

// Key is the documentation of one key.
type Key struct {
	Path    string // levels joined by dots; <name> is a pool's name, [] an element of a list
	Type    string // text, number, bytes, time, yes/no, yes/observe/no, list of texts, list of numbers, list of networks
	Default string // as it would be written in the file; empty: none
	Doc     string // one or two sentences
	Bounds  string // legal values in words, empty when any value is
	Restart bool   // a change takes effect only after a restart
}

// Keys lists every key in the order of the file. Sections are not keys themselves. The slice is shared: read only.
var Keys = sync.OnceValue(func() []Key {
	var keys []Key
	collectKeys(&keys, reflect.ValueOf(Default()).Elem(), "", false)
	return keys
})

func collectKeys(keys *[]Key, section reflect.Value, path string, restart bool) {
	for f, v := range section.Fields() {
		name := f.Tag.Get("yaml")
		if name == "-" {
			continue
		}
		sub := join(path, name)
		subRestart := restart || f.Tag.Get("apply") == "restart"
		switch v.Interface().(type) {
		case []Listener:
			*keys = append(*keys, Key{
				Path: sub, Type: "list", Default: "[udp:0.0.0.0:5060, tcp:0.0.0.0:5060]", Doc: f.Tag.Get("doc"), Restart: true,
			})
			collectKeys(keys, reflect.ValueOf(Listener{}), sub+"[]", subRestart)
		case []KeyPair:
			*keys = append(*keys, Key{Path: sub, Type: "list", Default: show(v), Doc: f.Tag.Get("doc"), Restart: subRestart})
			collectKeys(keys, reflect.ValueOf(KeyPair{}), sub+"[]", subRestart)
		case map[string]Pool:
			collectKeys(keys, reflect.ValueOf(DefaultPool()), sub+".<name>", subRestart)
		case []Backend:
			collectKeys(keys, reflect.ValueOf(DefaultBackend()), sub+"[]", subRestart)
		case []Route:
			collectKeys(keys, reflect.ValueOf(Route{}), sub+"[]", subRestart)
		default:
			if isSection(f.Type) {
				collectKeys(keys, v, sub, subRestart)
				continue
			}
			*keys = append(*keys, Key{
				Path: sub, Type: typeName(f), Default: show(v), Doc: f.Tag.Get("doc"), Bounds: boundsOf(f), Restart: subRestart,
			})
		}
	}
}

func typeName(f reflect.StructField) string {
	switch {
	case f.Type == durationType:
		return "time"
	case f.Type.Kind() == reflect.Bool:
		return "yes/no"
	case f.Type == modeType:
		return "yes/observe/no"
	case f.Tag.Get("unit") == "bytes":
		return "bytes"
	case f.Type.Kind() == reflect.Int:
		return "number"
	case f.Type.Kind() == reflect.Slice && f.Type.Elem() == prefixType:
		return "list of networks"
	case f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Int:
		return "list of numbers"
	case f.Type.Kind() == reflect.Slice:
		return "list of texts"
	default:
		return "text"
	}
}

// boundsOf puts the legal values into words.
func boundsOf(f reflect.StructField) string {
	unit := ""
	if f.Type == durationType {
		unit = " s"
	} else if u := f.Tag.Get("unit"); u != "" {
		unit = " " + u
	}
	var parts []string
	if one := f.Tag.Get("one"); one != "" {
		parts = append(parts, strings.ReplaceAll(one, "|", ", "))
	}
	least := f.Tag.Get("safe")
	if least == "" {
		least = f.Tag.Get("min")
	}
	most := f.Tag.Get("max")
	switch {
	case least != "" && most != "":
		parts = append(parts, least+" to "+most+unit)
	case least != "":
		parts = append(parts, "at least "+least+unit)
	case most != "":
		parts = append(parts, "at most "+most+unit)
	}
	if f.Tag.Get("safe") != "" {
		parts[len(parts)-1] += " (less with lab: yes)"
	}
	if zero := f.Tag.Get("zero"); zero != "" {
		name := "0"
		if f.Type.Kind() == reflect.String {
			name = "empty"
		} else if f.Type.Kind() == reflect.Slice {
			name = "none"
		}
		parts = append(parts, name+" = "+zero)
	}
	return strings.Join(parts, "; ")
}

// show writes a value as the file would have it.
func show(v reflect.Value) string {
	switch {
	case v.Type() == durationType:
		return Duration(v.Int()).String()
	case v.Kind() == reflect.Bool:
		if v.Bool() {
			return "yes"
		}
		return "no"
	case v.Type() == modeType:
		switch Mode(v.String()) {
		case Enforce:
			return "yes"
		case Off:
			return "no"
		default:
			return v.String()
		}
	case v.Kind() == reflect.Int:
		return strconv.FormatInt(v.Int(), 10)
	case v.Kind() == reflect.Slice:
		items := make([]string, v.Len())
		for i := range items {
			items[i] = show(v.Index(i))
		}
		return "[" + strings.Join(items, ", ") + "]"
	case v.Type() == prefixType:
		return v.Interface().(interface{ String() string }).String()
	default:
		return showText(v.String())
	}
}

// showText quotes a text where YAML could take it for something else.
func showText(s string) string {
	if s != "" && !strings.ContainsAny(s, " \t:#\"'[]{},&*!|>%@`\\") && s[0] != '-' && s[0] != '?' {
		return s
	}
	return strconv.Quote(s)
}
