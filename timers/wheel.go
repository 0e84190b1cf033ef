package timers

import (
	"context"
	"math"
	"math/bits"
	"runtime/debug"
	"sync"
	"time"
)

// Numbers we chose.
const (
	slotBits = 6 // 64 slots a level: one machine word says which are occupied
	slots    = 1 << slotBits
	// With ticks of a millisecond or more, 8 levels of 64 slots reach further
	// than a time.Duration does, so that no deadline has to be clamped.
	levels  = 8
	minTick = time.Millisecond
	// moveBatch bounds the timers that move down a level in one hold of the
	// lock: some 10 µs, also when a slot holds 100 000 timers.
	moveBatch = 256
)

const never = math.MaxUint64 // no tick

// Owner is told of the expiry of a timer it armed.
type Owner interface {
	// Expire is called on the wheel's goroutine, without any lock of the
	// wheel. t is idle again and may be armed from here. now is not before
	// the time t was set to.
	Expire(t *Timer, now time.Duration)
}

// Timer is one deadline, to be embedded in its owner. The zero value is idle.
// It must not be copied while it is armed, and belongs to one wheel. Its
// fields are guarded by that wheel's lock.
type Timer struct {
	_          noCopy
	next, prev *Timer // nil while idle
	owner      Owner
	due        uint64 // tick
	slot       uint16 // level*slots + slot, where the timer was last filed
}

// noCopy makes go vet report copies.
type noCopy struct{}

func (*noCopy) Lock()   {}
func (*noCopy) Unlock() {}

// Wheel holds armed timers and calls their owners when they expire. Use
// [NewWheel]; all methods may be called from any goroutine.
type Wheel struct {
	// OnPanic, if not nil, is given what an owner's Expire panicked with and
	// the stack; the wheel goes on. To be set before Run.
	OnPanic func(value any, stack []byte)

	tick  time.Duration
	start time.Time
	alarm *time.Timer // wakes Run; only touched under mu

	mu    sync.Mutex // guards all below
	armed int
	// cur is the tick up to which slots have been emptied. A timer is filed by
	// the highest bits in which its tick differs from cur, so every occupied
	// slot lies ahead of cur, and each level lies ahead of the one below.
	cur      uint64
	occupied [levels]uint64 // a bit per slot that has timers
	lists    [levels * slots]Timer
	expired  Timer  // list of timers that are due but not yet handed out
	moving   *Timer // slot list that is being moved down, nil if none
	wakeAt   uint64 // tick the sleeping Run wakes at; 0 while it is awake
	wakeups  uint64 // times Run woke from sleep
}

// NewWheel returns a wheel with the given resolution, which is raised to one
// millisecond if smaller. Its clock starts at once; timers expire while
// [Wheel.Run] runs.
func NewWheel(tick time.Duration) *Wheel {
	w := &Wheel{tick: max(tick, minTick), alarm: time.NewTimer(math.MaxInt64)}
	w.start = time.Now().Add(-w.tick) // so that no time is 0, which stands for never
	w.alarm.Stop()
	for i := range w.lists {
		w.lists[i].makeList()
	}
	w.expired.makeList()
	return w
}

// Now returns the time since the wheel was made, and one tick, from the monotonic
// clock. It is never 0.
func (w *Wheel) Now() time.Duration { return time.Since(w.start) }

// Len returns the number of armed timers.
func (w *Wheel) Len() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.armed
}

// Set arms t for the time at, or moves it there if it is armed. A time that
// has passed means the next tick. It is O(1) and does not allocate.
func (w *Wheel) Set(t *Timer, o Owner, at time.Duration) {
	due := w.tickOf(at)
	w.mu.Lock()
	defer w.mu.Unlock()
	if t.next != nil {
		w.unlinkLocked(t)
	} else {
		w.armed++
	}
	t.owner, t.due = o, max(due, w.cur+1)
	w.fileLocked(t)
	if t.due < w.wakeAt {
		w.sleepUntilLocked(t.due, w.Now())
	}
}

// Stop disarms t and reports whether it was armed. False means that t was
// idle, or that its Expire has begun or is about to.
func (w *Wheel) Stop(t *Timer) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t.next == nil {
		return false
	}
	w.disarmLocked(t)
	return true
}

// Run expires timers until ctx ends. One Run at a time.
func (w *Wheel) Run(ctx context.Context) {
	for ctx.Err() == nil {
		now := w.Now()
		for w.collect(now) {
		}
		for t, o := w.take(); t != nil; t, o = w.take() {
			w.expire(t, o)
		}
		if !w.rest() {
			continue
		}
		select {
		case <-ctx.Done():
		case <-w.alarm.C:
		}
		w.wake()
	}
}

