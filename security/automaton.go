package security

// part is a text in lower case, not empty, and the number to report for it.
type part struct {
	text  string
	index int
}

// An automaton finds any of many texts in one walk over a value (Aho and Corasick,
// 1975): the time depends on neither their number nor an attacker's taste.
type automaton struct {
	class [256]uint8 // of a byte: those that no text has are 0, letters of both cases the same
	shift uint8      // a row of next has 1<<shift classes
	next  []uint16   // state<<shift|class -> state; state 0 is the start
	found []int32    // of a state: 1 + index of the text that ends there, 0 for none
	pairs [1024]bool // by pairAt: a text may begin with these two bytes
}

func newAutomaton(parts []part) *automaton {
	a := &automaton{}
	classes := 1
	for _, p := range parts {
		for _, c := range []byte(p.text) {
			if a.class[c] == 0 {
				a.class[c] = uint8(classes)
				classes++
			}
		}
	}
	for c := byte('A'); c <= 'Z'; c++ {
		a.class[c] = a.class[lower(c)]
	}
	for 1<<a.shift < classes {
		a.shift++
	}
	a.addState()
	for _, p := range parts {
		for second := range 32 {
			if len(p.text) == 1 || second == int(p.text[1]&31) {
				a.pairs[pairAt(p.text[0], byte(second))] = true
			}
		}
		state := uint16(0)
		for _, c := range []byte(p.text) {
			at := int(state)<<a.shift | int(a.class[c])
			if a.next[at] == 0 {
				a.next[at] = a.addState()
			}
			state = a.next[at]
		}
		if a.found[state] == 0 {
			a.found[state] = int32(p.index) + 1
		}
	}
	a.complete(classes)
	return a
}

func (a *automaton) addState() uint16 {
	a.next = append(a.next, make([]uint16, 1<<a.shift)...)
	a.found = append(a.found, 0)
	return uint16(len(a.found) - 1)
}

// complete fills in where to go on when no text goes on with a byte: breadth first,
// from the state of the longest text that is still possible.
func (a *automaton) complete(classes int) {
	back := make([]uint16, len(a.found)) // that state
	var queue []uint16
	for c := range classes {
		if s := a.next[c]; s != 0 {
			queue = append(queue, s)
		}
	}
	for ; len(queue) > 0; queue = queue[1:] {
		row, other := int(queue[0])<<a.shift, int(back[queue[0]])<<a.shift
		for c := range classes {
			s, alternative := a.next[row|c], a.next[other|c]
			if s == 0 {
				a.next[row|c] = alternative
				continue
			}
			back[s] = alternative
			if a.found[s] == 0 {
				a.found[s] = a.found[alternative]
			}
			queue = append(queue, s)
		}
	}
}

// pairAt sums up two bytes; letters of both cases are the same.
func pairAt(first, second byte) int { return int(first&31)<<5 | int(second&31) }

// find is the index of the text that ends first in b, -1 for none. It looks at pairs
// of bytes until one may begin a text, since the steps of the automaton wait for each
// other and those looks do not.
func (a *automaton) find(b []byte) int {
	for i := 0; i < len(b)-1; i++ {
		if !a.pairs[pairAt(b[i], b[i+1])] {
			continue
		}
		state := uint16(0)
		for ; i < len(b); i++ {
			state = a.next[int(state)<<a.shift|int(a.class[b[i]])]
			if n := a.found[state]; n != 0 {
				return int(n) - 1
			}
			if state == 0 {
				break
			}
		}
	}
	if len(b) == 0 {
		return -1
	}
	last := a.next[a.class[b[len(b)-1]]] // which is no pair, but may be a text
	return int(a.found[last]) - 1
}
