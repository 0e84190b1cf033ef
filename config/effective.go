package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Row is one effective setting, as `check` and the start of `run` show it.
type Row struct {
	Name  string `json:"name"`  // for people: "max transactions"
	Value string `json:"value"` // with its unit
	Key   string `json:"key"`   // where to change it
}

// Effective lists the limits and times that are in force, in the order of the file.
func Effective(c *Config) []Row {
	var rows []Row
	rows = appendRows(rows, reflect.ValueOf(c.Limits), "limits")
	rows = appendRows(rows, reflect.ValueOf(c.Registration), "registration")
	rows = append(rows, timerRows(c)...)
	rows = append(rows, securityRows(c.Security)...)
	rows = appendRows(rows, reflect.ValueOf(c.Transaction), "transaction")
	for _, name := range slices.Sorted(maps.Keys(c.Pools)) {
		pool := c.Pools[name]
		if pool.InviteFailover == 0 {
			pool.InviteFailover = c.Transaction.InviteFailover
		}
		if pool.RequestFailover == 0 {
			pool.RequestFailover = c.Transaction.RequestFailover
		}
		rows = appendRows(rows, reflect.ValueOf(pool), "pools."+name)
		for _, b := range pool.Backends {
			key := fmt.Sprintf("pools.%s.backends[%s]", name, b.Name)
			if b.MaxCPS > 0 {
				rows = append(rows, Row{"max cps", fmt.Sprintf("%d/s", b.MaxCPS), key + ".max_cps"})
			}
			if b.MaxCalls > 0 {
				rows = append(rows, Row{"max calls", strconv.Itoa(b.MaxCalls), key + ".max_calls"})
			}
		}
	}
	for i, r := range c.Routes {
		if r.MaxCPS > 0 {
			rows = append(rows, Row{"max cps", fmt.Sprintf("%d/s", r.MaxCPS), fmt.Sprintf("routes[%d].max_cps", i)})
		}
	}
	rows = appendRows(rows, reflect.ValueOf(c.CDR), "cdr")
	kept := "nothing"
	if c.StateFile != "" {
		kept = "calls and registrations, in " + c.StateFile
	}
	rows = append(rows, Row{"kept over a restart", kept, "state_file"})
	return appendRows(rows, reflect.ValueOf(c.Admin), "admin")
}

// timerRows shows the section `timers:` with the times that follow from others.
func timerRows(c *Config) []Row {
	t := c.Timers
	t.AckTimeout = t.AckWait(c.Transaction.T1)
	rows := appendRows(nil, reflect.ValueOf(t), "timers")
	for i := range rows {
		if rows[i].Key == "timers.session_update_segment" && t.SessionTTL > 0 {
			rows[i].Value += fmt.Sprintf(" (a probe after %s s)", t.ProbeInterval(c.Transaction.T1))
		}
	}
	return rows
}

// securityRows shows the section `security:`; of the networks that it trusts each has its row, a long list only begins.
func securityRows(s Security) []Row {
	const key, most = "security.trusted", 16
	var rows []Row
	for _, r := range appendRows(nil, reflect.ValueOf(s), "security") {
		if r.Key != key {
			rows = append(rows, r)
			continue
		}
		rows = append(rows, Row{r.Name, "backends and own addresses", key})
		for i, p := range s.Trusted {
			if i == most {
				rows = append(rows, Row{r.Name, fmt.Sprintf("%d more", len(s.Trusted)-most), key})
				break
			}
			rows = append(rows, Row{r.Name, p.String(), fmt.Sprintf("%s[%d]", key, i)})
		}
	}
	return rows
}

// appendRows adds the settings of a section and of those inside it.
func appendRows(rows []Row, section reflect.Value, path string) []Row {
	for f, v := range section.Fields() {
		key := join(path, f.Tag.Get("yaml"))
		switch {
		case f.Name == "TLS" || f.Type == reflect.TypeFor[[]Backend]():
		case isSection(f.Type):
			rows = appendRows(rows, v, key)
		default:
			name := strings.ReplaceAll(f.Tag.Get("yaml"), "_", " ")
			switch {
			case strings.HasSuffix(path, ".probe"):
				name = "probe " + name
			case strings.HasSuffix(path, ".block_useragents"):
				name = "block useragents " + name
			case path == "cdr" || path == "admin" || path == "registration": // "output" alone says little
				name = path + " " + name
			}
			rows = append(rows, Row{name, effective(f, v), key})
		}
	}
	return rows
}

// effective shows a value with its unit, or what its zero means.
func effective(f reflect.StructField, v reflect.Value) string {
	switch {
	case (v.IsZero() || v.Kind() == reflect.Slice && v.Len() == 0) && f.Tag.Get("zero") != "":
		return f.Tag.Get("zero")
	case f.Type == durationType:
		return show(v) + " s"
	case f.Type.Kind() == reflect.String:
		return v.String()
	case f.Tag.Get("unit") == "bytes" && v.Int() >= 1<<20 && v.Int()%(1<<20) == 0:
		return fmt.Sprintf("%d MiB", v.Int()>>20)
	case f.Tag.Get("unit") == "bytes" && v.Int()%(1<<10) == 0:
		return fmt.Sprintf("%d KiB", v.Int()>>10)
	case f.Tag.Get("unit") != "":
		return show(v) + " " + f.Tag.Get("unit")
	default:
		return show(v)
	}
}

// Text shows the effective settings as a table of name, value and key.
func Text(c *Config) string {
	rows := Effective(c)
	var wide [2]int
	for _, r := range rows {
		wide[0], wide[1] = max(wide[0], len(r.Name)), max(wide[1], len(r.Value))
	}
	var b strings.Builder
	for _, r := range rows {
		fmt.Fprintf(&b, "%-*s  %-*s  %s\n", wide[0], r.Name, wide[1], r.Value, r.Key)
	}
	return b.String()
}
