package siptest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction(StrayReader)) }

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func newPBX(t *testing.T, o PBXOptions) *PBX {
	t.Helper()
	p, err := NewPBX(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func newPhone(t *testing.T, o PhoneOptions) *Phone {
	t.Helper()
	p, err := NewPhone(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func TestPhoneCallsPBXOverEachTransport(t *testing.T) {
	cert, err := NewCertificate()
	if err != nil {
		t.Fatal(err)
	}
	for _, network := range []string{"udp", "tcp", "tls"} {
		t.Run(network, func(t *testing.T) {
			pbx := newPBX(t, PBXOptions{TLS: cert.Server(), Ringing: 10 * time.Millisecond, Answer: 50 * time.Millisecond})
			phone := newPhone(t, PhoneOptions{Network: network, Proxy: pbx.address(network), TLS: cert.Server()})
			ctx := within(t, time.Minute)
			call, err := phone.Call(ctx, "sip:100@siptest.example")
			if err != nil {
				t.Fatal(err)
			}
			if !call.Answered() || call.Ringing == 0 || call.Took < 50*time.Millisecond || call.Server != "pbx" {
				t.Fatalf("call = %+v", call)
			}
			if err := pbx.WaitCount(ctx, "ACK", 1); err != nil {
				t.Fatal("no ACK came:", err)
			}
			if code, err := call.Request(ctx, "INFO"); code != 200 || err != nil {
				t.Fatalf("INFO = %d, %v", code, err)
			}
			if code, err := call.Hangup(ctx); code != 200 || err != nil {
				t.Fatalf("BYE = %d, %v", code, err)
			}
			if err := pbx.WaitCalls(ctx, 0); err != nil {
				t.Fatal("the call is still up:", err)
			}
			if got := pbx.CallIDs(); !slices.Equal(got, []string{call.CallID}) || !pbx.Saw(call.CallID) {
				t.Fatalf("Call-IDs = %v, want %v", got, call.CallID)
			}
		})
	}
}

func TestPBXHangsUp(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			pbx := newPBX(t, PBXOptions{})
			phone := newPhone(t, PhoneOptions{Network: network, Proxy: pbx.Addr()})
			ctx := within(t, time.Minute)
			call, err := phone.Call(ctx, "sip:100@siptest.example")
			if err != nil {
				t.Fatal(err)
			}
			if err := pbx.WaitCount(ctx, "ACK", 1); err != nil {
				t.Fatal(err)
			}
			if code, err := pbx.Request(ctx, call.CallID, "BYE"); code != 200 || err != nil {
				t.Fatalf("BYE = %d, %v", code, err)
			}
			select {
			case <-call.Ended():
			case <-ctx.Done():
				t.Fatal("the phone did not see the end")
			}
		})
	}
}

func TestPhoneAnswersAPhone(t *testing.T) {
	callee := newPhone(t, PhoneOptions{User: "bob"})
	caller := newPhone(t, PhoneOptions{User: "alice", Proxy: callee.address("udp")})
	ctx := within(t, time.Minute)
	call, err := caller.Call(ctx, callee.URI())
	if err != nil || !call.Answered() {
		t.Fatalf("call = %+v, %v", call, err)
	}
	if code, err := call.Hangup(ctx); code != 200 || err != nil {
		t.Fatalf("BYE = %d, %v", code, err)
	}
}

func TestScriptedAnswers(t *testing.T) {
	pbx := newPBX(t, PBXOptions{})
	phone := newPhone(t, PhoneOptions{Proxy: pbx.Addr()})
	for _, code := range []int{503, 486, 603, 401} {
		pbx.Script("INVITE", code)
		ctx := within(t, time.Minute)
		call, err := phone.Call(ctx, "sip:100@siptest.example")
		if err != nil || call.Status != code {
			t.Fatalf("call = %+v, %v, want %d", call, err, code)
		}
	}
	pbx.Script("INVITE")
	ctx := within(t, time.Minute)
	if call, err := phone.Call(ctx, "sip:100@siptest.example"); err != nil || !call.Answered() {
		t.Fatalf("call = %+v, %v", call, err)
	}
	pbx.Script("OPTIONS", 0, 404)
	if a, err := phone.Send(ctx, "OPTIONS", "sip:siptest.example"); err != nil || a.Status != 404 || a.Took < t1 {
		t.Fatalf("the retransmission after a silent first try = %+v, %v", a, err)
	}
}

func TestCancelledCallEndsWith487(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			pbx := newPBX(t, PBXOptions{Answer: time.Minute})
			phone := newPhone(t, PhoneOptions{Network: network, Proxy: pbx.Addr()})
			ctx := within(t, time.Minute)
			call, err := phone.Dial(ctx, "sip:100@siptest.example")
			if err != nil {
				t.Fatal(err)
			}
			if code, err := call.Cancel(ctx); code != 200 || err != nil {
				t.Fatalf("CANCEL = %d, %v", code, err)
			}
			if err := call.Wait(ctx); err != nil || call.Status != 487 {
				t.Fatalf("call = %+v, %v", call, err)
			}
			if pbx.Count("CANCEL") != 1 {
				t.Fatalf("CANCELs = %d", pbx.Count("CANCEL"))
			}
		})
	}
}

