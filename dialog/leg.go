package dialog

// Leg is one side of a call.
type Leg uint8

// Requests of direction AB come from A, those of BA from B.
const (
	A Leg = iota // the caller
	B            // the callee, owner of the To tag
)

// Peer is the other leg.
func (l Leg) Peer() Leg { return l ^ 1 }

// String is the word that records and listings use.
func (l Leg) String() string {
	if l == A {
		return "caller"
	}
	return "callee"
}
