package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sipward/sipward/test/siptest"
)

// mixes are the transports outside and inside.
var mixes = []struct{ outside, inside string }{
	{"udp", "udp"}, {"tcp", "tcp"}, {"tls", "tls"}, {"udp", "tcp"}, {"tcp", "udp"}, {"tls", "udp"}, {"udp", "tls"},
}

// mixed is an edge with a listener for each of the two transports.
func mixed(t *testing.T, outside, inside string, cert *siptest.Certificate, s settings) (edge *siptest.Edge, addr netip.AddrPort) {
	t.Helper()
	addr = freeAddr(t)
	s.listen = append(s.listen, listener(t, outside, addr, cert))
	if inside != outside {
		s.listen = append(s.listen, listener(t, inside, freeAddr(t), cert))
	}
	if inside == "tls" {
		s.pool += "    tls: { insecure: yes }\n"
	}
	return siptest.StartEdge(t, s.yaml()), addr
}

// TestPhonesThroughTheEdge: registration with digest, a call with requests inside it from both
// sides, hanging up from either side, and a cancelled call, over every mix of transports. The
// agents follow Record-Route, so every request passes the edge.
func TestPhonesThroughTheEdge(t *testing.T) {
	for _, mix := range mixes {
		t.Run(mix.outside+" to "+mix.inside, func(t *testing.T) {
			cert := certificate(t)
			pbx := newPBX(t, siptest.PBXOptions{
				TLS: cert.Server(), Ringing: 5 * time.Millisecond, Answer: 20 * time.Millisecond,
				Accounts: map[string]string{"alice": "secret"},
			})
			edge, addr := mixed(t, mix.outside, mix.inside, cert, settings{backends: []string{pbx.URI(mix.inside)}})
			phone := newPhone(t, siptest.PhoneOptions{User: "alice", Network: mix.outside, Proxy: addr, TLS: cert.Server()})
			ctx := within(t, time.Minute)

			if a, err := phone.Register(ctx, "secret"); err != nil || a.Status != 200 {
				t.Fatalf("register: %+v, %v", a, err)
			}
			if a, err := phone.Register(ctx, "wrong"); err != nil || a.Status != 401 {
				t.Fatalf("register with a wrong password: %+v, %v", a, err)
			}
			call := answered(ctx, t, phone)
			if len(call.Routes()) == 0 {
				t.Fatal("no Record-Route: the edge would not see the rest of the call")
			}
			for _, method := range []string{"INFO", "UPDATE"} {
				if code, err := call.Request(ctx, method); err != nil || code != 200 {
					t.Fatalf("%s: %d, %v", method, code, err)
				}
			}
			if code, err := pbx.Request(ctx, call.CallID, "INFO"); err != nil || code != 200 {
				t.Fatalf("INFO from the node: %d, %v", code, err)
			}
			if code, err := call.Hangup(ctx); err != nil || code != 200 {
				t.Fatalf("BYE: %d, %v", code, err)
			}
			if err := pbx.WaitCalls(ctx, 0); err != nil {
				t.Fatal("the node still has the call")
			}

			call = answered(ctx, t, phone)
			if err := pbx.WaitCount(ctx, "ACK", 2); err != nil {
				t.Fatal(err)
			}
			if code, err := pbx.Request(ctx, call.CallID, "BYE"); err != nil || code != 200 {
				t.Fatalf("BYE from the node: %d, %v", code, err)
			}
			select {
			case <-call.Ended():
			case <-ctx.Done():
				t.Fatal("the phone did not see the end")
			}

			pbx.Delay(5*time.Millisecond, time.Minute)
			call, err := phone.Dial(ctx, "sip:100@siptest.example")
			if err != nil {
				t.Fatal(err)
			}
			if code, err := call.Cancel(ctx); err != nil || code != 200 {
				t.Fatalf("CANCEL: %d, %v", code, err)
			}
			if err := call.Wait(ctx); err != nil || call.Status != 487 {
				t.Fatalf("cancelled call: %+v, %v", call, err)
			}
			// Every message of the call was on the edge: the log has them all.
			for _, want := range []string{"M=INVITE", "M=ACK", "M=BYE", "M=INFO", "M=UPDATE", "M=REGISTER", "M=CANCEL"} {
				if _, err := edge.WaitLine(ctx, 0, func(l string) bool { return strings.Contains(l, want) }); err != nil {
					t.Fatalf("no log line with %s: %v", want, err)
				}
			}
		})
	}
}