func TestRegisterAnswersTheChallenge(t *testing.T) {
	pbx := newPBX(t, PBXOptions{Accounts: map[string]string{"alice": "secret"}})
	phone := newPhone(t, PhoneOptions{User: "alice", Proxy: pbx.Addr()})
	ctx := within(t, time.Minute)
	if a, err := phone.Register(ctx, "secret"); err != nil || a.Status != 200 {
		t.Fatalf("register = %+v, %v", a, err)
	}
	if got := pbx.Bindings("sip:alice@siptest.example"); len(got) != 1 || !strings.Contains(got[0], phone.URI()) {
		t.Fatalf("bindings = %v", got)
	}
	if a, err := phone.Register(ctx, "wrong"); err != nil || a.Status != 401 {
		t.Fatalf("register with a wrong password = %+v, %v", a, err)
	}
	if n := pbx.Count("REGISTER"); n != 4 {
		t.Fatalf("REGISTERs = %d, want 4", n)
	}
}

func TestSilenceStopAndStart(t *testing.T) {
	pbx := newPBX(t, PBXOptions{})
	phone := newPhone(t, PhoneOptions{Proxy: pbx.Addr()})
	pbx.Silence()
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if a, err := phone.Send(short, "OPTIONS", "sip:siptest.example"); err == nil {
		t.Fatalf("a silent node answered %+v", a)
	}
	pbx.Resume()
	ctx := within(t, time.Minute)
	if a, err := phone.Send(ctx, "OPTIONS", "sip:siptest.example"); err != nil || a.Status != 200 {
		t.Fatalf("after the silence: %+v, %v", a, err)
	}
	if err := pbx.Stop(); err != nil {
		t.Fatal(err)
	}
	at := pbx.Addr()
	if err := pbx.Start(); err != nil {
		t.Fatal(err)
	}
	if pbx.Addr() != at {
		t.Fatalf("address changed from %s to %s", at, pbx.Addr())
	}
	if a, err := phone.Send(ctx, "OPTIONS", "sip:siptest.example"); err != nil || a.Status != 200 {
		t.Fatalf("after the restart: %+v, %v", a, err)
	}
}

