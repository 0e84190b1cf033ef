package wire_test

import (
	"fmt"
	"strings"

	"github.com/sipward/sipward/proxy/wire"
)

// A proxy forwards a request: it names the next hop, puts its Via on top,
// takes its own Route off and counts the hop. All other bytes stay.
func Example() {
	datagram := strings.ReplaceAll(`OPTIONS sip:bob@example.com SIP/2.0
v:SIP/2.0/UDP  192.0.2.1 ;branch=z9hG4bK1;rport
Max-Forwards : 0070
ROUTE: <sip:edge.example.com;lr>, <sip:p2.example.com;lr>
f: "Alice \"A.\""<sip:alice@example.com>;tag=1
t: <sip:bob@example.com>
i: 7
CSeq: 1
  OPTIONS

`, "\n", "\r\n")

	var m wire.Msg
	if f := m.Scan([]byte(datagram), false); f != wire.NoFault {
		fmt.Println(f)
		return
	}
	var e wire.Edit
	e.Reset(&m)
	e.ReplaceString(m.RURI, "sip:bob@192.0.2.9")
	e.End(append(e.Begin(wire.At(m.ViaPos())), "Via: SIP/2.0/UDP 198.51.100.1;branch=z9hG4bK2\r\n"...))
	e.SetRPort(m.TopVia, 5060)
	e.SetMaxForwards(m.MaxForwards - 1)
	e.DeleteFirst(wire.KindRoute, 1)
	fmt.Print(strings.ReplaceAll(string(e.AppendTo(nil)), "\r\n", "\n"))

	// Output:
	// OPTIONS sip:bob@192.0.2.9 SIP/2.0
	// Via: SIP/2.0/UDP 198.51.100.1;branch=z9hG4bK2
	// v:SIP/2.0/UDP  192.0.2.1 ;branch=z9hG4bK1;rport=5060
	// Max-Forwards : 69
	// ROUTE: <sip:p2.example.com;lr>
	// f: "Alice \"A.\""<sip:alice@example.com>;tag=1
	// t: <sip:bob@example.com>
	// i: 7
	// CSeq: 1
	//   OPTIONS
}
