package config

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
)

// TemplateOptions says what the file of `sipward init` is made for.
type TemplateOptions struct {
	To        []string     // addresses of backends, as BackendURI reads them; empty: an address to be replaced
	Pool      string       // name of the pool; empty: pbx
	Addresses []netip.Addr // of this host, for the comments at listen and advertise; loopback is left out
	Secret    string       // fresh and random, for the key secret; empty: none
}

// Template returns a commented file with every key, each with its default. It loads as it is.
func Template(o TemplateOptions) (string, error) {
	backends := make([]string, 0, len(o.To))
	for _, to := range o.To {
		uri, err := BackendURI(to)
		if err != nil {
			return "", err
		}
		backends = append(backends, uri)
	}
	if o.Pool == "" {
		o.Pool = "pbx"
	}
	t := template{o: o, backends: backends}
	t.line(0, "# sipward: configuration. Every key stands here with its default; what you leave out keeps it.")
	t.line(0, "# Times are seconds (0.5) or have a unit (500ms, 2h). `sipward check` says what is wrong with a file.")
	t.section(reflect.ValueOf(Default()).Elem(), 0)
	return t.b.String(), nil
}

type template struct {
	b        strings.Builder
	o        TemplateOptions
	backends []string
}

func (t *template) line(indent int, format string, args ...any) {
	fmt.Fprintf(&t.b, "%*s"+format+"\n", append([]any{indent, ""}, args...)...)
}

// comment writes text as comment lines of bounded width.
func (t *template) comment(indent int, text string) {
	const width = 110
	line := "#"
	for word := range strings.FieldsSeq(text) {
		if len(line)+1+len(word) > width-indent {
			t.line(indent, "%s", line)
			line = "#"
		}
		line += " " + word
	}
	t.line(indent, "%s", line)
}

// section writes the keys of one section.
func (t *template) section(section reflect.Value, indent int) {
	for f, v := range section.Fields() {
		name := f.Tag.Get("yaml")
		if name == "-" {
			continue
		}
		if indent == 0 {
			t.line(0, "")
		}
		t.comment(indent, docOf(f))
		switch value := v.Interface().(type) {
		case []Listener:
			t.listeners(value)
		case map[string]Pool:
			t.line(0, "pools:")
			t.line(2, "%s:", t.o.Pool)
			t.section(reflect.ValueOf(DefaultPool()), 4)
		case []Backend:
			t.members(indent)
		case []Route:
			t.line(0, "routes: []")
			t.example(reflect.ValueOf(Route{Pool: t.o.Pool, Match: Match{RURIPrefix: "sip:+49"}}))
		default:
			if isSection(f.Type) {
				t.line(indent, "%s:", name)
				t.section(v, indent+2)
				continue
			}
			if name == "secret" && t.o.Secret != "" {
				t.comment(0, "This one was made for this file: let nobody but sipward read it.")
				v = reflect.ValueOf(t.o.Secret)
			}
			t.line(indent, "%s: %s", name, show(v))
			if name == "advertise" && indent == 0 && len(t.usable()) > 1 {
				t.comment(0, fmt.Sprintf("This host has several addresses, choose one: advertise: %s", t.usable()[0]))
			}
		}
	}
}

// docOf is the comment above a key: meaning and bounds.
func docOf(f reflect.StructField) string {
	doc := f.Tag.Get("doc")
	if isSection(f.Type) {
		return doc
	}
	if bounds := boundsOf(f); bounds != "" {
		doc += " [" + bounds + "]"
	}
	return doc
}

func (t *template) listeners(list []Listener) {
	if usable := t.usable(); len(usable) > 0 {
		t.comment(0, "Addresses of this host: "+strings.Join(usable, ", "))
	}
	t.line(0, "listen:")
	for _, l := range list {
		t.line(2, "- %s", l.Address)
	}
	t.example(reflect.ValueOf(Listener{
		Address: "tls:0.0.0.0:5061", Certificate: "/etc/sipward/cert.pem", Key: "/etc/sipward/key.pem",
	}))
}

// usable returns the addresses of the host that a peer could be given.
func (t *template) usable() []string {
	var out []string
	for _, a := range t.o.Addresses {
		if !a.IsLoopback() && !a.IsLinkLocalUnicast() && !a.IsUnspecified() {
			out = append(out, a.String())
		}
	}
	return out
}

// example writes one element of a list with all its keys, commented out.
func (t *template) example(element reflect.Value) {
	sub := template{o: t.o}
	sub.section(element, 2)
	lead := "- "
	for line := range strings.Lines(sub.b.String()) {
		line = strings.TrimSuffix(line, "\n")[2:]
		if strings.HasPrefix(line, "#") {
			t.line(0, "  # %*s%s", commentShift(lead), "", line)
			continue
		}
		t.line(0, "  # %s%s", lead, line)
		lead = "  "
	}
}

// commentShift puts the comment of an element's first key above its dash.
func commentShift(lead string) int {
	if lead == "- " {
		return 0
	}
	return len(lead)
}

// members writes the backends: the first with all keys explained, the others with their addresses.
func (t *template) members(indent int) {
	t.line(indent, "backends:")
	if len(t.backends) == 0 {
		t.comment(indent+2, "Replace this address by that of your PBX.")
		t.backends = []string{"sip:192.0.2.10:5060"}
	}
	for i, uri := range t.backends {
		b := DefaultBackend()
		b.Address = uri
		if u, err := parseBackendURI(uri); err == nil {
			b.Name = u.name()
		}
		if i > 0 {
			t.line(indent+2, "- { name: %s, address: %s }", showText(b.Name), showText(b.Address))
			continue
		}
		sub := template{o: t.o}
		sub.section(reflect.ValueOf(b), 0)
		lead := "- "
		for line := range strings.Lines(sub.b.String()) {
			switch line = strings.TrimSuffix(line, "\n"); {
			case line == "":
			case strings.HasPrefix(line, "#"):
				t.line(indent+2+commentShift(lead), "%s", line)
			default:
				t.line(indent+2, "%s%s", lead, line)
				lead = "  "
			}
		}
	}
}
