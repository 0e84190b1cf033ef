package siptest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// RegistrarOptions says what a Registrar is like.
type RegistrarOptions struct {
	Address  netip.AddrPort    // default 127.0.0.1 with a free port
	Domain   string            // it is responsible for; default "siptest.example"
	Accounts map[string]string // user to password; empty: no challenge
	Path     bool              // knows Path (RFC 3327); otherwise it is one more field to leave alone
	Strict   bool              // refuses a Path that the first Supported line does not offer, as Asterisk does
}

// Registrar is the registrar and the proxy of one domain on UDP (RFC 3261 10.3 and 16.11). It has no state but its
// bindings, so what it passes on it passes byte by byte, repetitions too. It calls exactly the URI that was registered,
// through exactly the Path that came with it, and knows nothing of anybody's source address: behind an edge it is
// the edge alone that makes phones reachable. Its methods may be called from any goroutine.
type Registrar struct {
	raw    *Raw
	domain string
	path   bool
	strict bool
	door   *doorman

	mu       sync.Mutex // guards what follows
	bindings map[string][]RegisteredContact
	seen     []*Message
}

// RegisteredContact is one binding of an address-of-record.
type RegisteredContact struct {
	Contact  string   // the URI
	Params   string   // of the Contact value, without expires
	Instance string   // +sip.instance
	Path     []string // values of Path, the way to the phone
	Until    time.Time
}

// NewRegistrar starts one.
func NewRegistrar(o RegistrarOptions) (*Registrar, error) {
	if o.Domain == "" {
		o.Domain = "siptest.example"
	}
	if !o.Address.IsValid() {
		o.Address = AnyPort
	}
	door, err := newDoorman(o.Domain, o.Accounts)
	if err != nil {
		return nil, err
	}
	r := &Registrar{domain: o.Domain, path: o.Path, strict: o.Strict, door: door, bindings: make(map[string][]RegisteredContact)}
	if r.raw, err = ListenRaw("udp", o.Address, nil); err != nil {
		return nil, err
	}
	r.raw.Auto(r.took)
	return r, nil
}

// Close ends it. It is idempotent.
func (r *Registrar) Close() error { return r.raw.Close() }

// URI is the registrar's address as a pool has it.
func (r *Registrar) URI() string { return r.raw.URI("") }

// Bindings are the live contacts of a user, the latest first.
func (r *Registrar) Bindings(user string) []RegisteredContact {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bindings[user] = slices.DeleteFunc(r.bindings[user], func(c RegisteredContact) bool { return !time.Now().Before(c.Until) })
	return slices.Clone(r.bindings[user])
}

// Seen are the messages that came and that the check accepts, in their order.
func (r *Registrar) Seen(check func(*Message) bool) []*Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*Message
	for _, m := range r.seen {
		if check(m) {
			out = append(out, m)
		}
	}
	return out
}

// took handles a message on the reader's goroutine. What cannot be sent is lost, as on any line.
func (r *Registrar) took(m *Message) bool {
	r.mu.Lock()
	r.seen = append(r.seen, m)
	r.mu.Unlock()
	switch {
	case m.Status() != 0:
		r.passBack(m)
	case m.Method() == "REGISTER" && r.local(m.RURI()):
		_ = m.Reply(r.register(m).Bytes())
	case m.Method() == "OPTIONS" && r.local(m.RURI()) && userOf(m.RURI()) == "":
		_ = m.Respond(200, "OK", Unique("r"))
	default:
		if code, reason := r.passOn(m); code != 0 && m.Method() != "ACK" {
			_ = m.Respond(code, reason, Unique("r"))
		}
	}
	return true
}

func (r *Registrar) register(m *Message) *Text {
	if ok, _ := r.door.authorized("REGISTER", m.Get("Authorization")); !ok {
		return Respond(m, 401, "Unauthorized", Unique("r")).Add("WWW-Authenticate", r.door.challenge())
	}
	if r.strict && m.Get("Path") != "" && !slices.Contains(splitList(m.Get("Supported")), "path") {
		return Respond(m, 420, "Bad Extension", Unique("r")).Add("Unsupported", "path")
	}
	user := userOf(AddrURI(m.Get("To")))
	for _, value := range m.Values("Contact") {
		r.bind(user, value, m)
	}
	res := Respond(m, 200, "OK", Unique("r"))
	for _, c := range r.Bindings(user) {
		res.Add("Contact", fmt.Sprintf("<%s>%s;expires=%d", c.Contact, c.Params, int(time.Until(c.Until).Round(time.Second)/time.Second)))
	}
	if path := m.Values("Path"); r.path && len(path) > 0 { // RFC 3327 5.3
		res.Add("Path", strings.Join(path, ", ")).Add("Supported", "path")
	}
	return res
}

