package security

import (
	"hash/maphash"
	"time"
)

// forgiven is how often credentials that were right may be called wrong afterwards: by a
// telephone that registers and subscribes with them, and not by who saw them pass.
const forgiven = 8

// proof is a nonce with which a user at a source was let in, times how often it may fail.
type proof struct {
	at   time.Duration
	left int
}

func (a *Auth) proofOf(at *Attempt) uint64 {
	return maphash.Comparable(a.seed, struct {
		user   string
		source Source
		nonce  uint64
	}{at.User, at.Source, at.Nonce})
}

// accepted notes that an attempt was let in.
func (a *Auth) accepted(at *Attempt, now time.Duration) {
	if at.User == "" || at.Nonce == 0 {
		return
	}
	k := a.proofOf(at)
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.proofs.get(k)
	if p == nil {
		p = a.proofs.add(k, false)
	}
	*p = proof{now, forgiven}
}

// forgives tells whether an attempt that a backend called wrong is one that it let in
// before, so that it is not held against its source. A backend that was started anew
// knows none of its nonces, and not every one says that they are stale: then all
// telephones of an office fail at once, each with the credentials it had.
func (a *Auth) forgives(at *Attempt, now time.Duration) bool {
	if at.User == "" || at.Nonce == 0 || len(at.Others) > 0 {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.proofs.peek(a.proofOf(at))
	if p == nil || p.left == 0 || now-p.at > heldFor {
		return false
	}
	p.left--
	return true
}
