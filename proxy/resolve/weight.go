package resolve

import (
	"math/rand/v2"
	"slices"
)

// manyOrders is how many orders are drawn for an answer in which weights leave
// a choice. The share of a server is right to one part in so many.
const manyOrders = 10

// orders flattens groups into lists of targets: one if there is nothing to
// choose, else several.
func orders(groups []group) [][]Target {
	n := 1
	for _, g := range groups {
		if len(g) > 1 {
			n = manyOrders
		}
	}
	lists := make([][]Target, n)
	// The first choices step evenly through the weights, from a random start
	// and in a random sequence, so that the orders together give each server its
	// share.
	start, sequence := rand.Float64(), rand.Perm(n)
	for i := range lists {
		for _, g := range groups {
			lists[i] = appendShuffled(lists[i], g, (float64(sequence[i])+start)/float64(n))
		}
	}
	return lists
}

// appendShuffled appends the targets of one group in an order that weights and
// chance choose (RFC 2782). at, in [0, 1), chooses the first.
func appendShuffled(list []Target, g group, at float64) []Target {
	rest := slices.Clone(g)
	for len(rest) > 0 {
		i := choose(rest, at)
		for _, t := range rest[i].targets {
			if len(list) < maxTargets && !slices.Contains(list, t) {
				list = append(list, t)
			}
		}
		rest = slices.Delete(rest, i, i+1)
		at = rand.Float64()
	}
	return list
}

// choose returns the server at this part of the running sum of weights. Weight
// 0 gets a very small chance, as RFC 2782 asks, and an equal one if all have it.
func choose(servers []server, at float64) int {
	sum := 0.0
	for _, s := range servers {
		sum += weightOf(s)
	}
	at *= sum
	for i, s := range servers {
		if at -= weightOf(s); at < 0 {
			return i
		}
	}
	return len(servers) - 1
}

func weightOf(s server) float64 { return max(float64(s.weight), 0.01) }