// collect brings due timers to the expired list, a bounded number in one hold
// of the lock. It reports whether it must be called again.
func (w *Wheel) collect(now time.Duration) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.moving != nil {
		w.moveDownLocked()
		return true
	}
	target := uint64(now / w.tick)
	level, slot, tick := w.nextLocked()
	if tick > target {
		// Nothing is filed between cur and target, so no slot changes.
		w.cur = max(w.cur, target)
		return false
	}
	w.cur = tick
	list := &w.lists[level*slots+slot]
	if level > 0 {
		w.moving = list
		return true
	}
	w.occupied[0] &^= 1 << slot
	w.expired.takeAll(list)
	return true
}

// moveDownLocked files a batch of the timers of a coarse slot anew, now that
// cur has reached that slot.
func (w *Wheel) moveDownLocked() {
	list := w.moving
	for range moveBatch {
		t := list.next
		if t == list {
			w.moving = nil
			return
		}
		w.unlinkLocked(t)
		if t.due <= w.cur {
			w.expired.append(t)
			continue
		}
		w.fileLocked(t)
	}
}

// take removes one expired timer and returns it with its owner, or nil.
func (w *Wheel) take() (*Timer, Owner) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.expired.next
	if t == &w.expired {
		return nil, nil
	}
	o := t.owner
	w.disarmLocked(t)
	return t, o
}

func (w *Wheel) expire(t *Timer, o Owner) {
	defer func() {
		if v := recover(); v != nil && w.OnPanic != nil {
			w.OnPanic(v, debug.Stack())
		}
	}()
	o.Expire(t, w.Now())
}

// rest sets the alarm for the next occupied slot. It reports false when that
// slot is due already.
func (w *Wheel) rest() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, _, tick := w.nextLocked()
	if tick == never {
		w.wakeAt = never
		return true
	}
	now := w.Now()
	if tick <= uint64(now/w.tick) {
		return false
	}
	w.sleepUntilLocked(tick, now)
	return true
}

func (w *Wheel) sleepUntilLocked(tick uint64, now time.Duration) {
	w.wakeAt = tick
	w.alarm.Reset(w.timeOf(tick) - now)
}

// wake makes Set leave the alarm alone until the next rest.
func (w *Wheel) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wakeAt = 0
	w.wakeups++
	w.alarm.Stop()
}

// nextLocked returns the first occupied slot and the tick at which it begins,
// or the tick never.
func (w *Wheel) nextLocked() (level, slot int, tick uint64) {
	for level := range levels {
		if w.occupied[level] == 0 {
			continue
		}
		slot := bits.TrailingZeros64(w.occupied[level])
		shift := uint(level) * slotBits
		return level, slot, w.cur>>(shift+slotBits)<<(shift+slotBits) | uint64(slot)<<shift
	}
	return 0, 0, never
}

// fileLocked puts t, whose tick lies ahead of cur, into its slot.
func (w *Wheel) fileLocked(t *Timer) {
	level := (bits.Len64(w.cur^t.due) - 1) / slotBits
	slot := t.due >> (uint(level) * slotBits) % slots
	t.slot = uint16(level*slots) + uint16(slot)
	w.occupied[level] |= 1 << slot
	w.lists[t.slot].append(t)
}

// unlinkLocked takes t from its list. t.slot may name a slot that t has left
// for the expired list; to look whether that slot is empty does no harm.
func (w *Wheel) unlinkLocked(t *Timer) {
	t.prev.next, t.next.prev = t.next, t.prev
	if list := &w.lists[t.slot]; list.next == list {
		w.occupied[t.slot/slots] &^= 1 << (t.slot % slots)
	}
}

func (w *Wheel) disarmLocked(t *Timer) {
	w.unlinkLocked(t)
	t.next, t.prev, t.owner = nil, nil, nil
	w.armed--
}

// tickOf returns the first tick that is not before at.
func (w *Wheel) tickOf(at time.Duration) uint64 {
	if at <= 0 {
		return 0
	}
	tick := uint64(at / w.tick)
	if at%w.tick != 0 {
		tick++
	}
	return tick
}

// timeOf returns when a tick begins; the tick after the end of time is that end.
func (w *Wheel) timeOf(tick uint64) time.Duration {
	if tick > uint64(math.MaxInt64/w.tick) {
		return math.MaxInt64
	}
	return time.Duration(tick) * w.tick
}

// makeList makes t the head of an empty ring.
func (t *Timer) makeList() { t.next, t.prev = t, t }

// append puts n at the end of the ring whose head is t.
func (t *Timer) append(n *Timer) {
	n.prev, n.next = t.prev, t
	t.prev.next = n
	t.prev = n
}

// takeAll moves all timers of the ring from to the end of the ring t.
func (t *Timer) takeAll(from *Timer) {
	if from.next == from {
		return
	}
	first, last := from.next, from.prev
	first.prev, last.next = t.prev, t
	t.prev.next = first
	t.prev = last
	from.makeList()
}