func TestRawCarriesExactBytes(t *testing.T) {
	cert, err := NewCertificate()
	if err != nil {
		t.Fatal(err)
	}
	for _, network := range []string{"udp", "tcp", "tls"} {
		t.Run(network, func(t *testing.T) {
			server, err := ListenRaw(network, AnyPort, cert.Server())
			if err != nil {
				t.Fatal(err)
			}
			defer closeRaw(t, server)
			client, err := DialRaw(network, server.Addr(), cert.Client())
			if err != nil {
				t.Fatal(err)
			}
			defer closeRaw(t, client)
			req := client.Request("OPTIONS", server.URI("x")).Add("X-Odd", " \"a, b\" ;;, \xff").SDP()
			box := server.Box(req.CallID())
			want := req.Bytes()
			if err := client.Send(want); err != nil {
				t.Fatal(err)
			}
			got, err := box.Next(20 * time.Second)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != string(want) {
				t.Fatalf("got\n%s\nwant\n%s", got, want)
			}
			if err := got.Respond(200, "OK", "t1"); err != nil {
				t.Fatal(err)
			}
			res, err := client.Next(20 * time.Second)
			if err != nil {
				t.Fatal(err)
			}
			if res.Status() != 200 || res.Tag("To") != "t1" || res.Branch() != got.Branch() || res.Method() != "OPTIONS" {
				t.Fatalf("answer:\n%s", res)
			}
			if _, err := client.Next(10 * time.Millisecond); !errors.Is(err, ErrNothing) {
				t.Fatalf("err = %v, want ErrNothing", err)
			}
		})
	}
}

func TestRawCutsAStream(t *testing.T) {
	server, err := ListenRaw("tcp", AnyPort, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer closeRaw(t, server)
	client, err := DialRaw("tcp", server.Addr(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer closeRaw(t, client)
	one, two := client.Request("MESSAGE", "sip:a@b").SDP().Bytes(), client.Request("INFO", "sip:a@b").Bytes()
	both := append(append([]byte{}, one...), two...)
	for i := range both {
		if err := client.Send(both[i : i+1]); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range [][]byte{one, two} {
		got, err := server.Next(20 * time.Second)
		if err != nil || got.String() != string(want) {
			t.Fatalf("got %v, %v\nwant\n%s", got, err, want)
		}
	}
}

func TestLoadAndAnswerer(t *testing.T) {
	node, err := NewAnswerer("n1", AnyPort)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := node.Stop(); err != nil {
			t.Error(err)
		}
	}()
	load := &Load{Target: node.Addr(), Rate: 200, Calls: 100, Window: 10} // a slow machine takes its time
	calls, err := load.Run(within(t, time.Minute))
	if err != nil || len(calls) != 100 {
		t.Fatalf("%d calls, %v", len(calls), err)
	}
	for _, c := range calls {
		if c.Status != 200 || c.ByeCode != 200 || c.Tag != "n1" || !node.Saw(c.CallID) {
			t.Fatalf("call = %+v", c)
		}
	}
}

func TestMessageReadsOddLines(t *testing.T) {
	m := &Message{Data: []byte("INVITE sip:a@b SIP/2.0\r\nv :  SIP/2.0/UDP a;branch=z9hG4bK1 ,\r\n SIP/2.0/TCP b ; branch = z9hG4bK2\r\n" +
		"Record-Route: <sip:1,2;lr>,\r\n\t\"x, \\\" y\" <sip:3;lr>\r\nt: \"A;tag=no\" <sip:b>;x=1;TAG=yes\r\nCSEQ: 0009\r\n INVITE\r\n\r\nbody")}
	if got := m.Values("Via"); len(got) != 2 || got[1] != "SIP/2.0/TCP b ; branch = z9hG4bK2" || m.Branch() != "z9hG4bK1" {
		t.Fatalf("Via = %q, branch %q", got, m.Branch())
	}
	if got := m.Values("Record-Route"); !slices.Equal(got, []string{"<sip:1,2;lr>", `"x, \" y" <sip:3;lr>`}) {
		t.Fatalf("Record-Route = %q", got)
	}
	if m.Tag("To") != "yes" || m.CSeq() != 9 || m.Method() != "INVITE" || string(m.Body()) != "body" {
		t.Fatalf("tag %q, CSeq %d, method %q, body %q", m.Tag("To"), m.CSeq(), m.Method(), m.Body())
	}
}

func TestFreePortsDiffer(t *testing.T) {
	seen := make(map[uint16]bool)
	for range 20 {
		p, err := FreePort()
		if err != nil {
			t.Fatal(err)
		}
		if seen[p] {
			t.Fatalf("port %d twice", p)
		}
		seen[p] = true
	}
}

func closeRaw(t *testing.T, r *Raw) {
	t.Helper()
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}