// TestRecordRouteSpansBothSides: where the sides differ in transport there are two Record-Route
// values, each usable by its side (RFC 5658), and requests inside the dialog follow them.
func TestRecordRouteSpansBothSides(t *testing.T) {
	for _, mix := range mixes {
		if mix.outside == mix.inside {
			continue
		}
		t.Run(mix.outside+" to "+mix.inside, func(t *testing.T) {
			cert := certificate(t)
			node := rawListen(t, mix.inside, at(nodeA), cert)
			_, addr := mixed(t, mix.outside, mix.inside, cert, settings{backends: []string{node.URI("")}})
			caller := rawDial(t, mix.outside, addr, cert)
			h := &hop{network: mix.outside, addr: addr, caller: caller, node: node}
			x := h.begin(t, "INVITE")
			got := x.invite()
			recorded := got.Values("Record-Route")
			if len(recorded) != 2 {
				t.Fatalf("Record-Route: %q", recorded)
			}
			if !facing(recorded[0], mix.inside) || !facing(recorded[1], mix.outside) {
				t.Fatalf("Record-Route: %q, want the first to face %s and the second %s", recorded, mix.inside, mix.outside)
			}
			if got.Get("Content-Length") == "" {
				t.Fatal("no Content-Length")
			}
			x.answer(got, "n1")
			ok := x.callerGets(200, "INVITE")
			x.send(x.inside(ok, "ACK", 1))
			if ack := x.nodeGets("ACK"); ack.Get("Route") != "" {
				t.Fatalf("both of our Routes have to go:\n%s", ack)
			}
			bye := x.insideFromNode(got, "n1", "BYE", 5)
			if err := got.Reply(bye.Bytes()); err != nil {
				t.Fatal(err)
			}
			m, err := x.atCaller.Next(soon)
			if err != nil || m.Method() != "BYE" || m.Get("Route") != "" {
				t.Fatalf("caller waits for BYE: %v, %v", m, err)
			}
			x.respond(m, 200, "OK", "")
			if res, err := x.atNode.Next(soon); err != nil || res.Status() != 200 {
				t.Fatalf("node waits for 200: %v, %v", res, err)
			}
		})
	}
	t.Run("udp without Content-Length to tcp", func(t *testing.T) {
		cert := certificate(t)
		node := rawListen(t, "tcp", at(nodeA), cert)
		_, addr := mixed(t, "udp", "tcp", cert, settings{backends: []string{node.URI("")}})
		h := &hop{network: "udp", addr: addr, caller: rawDial(t, "udp", addr, cert), node: node}
		x := h.begin(t, "MESSAGE")
		x.req.Set("Content-Type", "text/plain")
		x.req.Body = "12345"
		data := strings.Replace(string(x.req.Bytes()), "Content-Length: 5\r\n", "", 1)
		if err := h.caller.Send([]byte(data)); err != nil {
			t.Fatal(err)
		}
		got := x.nodeGets("MESSAGE") // RFC 3261 16.6 step 10, 18.3
		if got.Get("Content-Length") != "5" || string(got.Body()) != "12345" {
			t.Fatalf("got\n%s", got)
		}
		x.respond(got, 200, "OK", "n1")
		x.callerGets(200, "MESSAGE")
	})
}

