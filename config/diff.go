package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Diff names the keys whose values differ between two loaded configurations: those that a reload takes over at once
// and those that wait for a restart. Backends are named by their name, pools.pbx.backends[pbx1].state; a pool or
// backend that came or went is named as a whole.
func Diff(old, new *Config) (applied, restart []string) {
	var d difference
	d.section(reflect.ValueOf(old).Elem(), reflect.ValueOf(new).Elem(), "", false)
	return d.applied, d.restart
}

type difference struct{ applied, restart []string }

func (d *difference) add(key string, needsRestart bool) {
	if needsRestart {
		d.restart = append(d.restart, key)
		return
	}
	d.applied = append(d.applied, key)
}

func (d *difference) section(old, new reflect.Value, path string, needsRestart bool) {
	for f, before := range old.Fields() {
		after := new.FieldByIndex(f.Index)
		if f.Tag.Get("yaml") == "-" {
			continue
		}
		key := join(path, f.Tag.Get("yaml"))
		restart := needsRestart || f.Tag.Get("apply") == "restart"
		switch before := before.Interface().(type) {
		case map[string]Pool:
			d.pools(before, after.Interface().(map[string]Pool), key)
		case []Backend:
			d.backends(before, after.Interface().([]Backend), key)
		default:
			switch {
			case isSection(f.Type):
				d.section(reflect.ValueOf(before), after, key, restart)
			case !same(reflect.ValueOf(before), after):
				d.add(key, restart)
			}
		}
	}
}

// same compares two values; a list that is absent and one that is empty mean the same.
func same(a, b reflect.Value) bool {
	if a.Kind() == reflect.Slice && a.Len() == 0 && b.Len() == 0 {
		return true
	}
	return reflect.DeepEqual(a.Interface(), b.Interface())
}

func (d *difference) pools(old, new map[string]Pool, path string) {
	for _, name := range namesOf(old, new) {
		before, had := old[name]
		after, has := new[name]
		if had && has {
			d.section(reflect.ValueOf(before), reflect.ValueOf(after), join(path, name), false)
			continue
		}
		d.add(join(path, name), false)
	}
}

func (d *difference) backends(old, new []Backend, path string) {
	before, after := byName(old), byName(new)
	for _, name := range namesOf(before, after) {
		key := fmt.Sprintf("%s[%s]", path, name)
		b, had := before[name]
		a, has := after[name]
		if had && has {
			d.section(reflect.ValueOf(b), reflect.ValueOf(a), key, false)
			continue
		}
		d.add(key, false)
	}
}

func byName(list []Backend) map[string]Backend {
	m := make(map[string]Backend, len(list))
	for _, b := range list {
		m[b.Name] = b
	}
	return m
}

func namesOf[V any](a, b map[string]V) []string {
	names := slices.AppendSeq(slices.Collect(maps.Keys(a)), maps.Keys(b))
	slices.SortFunc(names, strings.Compare)
	return slices.Compact(names)
}
