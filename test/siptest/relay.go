package siptest

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
)

// Relay passes datagrams between the one who sends to its front and a target, which sees
// them come from its back, like a NAT with a bad line. A datagram is lost with the share
// that Lose sets; Watch sees the others and may change them.
type Relay struct {
	front, back *net.UDPConn
	target      netip.AddrPort
	readers     sync.WaitGroup

	mu     sync.Mutex // guards what follows
	client netip.AddrPort
	random *rand.Rand
	share  float64
	lost   int
	watch  func(toTarget bool, data []byte) []byte
}

// NewRelay opens both sockets on an address.
func NewRelay(on netip.Addr, target netip.AddrPort) (*Relay, error) {
	front, err := bindUDP(netip.AddrPortFrom(on, 0))
	if err != nil {
		return nil, err
	}
	back, err := bindUDP(netip.AddrPortFrom(on, 0))
	if err != nil {
		return nil, errors.Join(err, front.Close())
	}
	r := &Relay{front: front, back: back, target: target, random: rand.New(rand.NewPCG(1, 2))}
	r.readers.Go(func() { r.pass(front, true) })
	r.readers.Go(func() { r.pass(back, false) })
	return r, nil
}

// Front is where the client sends to, Back is what the target sees.
func (r *Relay) Front() netip.AddrPort { return addrPort(r.front.LocalAddr()) }
func (r *Relay) Back() netip.AddrPort  { return addrPort(r.back.LocalAddr()) }

// Lose sets the share of datagrams that are lost, each way.
func (r *Relay) Lose(share float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.share = share
}

// Lost is how many were lost.
func (r *Relay) Lost() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lost
}

// Watch installs what sees every datagram that passes, one at a time, and returns what goes on.
func (r *Relay) Watch(f func(toTarget bool, data []byte) []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watch = f
}

// Close closes the sockets and waits for the readers.
func (r *Relay) Close() error {
	err := errors.Join(r.front.Close(), r.back.Close())
	r.readers.Wait()
	return err
}

func (r *Relay) pass(in *net.UDPConn, toTarget bool) {
	buf := make([]byte, 65536)
	for {
		n, from, err := in.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		from = unmapped(from)
		r.mu.Lock()
		out, to := r.back, r.target
		if toTarget {
			r.client = from
		} else {
			out, to = r.front, r.client
		}
		drop := r.share > 0 && r.random.Float64() < r.share || !to.IsValid()
		if drop {
			r.lost++
		}
		data := bytes.Clone(buf[:n])
		if !drop && r.watch != nil {
			data = r.watch(toTarget, data)
		}
		r.mu.Unlock()
		if !drop {
			_, _ = out.WriteToUDPAddrPort(data, to) // a datagram may be lost
		}
	}
}