// facing tells whether a Record-Route value is for that transport; UDP may be left out.
func facing(value, network string) bool {
	transport, given := siptest.Param(siptest.AddrURI(value), "transport")
	if network == "tls" && strings.HasPrefix(siptest.AddrURI(value), "sips:") {
		return true
	}
	return strings.EqualFold(transport, network) || (!given && network == "udp")
}

// TestOneAddressForAll: the edge, the node and the phone share 127.0.0.1, as they do when someone
// tries it out on one machine.
func TestOneAddressForAll(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			pbx := newPBX(t, siptest.PBXOptions{Address: siptest.AnyPort})
			addr := freeAddr(t)
			siptest.StartProxy(t, "--to", "sip:"+pbx.Addr().String()+";transport="+network, "--listen", network+":"+addr.String())
			phone := newPhone(t, siptest.PhoneOptions{Network: network, Proxy: addr})
			ctx := within(t, time.Minute)
			if a, err := phone.Register(ctx, ""); err != nil || a.Status != 200 {
				t.Fatalf("register: %+v, %v", a, err)
			}
			for _, target := range []string{"sip:100@siptest.example", "sip:100@" + addr.String()} {
				call, err := phone.Call(ctx, target)
				if err != nil || !call.Answered() {
					t.Fatalf("call to %s: %+v, %v", target, call, err)
				}
				if code, err := call.Hangup(ctx); err != nil || code != 200 {
					t.Fatalf("BYE: %d, %v", code, err)
				}
			}
			call := answered(ctx, t, phone)
			if err := pbx.WaitCount(ctx, "ACK", 3); err != nil {
				t.Fatal(err)
			}
			if code, err := pbx.Request(ctx, call.CallID, "BYE"); err != nil || code != 200 {
				t.Fatalf("BYE from the node: %d, %v", code, err)
			}
			select {
			case <-call.Ended():
			case <-ctx.Done():
				t.Fatal("the phone did not see the end")
			}
		})
	}
}

// TestCallFromThePBX: a node calls a phone by its contact; the edge takes the request to it.
func TestCallFromThePBX(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			h := newHop(t, network, settings{})
			phone := newPhone(t, siptest.PhoneOptions{User: "bob", Network: network, Proxy: h.addr})
			// Over UDP it sends from the address it listens on, over TCP it says in Via what that is.
			node := h.node
			send := func(m *siptest.Text) {
				t.Helper()
				m.Set("Via", h.node.Via())
				err := error(nil)
				if network == "udp" {
					err = node.SendTo(m.Bytes(), h.addr)
				} else {
					err = node.Send(m.Bytes())
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if network == "tcp" {
				node = keep(t)(siptest.DialRawFrom(network, at(nodeA), h.addr, nil))
			}
			req := node.Request("INVITE", phone.URI()).SDP()
			box := node.Box(req.CallID())
			send(req)
			var ok *siptest.Message
			for ok == nil {
				m, err := box.Next(soon)
				if err != nil {
					t.Fatal(err)
				}
				if m.Status() >= 300 {
					t.Fatalf("got\n%s", m)
				}
				if m.Status() >= 200 {
					ok = m
				}
			}
			x := &exchange{hop: &hop{network: network, addr: h.addr, caller: node, node: node}, t: t, req: req}
			send(x.inside(ok, "ACK", 1))
			send(x.inside(ok, "BYE", 2))
			for {
				m, err := box.Next(soon)
				if err != nil {
					t.Fatal(err)
				}
				if m.Method() == "BYE" {
					if m.Status() != 200 {
						t.Fatalf("got\n%s", m)
					}
					return
				}
			}
		})
	}
}

func answered(ctx context.Context, t *testing.T, phone *siptest.Phone) *siptest.Call {
	t.Helper()
	call, err := phone.Call(ctx, "sip:100@siptest.example")
	if err != nil || !call.Answered() {
		t.Fatalf("call: %+v, %v", call, err)
	}
	return call
}

