package config

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

var (
	durationType = reflect.TypeFor[Duration]()
	prefixType   = reflect.TypeFor[netip.Prefix]()
	modeType     = reflect.TypeFor[Mode]()
)

// isSection reports whether a type is a map of keys in the file.
func isSection(t reflect.Type) bool { return t.Kind() == reflect.Struct && t != prefixType }

// field finds the field of a key in a section.
func field(section reflect.Type, key string) (reflect.StructField, bool) {
	if isSection(section) {
		for f := range section.Fields() {
			if name := f.Tag.Get("yaml"); name == key && name != "-" {
				return f, true
			}
		}
	}
	return reflect.StructField{}, false
}

// fieldNames returns the keys of a section in the order they are documented.
func fieldNames(section reflect.Type) []string {
	var names []string
	for f := range section.Fields() {
		if name := f.Tag.Get("yaml"); name != "-" {
			names = append(names, name)
		}
	}
	return names
}

// decodeStruct sets the fields of a section, which hold their defaults already.
func (l *loader) decodeStruct(values map[string]any, dst reflect.Value, path string) {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		sub := join(path, name)
		f, ok := field(dst.Type(), name)
		if !ok {
			l.unknown(sub, name, dst.Type())
			continue
		}
		l.decode(values[name], dst.FieldByIndex(f.Index), f.Tag, sub)
	}
}

// unknown reports a key that does not exist, with the best guess at what was meant.
func (l *loader) unknown(path, name string, section reflect.Type) {
	if section == reflect.TypeFor[Listener]() && slices.Contains([]string{"udp", "tcp", "tls"}, name) {
		l.keyErrorf(path, "unknown key (write %s:ip:port without a space after the first colon)", name)
		return
	}
	if section == reflect.TypeFor[Security]() && (name == "dos_whitelisted_ips" || name == "dos_whitelisted_subnets") {
		l.keyErrorf(path, "unknown key (write its addresses under security.trusted)")
		return
	}
	hint := didYouMean(name, fieldNames(section))
	if hint == "" {
		for _, k := range Keys() {
			if i := strings.Index(k.Path+".", "."+name+"."); i >= 0 {
				hint = fmt.Sprintf(" (did you mean %q?)", k.Path[:i+1+len(name)])
				break
			}
		}
	}
	l.keyErrorf(path, "unknown key%s", hint)
}

// decode sets one value. nil leaves the default, as an absent key does.
func (l *loader) decode(v any, dst reflect.Value, tag reflect.StructTag, path string) {
	if v == nil {
		return
	}
	switch {
	case isSection(dst.Type()):
		l.decodeSection(v, dst, path)
	case dst.Kind() == reflect.Map:
		l.decodePools(v, dst, path)
	case dst.Kind() == reflect.Slice:
		l.decodeList(v, dst, tag, path)
	default:
		text, ok := v.(string)
		if !ok {
			l.errorf(path, "want %s, not a %s", describe(dst.Type()), kindOf(v))
			return
		}
		l.decodeScalar(text, dst, tag, path)
	}
}

func (l *loader) decodeSection(v any, dst reflect.Value, path string) {
	switch v := v.(type) {
	case map[string]any:
		l.decodeStruct(v, dst, path)
	case string:
		// The short form of a listener and of a backend is its address alone.
		if f := dst.FieldByName("Address"); f.IsValid() {
			l.valueAt[path+".address"] = l.at(path, l.valueAt)
			f.SetString(v)
			return
		}
		l.errorf(path, "want keys with values, not a text")
	default:
		l.errorf(path, "want keys with values, not a list")
	}
}

func (l *loader) decodePools(v any, dst reflect.Value, path string) {
	values, ok := v.(map[string]any)
	if !ok {
		l.errorf(path, "want pools by name, not a %s", kindOf(v))
		return
	}
	pools := make(map[string]Pool, len(values))
	for _, name := range slices.Sorted(maps.Keys(values)) {
		sub := join(path, name)
		if !isName(name, "_-") {
			l.keyErrorf(sub, "a pool's name is up to 64 letters, digits, '_' and '-'")
			continue
		}
		pool := DefaultPool()
		l.decode(values[name], reflect.ValueOf(&pool).Elem(), "", sub)
		pools[name] = pool
	}
	dst.Set(reflect.ValueOf(pools))
}

func (l *loader) decodeList(v any, dst reflect.Value, tag reflect.StructTag, path string) {
	list, ok := v.([]any)
	if !ok {
		l.errorf(path, "want a list, not a %s", kindOf(v))
		return
	}
	const most = 10_000
	if len(list) > most {
		l.errorf(path, "more than %d elements", most)
		return
	}
	out := reflect.MakeSlice(dst.Type(), len(list), len(list))
	for i, item := range list {
		sub := fmt.Sprintf("%s[%d]", path, i)
		if item == nil {
			l.errorf(sub, "empty")
			continue
		}
		if b, ok := out.Index(i).Addr().Interface().(*Backend); ok {
			*b = DefaultBackend()
		}
		l.decode(item, out.Index(i), tag, sub)
	}
	dst.Set(out)
}