// bind adds, refreshes or removes what one Contact value says. The same instance is the same phone (RFC 5626 6).
func (r *Registrar) bind(user, value string, m *Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if strings.TrimSpace(value) == "*" {
		delete(r.bindings, user)
		return
	}
	_, params, _ := strings.Cut(value, ">") // not the one of an instance
	c := RegisteredContact{Contact: AddrURI(value)}
	c.Instance, _ = Param(params, "+sip.instance")
	if r.path {
		c.Path = m.Values("Path")
	}
	expires, ok := Param(params, "expires")
	if !ok {
		expires = m.Get("Expires")
	}
	seconds, err := strconv.Atoi(expires)
	if err != nil {
		seconds = 3600
	}
	c.Until = time.Now().Add(time.Duration(seconds) * time.Second)
	for _, p := range strings.Split(params, ";")[1:] {
		if !strings.HasPrefix(strings.ToLower(strings.TrimSpace(p)), "expires") {
			c.Params += ";" + p
		}
	}
	others := slices.DeleteFunc(r.bindings[user], func(old RegisteredContact) bool {
		return old.Contact == c.Contact || (c.Instance != "" && old.Instance == c.Instance)
	})
	if seconds > 0 {
		others = append([]RegisteredContact{c}, others...)
	}
	r.bindings[user] = others
}

// passOn forwards a request (RFC 3261 16.6), or says what to answer.
func (r *Registrar) passOn(m *Message) (code int, reason string) {
	hops, err := strconv.Atoi(m.Get("Max-Forwards"))
	if err != nil || hops <= 0 {
		return 483, "Too Many Hops"
	}
	target, routes := m.RURI(), m.Values("Route")
	if len(routes) > 0 && r.local(AddrURI(routes[0])) {
		routes = routes[1:]
	}
	if len(routes) == 0 && r.local(target) {
		bound := r.Bindings(userOf(target))
		if len(bound) == 0 {
			return 404, "Not Found"
		}
		target, routes = bound[0].Contact, bound[0].Path
	}
	next := target
	if len(routes) > 0 {
		next = AddrURI(routes[0])
	}
	to, ok := URIHost(next)
	if !ok {
		return 478, "Unresolvable Destination"
	}
	out := edit(m).Del("Route").URI(target).Set("Max-Forwards", strconv.Itoa(hops-1))
	for _, route := range slices.Backward(routes) {
		out.Prepend("Route", route)
	}
	if m.Method() == "INVITE" {
		out.Prepend("Record-Route", "<"+r.URI()+";lr>")
	}
	// A branch for each of the caller's, the same for its repetitions, its CANCEL and its ACK (16.11). The way back
	// is in the Via itself, as a token.
	branch := sha256.Sum256([]byte(m.Get("Via")))
	back := hex.EncodeToString([]byte(m.From.String()))
	out.Prepend("Via", fmt.Sprintf("SIP/2.0/UDP %s;branch=z9hG4bK%s;back=%s", r.raw.Addr(), hex.EncodeToString(branch[:12]), back))
	_ = r.raw.SendTo(out.Bytes(), to)
	return 0, ""
}

// passBack forwards a response (RFC 3261 16.7).
func (r *Registrar) passBack(m *Message) {
	vias := m.Values("Via")
	if len(vias) < 2 {
		return
	}
	back, _ := Param(vias[0], "back")
	text, _ := hex.DecodeString(back) // what is not ours is no address either
	to, err := netip.ParseAddrPort(string(text))
	if err != nil {
		return
	}
	out := edit(m).Del("Via")
	for _, via := range slices.Backward(vias[1:]) {
		out.Prepend("Via", via)
	}
	_ = r.raw.SendTo(out.Bytes(), to)
}

// local tells whether a URI names the domain or the registrar itself.
func (r *Registrar) local(uri string) bool {
	if at, ok := URIHost(uri); ok {
		return at == r.raw.Addr()
	}
	_, host, _ := strings.Cut(uri, ":")
	if _, after, found := strings.Cut(host, "@"); found {
		host = after
	}
	host, _, _ = strings.Cut(host, ";")
	return strings.EqualFold(host, r.domain)
}

// edit takes a message apart for changes; what is not changed stays as it is.
func edit(m *Message) *Text {
	return &Text{Start: m.StartLine(), Lines: m.HeaderLines(), Body: string(m.Body())}
}

// userOf is the user part of a URI.
func userOf(uri string) string {
	_, rest, _ := strings.Cut(uri, ":")
	user, _, found := strings.Cut(rest, "@")
	if !found {
		return ""
	}
	return user
}
