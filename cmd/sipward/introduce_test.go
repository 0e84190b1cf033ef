package main

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/rs/zerolog"

	"github.com/sipward/sipward/config"
)

// TestStartShowsTheLimitsInForce: the numbers, not the keys they were made from; what is off says so.
func TestStartShowsTheLimitsInForce(t *testing.T) {
	cases := []struct{ name, file string }{
		{"defaults", `pools: { pbx: { backends: ["sip:10.0.0.10"] } }
`},
		{"limits", `pools:
  pbx: { policy: least_calls, backends: [{ name: a, address: "sip:10.0.0.10", max_calls: 30, max_cps: 5 }, { name: b, address: "sip:10.0.0.11" }, { name: c, address: "sip:10.0.0.12", max_calls: 10 }] }
  trunk: { backends: ["sip:10.0.0.20"], probe: { interval: 0 } }
routes: [{ pool: pbx }]
state_file: ./calls.state
timers: { session_ttl: 1800, session_update_segment: 3, session_timeout_early_hangup: 60, no_timer_call_duration: 2h, max_call_duration: 12h, ack_timeout: 45, probe_legs: b }
transaction: { t1: 0.7 }
limits: { max_dialogs: 5000, queue_delay: 0 }
cdr: { output: /var/log/sipward/calls.csv, format: csv }
admin: { socket: /run/sipward/other.sock }
`},
		{"off", `pools: { pbx: { backends: ["sip:10.0.0.10"] } }
timers: { session_ttl: 0, no_timer_call_duration: 0, max_call_duration: 1h, max_ring_duration: 0 }
admin: { socket: "" }
`},
		{"laboratory", `lab: yes
pools: { pbx: { backends: ["sip:10.0.0.10"] } }
transaction: { t1: 0.05 }
timers: { session_ttl: 1.5, session_update_segment: 3, no_timer_call_duration: 0.8, min_se: 0.2 }
`},
	}
	var out bytes.Buffer
	op := zerolog.New(&out)
	for _, tc := range cases {
		c, _, err := config.Load(config.Options{Path: tc.name, Data: []byte(tc.file), Addresses: []netip.Addr{}})
		if err != nil {
			t.Fatal(err)
		}
		out.WriteString(tc.name + "\n")
		protections(&op, c)
		callLimits(&op, c)
		balancing(&op, c)
		outputs(&op, c, c.Admin.Socket)
	}
	golden(t, "start-limits.golden", out.String())
}
