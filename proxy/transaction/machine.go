package transaction

import "time"

// Times are the timer values of RFC 3261 §17.1.1.1 and Appendix A.
type Times struct {
	T1 time.Duration // round-trip estimate, 500 ms
	T2 time.Duration // cap of retransmission intervals, 4 s
	T4 time.Duration // longest time a message stays in the network, 5 s
	B  time.Duration // how long a client waits for a first (B) or any final (F) answer, 64*T1
	C  time.Duration // how long an INVITE may ring, > 3 min (RFC 3261 16.6 step 11)
}

// linger is 64*T1: timers D (at least 32 s by default), H, J, L and M.
func (t *Times) linger() time.Duration { return 64 * t.T1 }

// Kind says which of the four machines a Machine is.
type Kind uint8

const (
	InviteServer Kind = iota
	NonInviteServer
	InviteClient
	NonInviteClient
)

func (k Kind) String() string {
	return [...]string{"INVITE server", "non-INVITE server", "INVITE client", "non-INVITE client"}[k]
}

// State is the state of a Machine, in the words of RFC 3261 figures 5 to 8 and
// RFC 6026 figures 1 and 2. Trying stands for Calling in an INVITE client.
type State uint8

const (
	Idle State = iota
	Trying
	Proceeding
	Completed
	Confirmed
	Accepted
	Terminated
)

func (s State) String() string {
	return [...]string{"idle", "trying", "proceeding", "completed", "confirmed", "accepted", "terminated"}[s]
}

// Event is what happens to a Machine.
type Event uint8

const (
	Start          Event = iota // the request was received (server) or is sent now (client)
	Request                     // server: the request again
	Ack                         // INVITE server: an ACK that matches
	Provisional100              // a 100
	Provisional                 // a 101–199
	Success                     // a 2xx
	Failure                     // a 300–699
	Tick                        // a due time may have passed
	SendFailed                  // the transport reported an error
	Cancelled                   // INVITE client: a CANCEL was sent for it
)

func (e Event) String() string {
	return [...]string{"start", "request", "ACK", "100", "1xx", "2xx", "3xx-6xx", "tick", "send failed", "cancelled"}[e]
}

// Response gives the event of a response with this status.
func Response(status int) Event {
	switch {
	case status == 100:
		return Provisional100
	case status < 200:
		return Provisional
	case status < 300:
		return Success
	}
	return Failure
}

// Effect is what the owner has to do after a Step, a set of bits.
type Effect uint8

const (
	Send       Effect = 1 << iota // server: send the response given; client: send the request (first time or again)
	Resend                        // server: send the last response again, if there is one
	PassUp                        // client: the response goes to the proxy core; server: the ACK does
	SendAck                       // INVITE client: acknowledge this 3xx–6xx hop by hop (17.1.1.3)
	TimedOut                      // B, F, or H: nobody answered in time
	CFired                        // timer C: it rang too long; CANCEL it, then Step(Cancelled)
	Failed                        // the transport failed and nothing was answered
	Terminates                    // the machine is done, its owner may forget it
)

// Machine is one transaction state machine. The zero value is idle; Step(Start)
// brings it to life. It is a plain value: copying it copies the state.
type Machine struct {
	kind      Kind
	state     State
	reliable  bool
	cancelled bool
	interval  time.Duration // current retransmission interval (A, E, G)
	next      time.Duration // next retransmission, 0 = none
	deadline  time.Duration // B, C, D, F, H, I, J, K, L or M, by state, 0 = none
}

// NewMachine makes an idle machine. Over a reliable transport nothing is
// retransmitted and the waiting states for stray copies last zero seconds.
func NewMachine(k Kind, reliable bool) Machine { return Machine{kind: k, reliable: reliable} }

func (m *Machine) Kind() Kind   { return m.kind }
func (m *Machine) State() State { return m.state }

// Due is when Step(Tick) wants to be called, 0 = never.
func (m *Machine) Due() time.Duration {
	if m.next != 0 && (m.deadline == 0 || m.next < m.deadline) {
		return m.next
	}
	return m.deadline
}

// Step feeds one event. now is the time on the clock of Due.
func (m *Machine) Step(e Event, now time.Duration, t *Times) Effect {
	if m.state == Terminated {
		return 0
	}
	switch m.kind {
	case InviteServer:
		return m.inviteServer(e, now, t)
	case NonInviteServer:
		return m.nonInviteServer(e, now, t)
	case InviteClient:
		return m.inviteClient(e, now, t)
	}
	return m.nonInviteClient(e, now, t)
}

// inviteServer is RFC 3261 17.2.1 (figure 7) with RFC 6026 figure 1.
func (m *Machine) inviteServer(e Event, now time.Duration, t *Times) Effect {
	switch m.state {
	case Idle:
		if e == Start {
			m.state = Proceeding
		}
	case Proceeding:
		switch e {
		case Request:
			return Resend
		case Provisional100, Provisional:
			return Send
		case Success:
			m.enter(Accepted, now, t.linger()) // L
			return Send
		case Failure:
			m.enter(Completed, now, t.linger()) // H
			m.retransmitFrom(now, t.T1)         // G
			return Send
		case SendFailed:
			return m.terminate() | Failed
		}
	case Accepted:
		switch e {
		case Success: // every 2xx of every fork, and its retransmissions
			return Send
		case Ack:
			return PassUp
		case Tick:
			return m.expire(now, 0)
		}
	case Completed:
		switch e {
		case Request:
			return Resend
		case Ack:
			if m.reliable {
				return m.terminate()
			}
			m.enter(Confirmed, now, t.T4) // I
		case Tick:
			if m.passed(m.next, now) {
				m.backOff(now, t.T2)
				return Resend
			}
			return m.expire(now, TimedOut)
		case SendFailed:
			return m.terminate() | Failed
		}
	case Confirmed:
		if e == Tick {
			return m.expire(now, 0)
		}
	}
	return 0
}

