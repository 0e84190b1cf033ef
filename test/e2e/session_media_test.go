package e2e

import (
	"fmt"
	"testing"
	"time"
)

// watchMedia has a page follow the RTP that it gets: Chromium tells how much came and when the
// last packet did. A worker gives the beat, for the timers of a page in the background are slow;
// how late it was at most says what the machine had to do with a gap.
const watchMedia = `(() => {
	const pc = phone.session.connection;
	const rtp = phone.rtp = { longest: 0, late: 0, at: [], all: [], packets: 0, lost: 0, sources: [], local: pc.localDescription.sdp, remote: pc.remoteDescription.sdp };
	let last = 0, beat = performance.now(), busy = false;
	phone.sockets.at(-1).addEventListener('message', e => {
		if (String(e.data).startsWith('UPDATE ')) rtp.at.push({ since: performance.now(), longest: 0 });
	});
	const look = async () => {
		const now = performance.now();
		rtp.late = Math.max(rtp.late, now - beat);
		beat = now;
		if (!rtp.all.length || now - rtp.all.at(-1).since > 500) rtp.all.push({ since: now, longest: 0 });
		if (busy) return;
		busy = true;
		for (const s of (await pc.getStats()).values()) {
			if (s.type !== 'inbound-rtp') continue;
			const more = s.packetsReceived - rtp.packets;
			if (last > 0 && more > 0) {
				const gap = s.lastPacketReceivedTimestamp - last - 20 * (more - 1);
				rtp.longest = Math.max(rtp.longest, gap);
				for (const x of rtp.at.slice(-3).concat(rtp.all.slice(-1))) {
					if (now - x.since < 500) x.longest = Math.max(x.longest, gap);
				}
			}
			last = s.lastPacketReceivedTimestamp;
			rtp.packets = s.packetsReceived;
			rtp.lost = s.packetsLost;
			if (!rtp.sources.includes(s.ssrc)) rtp.sources.push(s.ssrc);
		}
		busy = false;
	};
	new Worker(URL.createObjectURL(new Blob(['setInterval(() => postMessage(0), 10)']))).onmessage = look;
})()`

// isHeard is what came of it.
const isHeard = `(({ longest, late, at, all, packets, lost, sources, local, remote }) => ({
	longest, late, packets, lost, sources: sources.length,
	usual: at.map(x => x.longest).sort((a, b) => a - b)[Math.floor(at.length / 2)],
	always: all.map(x => x.longest).sort((a, b) => a - b)[Math.floor(all.length / 2)],
	same: local === phone.session.connection.localDescription.sdp && remote === phone.session.connection.remoteDescription.sdp,
}))(phone.rtp)`

type heardMedia struct {
	Longest, Late          float64 // milliseconds
	Usual, Always          float64 // the median of the longest gap within 500 ms of each refresh, and of all half seconds
	Packets, Lost, Sources int
	Same                   bool // the session descriptions are those of the beginning
}

// TestG51BrowsersAreRefreshedByUPDATE: two browsers that know session timers talk to each other,
// and the edge refreshes each of them by UPDATE every second or two: the call passes it twice, and
// what one pass asks is proof enough for the other. No INVITE and no SDP comes to them
// for that, and the RTP of neither stands still for 100 ms at a refresh.
func TestG51BrowsersAreRefreshedByUPDATE(t *testing.T) {
	t.Parallel()
	const refreshes = 20
	b := newSwitchboard(t, newSite(t), true, "lab: yes\ntimers: { session_ttl: 20, session_update_segment: 20 }\n")
	ann, ben := b.registered(t, "ann"), b.registered(t, "ben")
	ann.do(fmt.Sprintf("call(%q)", b.aor("ben")))
	ben.until("incoming")
	ben.do("answer()")
	pages := map[string]*webphone{"ann": ann, "ben": ben}
	invites := map[string]int{}
	for name, w := range pages {
		for e := w.until("media", "failed", "ended"); e.State != "connected"; e = w.until("media", "failed", "ended") {
			if e.Name != "media" || e.State == "failed" {
				t.Fatalf("no media at %s: %+v", name, e)
			}
		}
		w.eval(watchMedia, nil)
		invites[name] = len(w.messages(&w.received, "INVITE "))
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(3 * time.Minute); len(ann.messages(&ann.received, "UPDATE ")) < refreshes || len(ben.messages(&ben.received, "UPDATE ")) < refreshes; <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("no %d refreshes: %d and %d, %+v", refreshes, len(ann.messages(&ann.received, "UPDATE ")), len(ben.messages(&ben.received, "UPDATE ")), statsOf(t, b.edge))
		}
	}
	for name, w := range pages {
		var m heardMedia
		w.eval(isHeard, &m)
		t.Logf("%s: %+v", name, m)
		if m.Packets < 50*refreshes/4 || m.Sources != 1 || !m.Same {
			t.Errorf("%s heard %+v", name, m)
		}
		// What is longer once in a while is the machine's, and what is longer all the time.
		if m.Usual <= 0 || m.Usual >= 100 && m.Usual >= 1.5*m.Always {
			t.Errorf("%s heard nothing for %.0f ms at every other refresh", name, m.Usual)
		}
		if n := len(w.messages(&w.received, "INVITE ")) - invites[name]; n != 0 {
			t.Errorf("%d re-INVITEs to %s", n, name)
		}
		for _, u := range w.messages(&w.received, "UPDATE ") {
			if len(u.Body()) > 0 {
				t.Errorf("%s was refreshed with\n%s", name, u.Data)
			}
		}
	}
	ben.do("hangup()")
	ann.ended("remote")
}
