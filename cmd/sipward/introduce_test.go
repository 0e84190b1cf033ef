package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/security"
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
security:
  trusted: [198.51.100.0/24, "2001:db8::/48", 192.0.2.1, 192.0.2.2, 192.0.2.3, 192.0.2.4, 192.0.2.5, 192.0.2.6, 192.0.2.7, 192.0.2.8]
  trust_loopback: no
  dos_reqs_density_per_unit: 200
  dos_sampling_time_unit: 1.5
  dos_known_factor: 2
  dos_unproven_ban_time: 60
  failed_auth_ban_enable: observe
  failed_auth_ban_key: user_source
  failed_auth_ban_reply: drop
  failed_auth_source_attempts: 0
  loop_key: uri
  loop_exempt: ["*97"]
  block_useragents: { action: reject, mode: whitelist, ua_patterns: [Yealink, Snom] }
  options_from_unknown: drop
  kernel_offload: off
admin: { socket: /run/sipward/other.sock }
`},
		{"off", `pools: { pbx: { backends: ["sip:10.0.0.10"] } }
timers: { session_ttl: 0, no_timer_call_duration: 0, max_call_duration: 1h, max_ring_duration: 0 }
admin: { socket: "" }
security: { dos_ban_enable: no, failed_auth_ban_enable: no, loop_enable: no, sanity_enable: no, block_useragents: { enable: no } }
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
		neverBanned(&op, c.Security)
		protections(&op, c)
		bans(&op, c.Security)
		callLimits(&op, c)
		reachable(&op, c)
		balancing(&op, c)
		outputs(&op, c, c.Admin.Socket)
	}
	golden(t, "start-limits.golden", out.String())
}

// TestWhatIsSoundCanBeUsed: a pattern that check lets pass is one that the edge takes, and the other way round.
func TestWhatIsSoundCanBeUsed(t *testing.T) {
	for _, mode := range []string{"blacklist", "whitelist"} {
		for _, pattern := range []string{
			"scan", "=scan", "Asterisk", "asterisk pbx 1.8", "my FPBX", "FreeSWITCH", "3cx", " scan", "scan ", "=", "= scan", "a|b", `a\d`, "a.b", "a.*", "^a", "a$",
			"=^a", "=a$", "a\tb", "a\x7f", strings.Repeat("x", 64), strings.Repeat("x", 65), "=" + strings.Repeat("x", 64),
		} {
			file := fmt.Sprintf("pools: { pbx: { backends: [\"sip:10.0.0.10\"] } }\nsecurity: { block_useragents: { mode: %s, ua_patterns: [%q] } }\n", mode, pattern)
			_, _, err := config.Load(config.Options{Data: []byte(file), Addresses: []netip.Addr{}})
			_, used := security.NewSignatures(config.BlockUserAgents{Enable: config.Enforce, Mode: mode, UAPatterns: []string{pattern}})
			if (err == nil) != (used == nil) {
				t.Errorf("%s %q: check says %v, the edge %v", mode, pattern, err, used)
			}
		}
	}
}