func (l *loader) decodeScalar(text string, dst reflect.Value, tag reflect.StructTag, path string) {
	switch {
	case dst.Type() == durationType:
		d, err := ParseDuration(text)
		if err != nil {
			l.errorf(path, "%s is no time span: want seconds (10, 0.5) or a number with a unit (500ms, 10s, 2h)", quote(text))
			return
		}
		if l.inBounds(int64(d), tag, path, func(s string) int64 {
			bound, _ := ParseDuration(s)
			return int64(bound)
		}, func(n int64) string { return Duration(n).String() + " s" }) {
			dst.SetInt(int64(d))
		}
	case dst.Type() == prefixType:
		p, err := parsePrefix(text)
		if err != nil {
			l.errorf(path, "%v", err)
			return
		}
		dst.Set(reflect.ValueOf(p))
	case dst.Type() == modeType:
		m, ok := parseMode(text)
		if !ok {
			l.errorf(path, "want yes, observe or no, not %s%s", quote(text), didYouMean(text, []string{"yes", "observe", "no"}))
			return
		}
		dst.SetString(string(m))
	case dst.Kind() == reflect.Bool:
		b, ok := parseBool(text)
		if !ok {
			l.errorf(path, "want yes or no, not %s", quote(text))
			return
		}
		dst.SetBool(b)
	case dst.Kind() == reflect.Int:
		n, err := parseInt(text, tag.Get("unit") == "bytes")
		if err != nil {
			l.errorf(path, "%v", err)
			return
		}
		if l.isOne(strconv.FormatInt(n, 10), tag, path) && l.inBounds(n, tag, path, func(s string) int64 {
			bound, _ := strconv.ParseInt(s, 10, 64)
			return bound
		}, func(n int64) string { return strings.TrimSpace(fmt.Sprint(n, " ", tag.Get("unit"))) }) {
			dst.SetInt(n)
		}
	default:
		if text == "" && tag.Get("zero") != "" {
			dst.SetString("")
			return
		}
		if l.isOne(text, tag, path) {
			dst.SetString(text)
		}
	}
}

// inBounds checks a number against the tags of its key. One that fails leaves the default, for the checks that follow.
func (l *loader) inBounds(n int64, tag reflect.StructTag, path string, parse func(string) int64, show func(int64) string) bool {
	if n == 0 && tag.Get("zero") != "" {
		return true
	}
	least, safe, most := tag.Get("min"), tag.Get("safe"), tag.Get("max")
	switch {
	case least != "" && n < parse(least):
		l.errorf(path, "%s is too small, the least is %s", show(n), show(parse(least)))
	case safe != "" && n < parse(safe) && !l.lab:
		l.errorf(path, "%s is below the safe minimum of %s (`lab: yes` permits it in a laboratory)", show(n), show(parse(safe)))
	case most != "" && n > parse(most):
		l.errorf(path, "%s is too large, the most is %s", show(n), show(parse(most)))
	default:
		return true
	}
	return false
}

// isOne checks a word against the closed list of its key, if there is one.
func (l *loader) isOne(text string, tag reflect.StructTag, path string) bool {
	words := tag.Get("one")
	if words == "" {
		return true
	}
	list := strings.Split(words, "|")
	if slices.Contains(list, text) {
		return true
	}
	l.errorf(path, "%s is not one of %s%s", quote(text), strings.Join(list, ", "), didYouMean(text, list))
	return false
}

// parseBool reads what operators write for yes and no, quoted or not.
func parseBool(s string) (value, ok bool) {
	switch strings.ToLower(s) {
	case "yes", "true", "on":
		return true, true
	case "no", "false", "off":
		return false, true
	}
	return false, false
}

// parseMode reads yes and no as parseBool does, and the names of the modes.
func parseMode(s string) (Mode, bool) {
	switch m := Mode(strings.ToLower(s)); m {
	case Enforce, Observe:
		return m, true
	}
	on, ok := parseBool(s)
	if on {
		return Enforce, ok
	}
	return Off, ok
}

// parseInt reads a decimal number; bytes may have the unit KiB or MiB.
func parseInt(text string, isBytes bool) (int64, error) {
	s, factor := text, int64(1)
	if isBytes {
		if t, ok := strings.CutSuffix(s, "KiB"); ok {
			s, factor = strings.TrimSpace(t), 1<<10
		} else if t, ok := strings.CutSuffix(s, "MiB"); ok {
			s, factor = strings.TrimSpace(t), 1<<20
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > 1<<40 {
		if isBytes {
			return 0, fmt.Errorf("want a number of bytes (65535, 64KiB, 8MiB), not %s", quote(text))
		}
		return 0, fmt.Errorf("want a whole number from 0, not %s", quote(text))
	}
	return n * factor, nil
}

// parsePrefix reads a network or a single address; what is v4-mapped becomes IPv4. Host bits are refused: they hide a
// mistyped length.
func parsePrefix(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("want an address or a network (192.0.2.0/24), not %s", quote(text))
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("%s has host bits (did you mean %q?)", quote(text), p.Masked())
	}
	return p, nil
}

// isName reports whether a name is safe in logs, labels and commands: 1 to 64 letters, digits and the given others.
func isName(s, others string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte(others, c) >= 0) {
			return false
		}
	}
	return true
}

func describe(t reflect.Type) string {
	switch {
	case t == durationType:
		return "a time span"
	case t == prefixType:
		return "an address or a network"
	case t == modeType:
		return "yes, observe or no"
	case t.Kind() == reflect.Bool:
		return "yes or no"
	case t.Kind() == reflect.Int:
		return "a number"
	default:
		return "a text"
	}
}

// kindOf names what a value is in the file; an absent one counts as text.
func kindOf(v any) string {
	switch v.(type) {
	case map[string]any:
		return "map"
	case []any:
		return "list"
	default:
		return "text"
	}
}