// nonInviteServer is RFC 3261 17.2.2 (figure 8).
func (m *Machine) nonInviteServer(e Event, now time.Duration, t *Times) Effect {
	switch m.state {
	case Idle:
		if e == Start {
			m.state = Trying
		}
	case Trying, Proceeding:
		switch e {
		case Request:
			if m.state == Proceeding {
				return Resend
			}
		case Provisional100, Provisional:
			m.state = Proceeding
			return Send
		case Success, Failure:
			if m.reliable {
				return m.terminate() | Send
			}
			m.enter(Completed, now, t.linger()) // J
			return Send
		case SendFailed:
			return m.terminate() | Failed
		}
	case Completed:
		switch e {
		case Request:
			return Resend
		case Tick:
			return m.expire(now, 0)
		case SendFailed:
			return m.terminate() | Failed
		}
	}
	return 0
}

// inviteClient is RFC 3261 17.1.1 (figure 5) with RFC 6026 figure 2, and the
// proxy's timer C (16.6 step 11, 16.7 step 2, 16.8).
func (m *Machine) inviteClient(e Event, now time.Duration, t *Times) Effect {
	switch m.state {
	case Idle:
		if e == Start {
			m.state = Trying
			m.deadline = now + t.B
			m.retransmitFrom(now, t.T1) // A
			return Send
		}
	case Trying, Proceeding:
		switch e {
		case Provisional100, Provisional:
			if !m.cancelled && (m.state == Trying || e == Provisional) {
				m.deadline = now + t.C
			}
			m.state, m.next = Proceeding, 0
			return PassUp
		case Success:
			m.enter(Accepted, now, t.linger()) // M
			return PassUp
		case Failure:
			if m.reliable { // D is zero
				return m.terminate() | PassUp | SendAck
			}
			m.enter(Completed, now, t.linger()) // D
			return PassUp | SendAck
		case Cancelled: // 9.1: 64*T1 for the 487, then it is over
			m.cancelled = true
			m.deadline = now + t.linger()
		case SendFailed:
			return m.terminate() | Failed
		case Tick:
			return m.inviteClientTick(now, t)
		}
	case Completed:
		switch e {
		case Failure:
			return SendAck
		case Tick:
			return m.expire(now, 0)
		case SendFailed:
			return m.terminate()
		}
	case Accepted:
		switch e {
		case Success:
			return PassUp
		case Tick:
			return m.expire(now, 0)
		}
	}
	return 0
}

func (m *Machine) inviteClientTick(now time.Duration, t *Times) Effect {
	if m.passed(m.deadline, now) {
		if m.state == Proceeding && !m.cancelled {
			// It ends also when the owner could not send the CANCEL.
			m.cancelled, m.deadline = true, now+t.linger()
			return CFired
		}
		return m.terminate() | TimedOut
	}
	if m.passed(m.next, now) {
		m.backOff(now, 0)
		return Send
	}
	return 0
}

// nonInviteClient is RFC 3261 17.1.2 (figure 6).
func (m *Machine) nonInviteClient(e Event, now time.Duration, t *Times) Effect {
	switch m.state {
	case Idle:
		if e == Start {
			m.state = Trying
			m.deadline = now + t.B      // F
			m.retransmitFrom(now, t.T1) // E
			return Send
		}
	case Trying, Proceeding:
		switch e {
		case Provisional100, Provisional:
			m.state = Proceeding
			if !m.reliable {
				m.interval = t.T2
			}
			return PassUp
		case Success, Failure:
			if m.reliable { // K is zero
				return m.terminate() | PassUp
			}
			m.enter(Completed, now, t.T4) // K
			return PassUp
		case SendFailed:
			return m.terminate() | Failed
		case Tick:
			if m.passed(m.deadline, now) {
				return m.terminate() | TimedOut
			}
			if m.passed(m.next, now) {
				m.backOff(now, t.T2)
				return Send
			}
		}
	case Completed:
		if e == Tick {
			return m.expire(now, 0)
		}
	}
	return 0
}

// Quiet stops retransmissions of a client that nobody waits for any more (the
// proxy went on to another target) but keeps it open for late answers.
func (m *Machine) Quiet() { m.next = 0 }

func (m *Machine) enter(s State, now, stay time.Duration) {
	m.state, m.next, m.deadline = s, 0, now+stay
}

func (m *Machine) terminate() Effect {
	m.state, m.next, m.deadline = Terminated, 0, 0
	return Terminates
}

// expire ends the machine when its deadline has passed.
func (m *Machine) expire(now time.Duration, also Effect) Effect {
	if !m.passed(m.deadline, now) {
		return 0
	}
	return m.terminate() | also
}

func (m *Machine) passed(at, now time.Duration) bool { return at != 0 && now >= at }

func (m *Machine) retransmitFrom(now, first time.Duration) {
	if m.reliable {
		return
	}
	m.interval = first
	m.next = now + first
}

// backOff doubles the interval, up to a cap (0 = none).
func (m *Machine) backOff(now, limit time.Duration) {
	m.interval *= 2
	if limit != 0 && m.interval > limit {
		m.interval = limit
	}
	m.next = now + m.interval
}