// TestTenThousandInOrder: messages of one peer are never reordered.
func TestTenThousandInOrder(t *testing.T) {
	const total, window = 10000, 64
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			h := newHop(t, network, settings{})
			x := h.begin(t, "INVITE")
			ok := talk(x)
			began := time.Now()
			order := make(chan int, total+window)
			h.node.Auto(func(m *siptest.Message) bool {
				if m.Method() != "INFO" {
					return false
				}
				order <- m.CSeq()
				return m.Respond(200, "OK", "") == nil
			})
			answers := make(chan struct{}, total+window)
			h.caller.Auto(func(m *siptest.Message) bool {
				if m.Method() != "INFO" {
					return false
				}
				answers <- struct{}{}
				return true
			})
			ctx := within(t, 5*time.Minute)
			for i := range total {
				// No more than a window is under way, so that no kernel buffer overflows.
				if i >= window {
					select {
					case <-answers:
					case <-ctx.Done():
						t.Fatalf("%d sent, the answers stopped", i)
					}
				}
				x.send(x.inside(ok, "INFO", 10+i))
			}
			for last, n := 9, 0; n < total; {
				select {
				case cseq := <-order:
					if cseq <= last {
						continue // a copy, sent again because the answer was late; the first was in its place
					}
					if cseq != last+1 {
						t.Fatalf("INFO %d came after %d", cseq, last)
					}
					last = cseq
					n++
				case <-ctx.Done():
					t.Fatalf("%d of %d arrived", n, total)
				}
			}
			t.Logf("%d in %s", total, time.Since(began).Round(time.Millisecond))
		})
	}
}

// TestSlowPeerDelaysNobody: a connection whose owner reads nothing, with a full socket, costs the
// others nothing.
func TestSlowPeerDelaysNobody(t *testing.T) {
	cert := certificate(t)
	udp, tcp := freeAddr(t), freeAddr(t)
	node := rawListen(t, "udp", at(nodeA), cert)
	siptest.StartEdge(t, settings{
		listen: []string{"udp:" + udp.String(), "tcp:" + tcp.String()}, backends: []string{node.URI("")},
	}.yaml())
	const total, window = 500, 4
	arrived := make(chan struct{}, 2*total)
	node.Auto(func(m *siptest.Message) bool {
		if m.Method() != "MESSAGE" || m.Status() != 0 {
			return false
		}
		res := siptest.Respond(m, 200, "OK", "n1")
		res.Body = strings.Repeat("x", 8000)
		err := m.Reply(res.Set("Content-Type", "text/plain").Bytes())
		arrived <- struct{}{}
		return err == nil
	})
	// Not a Raw: it must not read.
	lazy := dialLazy(t, tcp)
	stalled := false
	for i := 0; i < total && !stalled; i++ {
		// A few are under way at a time: more of these answers would overflow the edge's UDP buffer in the kernel, and the
		// one that is waited for below would come by retransmission.
		if i >= window {
			select {
			case <-arrived:
			case <-time.After(soon):
				stalled = true // the edge has given up on the connection with requests of it unread
			}
		}
		req := siptest.Request("MESSAGE", "sip:bob@siptest.example").
			Prepend("Via", fmt.Sprintf("SIP/2.0/TCP 127.0.0.1:%d;branch=z9hG4bKlazy%d", lazy.port, i))
		if err := lazy.send(req.Bytes()); err != nil {
			break // the edge has given up on it, which is its right
		}
	}
	brisk := rawDial(t, "udp", udp, cert)
	still := siptest.WatchStillness(t)
	req := brisk.Request("MESSAGE", "sip:bob@siptest.example")
	box := brisk.Box(req.CallID())
	began := time.Now()
	if err := brisk.Send(req.Bytes()); err != nil {
		t.Fatal(err)
	}
	if m, err := box.Next(soon); err != nil || m.Status() != 200 {
		t.Fatalf("got %v, %v", m, err)
	}
	if took := still.Since(began); took > 400*time.Millisecond {
		t.Fatalf("it took %s", took)
	}
}
