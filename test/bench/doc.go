// Package bench measures the built edge with many calls held at once. Its tests take
// minutes and run only where SIPWARD_BENCH is set:
//
//	SIPWARD_BENCH=1 go test -v -timeout 30m ./test/bench
package bench
