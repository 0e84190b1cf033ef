package admin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sipward/sipward/proxy"
	"github.com/sipward/sipward/test/admintest"
)

// pipes is a listener whose connections hold nothing back: what is written was read.
type pipes struct{ calls chan net.Conn }

func (p *pipes) Accept() (net.Conn, error) {
	c, ok := <-p.calls
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{} }

func (p *pipes) Close() error {
	close(p.calls)
	return nil
}

func (p *pipes) dial() net.Conn {
	ours, theirs := net.Pipe()
	p.calls <- theirs
	return ours
}

// overPipes runs f with a server of many bans, in a bubble.
func overPipes(t *testing.T, f func(t *testing.T, p *pipes, c *Client)) {
	synctest.Test(t, func(t *testing.T) {
		edge := new(manyCalls)
		var all []proxy.BanInfo
		for i := range manyBans {
			all = append(all, proxy.BanInfo{Key: fmt.Sprintf("10.0.%d.%d", i>>8, i&255), Rule: "dos", Since: admintest.Noon, Why: strings.Repeat("x", 200)})
		}
		edge.SetBans(all)
		s := &Server{edge: edge, log: nop()}
		s.mux = s.routes()
		h, p := s.server(), &pipes{make(chan net.Conn)}
		done := make(chan struct{})
		go func() {
			_ = h.Serve(p)
			close(done)
		}()
		c := NewClient("pipe")
		c.http.Transport.(*http.Transport).DialContext = func(context.Context, string, string) (net.Conn, error) { return p.dial(), nil }
		f(t, p, c)
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		<-done
	})
}

const manyBans = 10_000

// TestSlowListingOfAllBans: who takes it slowly, but takes it, has it to the end; so has a machine that is slow.
func TestSlowListingOfAllBans(t *testing.T) {
	overPipes(t, func(t *testing.T, _ *pipes, c *Client) {
		n, began := 0, time.Now()
		err := c.AllBans(t.Context(), proxy.BanFilter{}, func(proxy.BanInfo) error {
			if n++; n%1000 == 0 {
				time.Sleep(writeTime / 2)
			}
			return nil
		})
		if err != nil || n != manyBans {
			t.Errorf("%d bans, %v after %v", n, err, time.Since(began))
		}
	})
}

// TestListingThatIsNotTaken: who takes nothing, or next to nothing, is in nobody's way for ever.
func TestListingThatIsNotTaken(t *testing.T) {
	for _, x := range []struct {
		name  string
		takes int // bytes each second
		least time.Duration
		most  time.Duration
	}{
		{"nothing", 0, writeTime, writeTime + time.Minute},
		{"next to nothing", 3000, longestAnswer, longestAnswer + time.Minute},
	} {
		t.Run(x.name, func(t *testing.T) {
			overPipes(t, func(t *testing.T, p *pipes, c *Client) {
				conn := p.dial()
				defer func() { _ = conn.Close() }()
				if _, err := conn.Write([]byte("GET /v1/bans?limit=all HTTP/1.1\r\nHost: a\r\n\r\n")); err != nil {
					t.Fatal(err)
				}
				synctest.Wait() // it has its turn before all others
				began, b := time.Now(), make([]byte, 1+x.takes)
				for isOpen := true; isOpen; time.Sleep(time.Second) {
					if x.takes > 0 {
						_ = conn.SetReadDeadline(time.Now().Add(time.Second))
						_, err := conn.Read(b)
						isOpen = err == nil
						continue
					}
					isOpen = c.AllBans(t.Context(), proxy.BanFilter{}, func(proxy.BanInfo) error { return nil }) != nil
				}
				if took := time.Since(began); took < x.least || took > x.most {
					t.Errorf("cut off after %v", took)
				}
			})
		})
	}
}

// TestSilentEdge: one that does not go on is not waited for.
func TestSilentEdge(t *testing.T) {
	for _, begun := range []string{"", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{\"bans\":[\r\n"} {
		synctest.Test(t, func(t *testing.T) {
			c := NewClient("pipe")
			c.http.Transport.(*http.Transport).DialContext = func(context.Context, string, string) (net.Conn, error) {
				ours, theirs := net.Pipe()
				go func() { // ends when the client gives up
					_, _ = theirs.Read(make([]byte, 4096))
					_, _ = theirs.Write([]byte(begun))
					_, _ = theirs.Read(make([]byte, 1))
				}()
				return ours, nil
			}
			err := c.AllBans(t.Context(), proxy.BanFilter{}, func(proxy.BanInfo) error { return nil })
			if !errors.Is(err, errSilent) {
				t.Errorf("%q: %v", begun, err)
			}
		})
	}
}
