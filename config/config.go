package config

import (
	"net/netip"
	"time"
)

// Config is the whole configuration of one edge. A value that Load returned is complete and sound: every key has its
// default, every listener is parsed, every name that is referred to exists. It is not changed afterwards, so it may be
// read from any goroutine.
//
// The tags are the documentation: Keys, Template, the README table and the range checks are all made from them.
//
//	doc    what the key means
//	unit   of a bare number (durations are always seconds)
//	min    smallest legal value
//	max    largest legal value
//	safe   smallest value without `lab: yes`
//	zero   what the value 0 (or the empty text) means; 0 is then legal whatever min and safe say
//	one    the legal words
//	apply  "restart" where a reload does not take the change over
type Config struct {
	Listen       []Listener      `yaml:"listen" doc:"Addresses to receive SIP on, as proto:ip:port or as a map of the keys below." apply:"restart"`
	Advertise    string          `yaml:"advertise" doc:"Host or host:port that Via, Record-Route, Path and Contact show instead of the listener's own address." zero:"the listener's own address"`
	Aliases      []string        `yaml:"aliases" doc:"Further names and addresses in a URI that mean this edge, such as its DNS name."`
	Secret       string          `yaml:"secret" doc:"Any long text; signs what Record-Route, Path and Contact carry. With it, calls and registrations stay routable over a restart and to a second edge that has the same." zero:"the one in state_file, else a new one at each start" apply:"restart"`
	StateFile    string          `yaml:"state_file" doc:"File that keeps answered calls and registrations, and what signs Record-Route, Path and Contact unless secret is set, so that a restart loses neither. One edge at a time can have it." zero:"nothing is kept over a restart" apply:"restart"`
	StopTimeout  Duration        `yaml:"stop_timeout" doc:"How long a stop waits for transactions to end." min:"0" max:"3600"`
	ServerID     string          `yaml:"server_id" doc:"Server and User-Agent header field of messages that sipward itself originates." zero:"no such header field"`
	Log          Log             `yaml:"log" doc:"Log lines: one per request, relayed request and reply, and the operational ones."`
	CDR          CDR             `yaml:"cdr" doc:"Call records: one for each call that ended, failed ones too. A reload takes changes over."`
	Pools        map[string]Pool `yaml:"pools" doc:"Groups of backends by name. At least one pool with one backend is needed."`
	Routes       []Route         `yaml:"routes" doc:"Which pool takes a request from outside; the first match wins. Needed only where there are several pools."`
	Registration Registration    `yaml:"registration" doc:"How registered phones are found again behind NAT, over TCP and from browsers. A reload takes changes over with the next REGISTER."`
	Timers       Timers          `yaml:"timers" doc:"How every call comes to its end: session timers (RFC 4028), probes of both legs, limits of duration. A call keeps the values of its INVITE: a reload touches only later INVITEs."`
	Security     Security        `yaml:"security" doc:"What is stopped and banned. The names are those of Sipwise NGCP: its section security can be pasted here."`
	Transaction  Transaction     `yaml:"transaction" doc:"Timers of RFC 3261 section 17 and of the fail-over inside a transaction. New transactions take a change over."`
	Limits       Limits          `yaml:"limits" doc:"Bounds of every table, queue and message."`
	Lab          bool            `yaml:"lab" doc:"Permits values below the safe minima. For laboratories and tests only; start and check warn about it."`
	Resolver     Resolver        `yaml:"resolver" doc:"DNS lookups of backend names and of requests that the PBX sends out (RFC 3263)." apply:"restart"`
	Admin        Admin           `yaml:"admin" doc:"The administration socket."`
}

// Listener is one socket to receive on. In the file it is either the address alone or a map.
type Listener struct {
	Address      string    `yaml:"address" doc:"proto:ip:port; proto is udp, tcp, tls, ws or wss, the address an IP literal, IPv6 in brackets; [::] takes no IPv4." apply:"restart"`
	Certificate  string    `yaml:"certificate" doc:"PEM file with the certificate chain of a tls or wss listener. All files of a listener are read again when they change, and at a reload." apply:"restart"`
	Key          string    `yaml:"key" doc:"PEM file with the private key of a tls or wss listener." apply:"restart"`
	Certificates []KeyPair `yaml:"certificates" doc:"Further pairs {certificate: file, key: file} of a tls or wss listener, chosen by the name that the client asks for (SNI); the one above is for all other names." apply:"restart"`
	ClientCA     string    `yaml:"client_ca" doc:"PEM file with the certificates that sign those of clients of a tls or wss listener." zero:"clients need no certificate" apply:"restart"`
	ClientAuth   string    `yaml:"client_auth" doc:"With client_ca: require a certificate of every client, or verify only what a client shows." one:"require|optional" zero:"require" apply:"restart"`
	Origins      []string  `yaml:"origins" doc:"Web origins (scheme://host[:port]) whose pages may connect to a ws or wss listener." zero:"every origin" apply:"restart"`
	Side         string    `yaml:"side" doc:"inside: the listener faces the PBX, and over UDP the PBX is believed to be itself only there. Empty: it serves both sides." one:"inside" zero:"both sides" apply:"restart"`
	Advertise    string    `yaml:"advertise" doc:"Host or host:port to show for this listener." zero:"the global advertise" apply:"restart"`

	// Proto is the lower-case protocol of Address: udp, tcp, tls, ws or wss.
	Proto string `yaml:"-"`
	// Bind is the parsed IP address and port of Address.
	Bind netip.AddrPort `yaml:"-"`
}

// KeyPair is one certificate with its key.
type KeyPair struct {
	Certificate string `yaml:"certificate" doc:"PEM file with the certificate chain." apply:"restart"`
	Key         string `yaml:"key" doc:"PEM file with the private key." apply:"restart"`
}

// Secure reports whether the listener speaks TLS.
func (l Listener) Secure() bool { return l.Proto == "tls" || l.Proto == "wss" }

// Web reports whether the listener speaks WebSocket (RFC 7118).
func (l Listener) Web() bool { return l.Proto == "ws" || l.Proto == "wss" }

// Log says what is logged, how and where.
type Log struct {
	Format   string `yaml:"format" doc:"Shape of the lines." one:"kamailio|json"`
	Level    string `yaml:"level" doc:"Lowest level that is written. Requests and replies are notice; start, stop and reload lines are always written." one:"error|warning|notice|info|debug"`
	Output   string `yaml:"output" doc:"stdout, stderr or a file path. A file is opened anew on SIGHUP."`
	Requests bool   `yaml:"requests" doc:"Write the lines of new and relayed requests."`
	Replies  bool   `yaml:"replies" doc:"Write the lines of replies."`
}

// CDR says where call records go and in which shape.
type CDR struct {
	Output string `yaml:"output" doc:"Where call records go: none, stdout or a file path. A file is opened anew on SIGHUP."`
	Format string `yaml:"format" doc:"Shape of a record: a JSON object or a CSV row, on one line, always the same fields in the same order." one:"json|csv"`
}

// Pool is a group of backends that are interchangeable for the requests routed to it.
type Pool struct {
	Policy           string    `yaml:"policy" doc:"How backends are chosen. hash: by user for REGISTER and SUBSCRIBE, by Call-ID otherwise; weighted: in turn, by weight; least_calls: the fewest calls in proportion to the weight; priority: the lowest priority number that is up." one:"hash|round_robin|weighted|least_calls|priority"`
	Probe            Probe     `yaml:"probe" doc:"How the health of the backends is found out."`
	Backends         []Backend `yaml:"backends" doc:"The members, as a SIP URI or as a map of the keys below."`
	InviteFailover   Duration  `yaml:"invite_failover" doc:"Time without any answer to an INVITE after which the next backend is tried." min:"0.01" safe:"0.5" max:"180" zero:"transaction.invite_failover"`
	RequestFailover  Duration  `yaml:"request_failover" doc:"The same for every other method." min:"0.01" safe:"0.5" max:"180" zero:"transaction.request_failover"`
	FailoverCodes    []int     `yaml:"failover_codes" doc:"Answers that make the next backend be tried. 503 is always one of them." one:"500|502|503|504"`
	AuthFailureCodes []int     `yaml:"auth_failure_codes" doc:"Answers to a request with credentials that mean a wrong password; 403 counts for REGISTER only." one:"401|403|407" zero:"failed authentication is not counted"`
	SlowStart        Duration  `yaml:"slow_start" doc:"Time over which a backend that came back grows to its full share." max:"3600" zero:"full share at once"`
	IdentityHeader   string    `yaml:"identity_header" doc:"Header field that tells the backend the client's real address, for example X-AUTH-IP; copies from outside are removed." zero:"none"`
	SupportsPath     bool      `yaml:"supports_path" doc:"The registrars of this pool understand Path (RFC 3327) from every phone: Kamailio, FreeSWITCH, Asterisk with support_path=yes."`
	TCPAbove         int       `yaml:"tcp_above" doc:"Requests longer than this go to a backend over TCP though its address says UDP (RFC 3261 18.1.1 has it at 1300); its TCP port must be the same." unit:"bytes" min:"500" max:"65535" zero:"never: the network sends them in fragments"`
	TLS              PoolTLS   `yaml:"tls" doc:"Connections to backends over TLS."`
}

// Probe is the health check of a pool.
type Probe struct {
	Method    string   `yaml:"method" doc:"Method of the probe." one:"OPTIONS"`
	Interval  Duration `yaml:"interval" doc:"Time between two probes of a backend." min:"0.01" safe:"1" max:"3600" zero:"no active probes"`
	Timeout   Duration `yaml:"timeout" doc:"Time to wait for the answer to a probe." min:"0.01" safe:"0.5" max:"32"`
	DownAfter int      `yaml:"down_after" doc:"Misses in a row until a backend is down." min:"1" max:"100"`
	UpAfter   int      `yaml:"up_after" doc:"Answers in a row until a backend is up again." min:"1" max:"100"`
	Passive   bool     `yaml:"passive" doc:"Learn from the outcome of real requests too."`
}

// Backend is one server of a pool.
type Backend struct {
	Name     string `yaml:"name" doc:"Name in logs and commands, unique in its pool." zero:"host:port of the address"`
	Address  string `yaml:"address" doc:"SIP URI, for example sip:10.0.0.10:5060;transport=udp. Names are resolved by RFC 3263 and again when their TTL ends."`
	Weight   int    `yaml:"weight" doc:"Share of the traffic relative to the other backends." min:"1" max:"1000"`
	Priority int    `yaml:"priority" doc:"For policy priority: lower numbers are tried first." min:"0" max:"1000"`
	MaxCPS   int    `yaml:"max_cps" doc:"New calls and other new transactions outside a call per second." min:"1" max:"1000000" zero:"no limit"`
	MaxCalls int    `yaml:"max_calls" doc:"Calls at the same time; above it a new call goes to the next backend." min:"1" max:"10000000" zero:"no limit"`
	State    string `yaml:"state" doc:"drain: only what already belongs to it; disabled: nothing at all." one:"up|drain|disabled"`
}

// PoolTLS is how connections to the backends of a pool are verified.
type PoolTLS struct {
	CA          string `yaml:"ca" doc:"PEM file with the certificates to trust." zero:"the system's"`
	Insecure    bool   `yaml:"insecure" doc:"Do not verify the backend's certificate."`
	ServerName  string `yaml:"server_name" doc:"Name to ask for and to verify." zero:"the host of the backend's address"`
	Certificate string `yaml:"certificate" doc:"PEM file with the certificate chain to show to the backend. It is read again at a reload." zero:"none"`
	Key         string `yaml:"key" doc:"PEM file with its private key." zero:"none"`
}

// Route sends the requests that match to a pool.
type Route struct {
	Match  Match  `yaml:"match" doc:"All keys that are set must match; an empty match takes everything."`
	Pool   string `yaml:"pool" doc:"Name of the pool."`
	MaxCPS int    `yaml:"max_cps" doc:"New calls and other new transactions outside a call per second through this route." min:"1" max:"1000000" zero:"no limit"`
}

// SideInside is the Side of a listener that faces the PBX.
const SideInside = "inside"

// Match is the condition of a route.
type Match struct {
	Method     []string       `yaml:"method" doc:"Any of these methods."`
	RURIPrefix string         `yaml:"ruri_prefix" doc:"The Request-URI begins with this text."`
	FromDomain string         `yaml:"from_domain" doc:"The host of the From URI, letter case ignored."`
	Source     []netip.Prefix `yaml:"source" doc:"The request came from any of these addresses or networks (CIDR)."`
}

// Registration says how the edge is found by calls to registered phones.
type Registration struct {
	Mode         string   `yaml:"mode" doc:"What a REGISTER carries to lead calls back over the phone's own flow. path: a Path header field (RFC 3327); contact: a Contact of the edge's own in place of the phone's; auto: path where the phone says Supported: path or the pool has supports_path, unless the registrar ignored it, else contact." one:"auto|path|contact"`
	ClosedGrace  Duration `yaml:"closed_grace" doc:"Time that a phone has to register over a new connection before its registrations over the closed one are dead." min:"0.01" safe:"1" max:"300"`
	Ping         string   `yaml:"ping" doc:"What keeps the mappings of NATs open: options makes the phone answer, which every NAT counts; crlf is the least that can be sent." one:"options|crlf|none"`
	PingInterval Duration `yaml:"ping_interval" doc:"Time between two pings of a phone behind NAT or of a browser. Keep it below the 30 s after which many NATs forget." min:"0.05" safe:"5" max:"600"`
	STUN         bool     `yaml:"stun" doc:"Answer STUN binding requests on udp listeners (RFC 5626 3.5.2)."`
}

// Timers says how long calls last and how the edge finds out that one is dead.
type Timers struct {
	SessionTTL                Duration `yaml:"session_ttl" doc:"A call with a session timer ends when this time has passed without proof that both ends live. Written into Session-Expires as whole seconds, rounded up." min:"0.001" safe:"90" max:"86400" zero:"no probing"`
	SessionUpdateSegment      int      `yaml:"session_update_segment" doc:"Parts of session_ttl: after each of them both legs are probed, unless an endpoint refreshed the session." min:"1" max:"20"`
	SessionTimeoutEarlyHangup Duration `yaml:"session_timeout_early_hangup" doc:"Hang up this long before session_ttl is over; at most session_ttl less one segment and 40 s for retries." min:"0.001" max:"86400" zero:"none"`
	NoTimerCallDuration       Duration `yaml:"no_timer_call_duration" doc:"Longest call where neither side supports session timers, which is never probed, or where no probe is possible." min:"0.001" safe:"60" max:"604800" zero:"no limit"`
	MaxCallDuration           Duration `yaml:"max_call_duration" doc:"Longest call of all, from the answer." min:"0.001" safe:"60" max:"604800" zero:"no limit"`
	MinSE                     Duration `yaml:"min_se" doc:"Shortest Session-Expires that is accepted. Written into Min-SE as whole seconds, rounded up." min:"0.001" safe:"90" max:"86400"`
	InsertSE                  string   `yaml:"insert_se" doc:"Whether an INVITE, re-INVITE or UPDATE without Session-Expires gets one, of session_ttl or more where a Min-SE asks for more: never, when the caller supports timers, or always (a caller without timers then cannot mend a 422)." one:"never|if_uac_supports|always"`
	RejectSmallSE             bool     `yaml:"reject_small_se" doc:"yes: answer 422 to a Session-Expires below min_se when the sender supports timers; no: it passes as it is. For a sender that does not, it is raised to min_se."`
	Detect                    string   `yaml:"detect" doc:"Which calls are probed. any: one side said Supported: timer or Session-Expires; session_expires: only where a Session-Expires is in force or was asked for." one:"any|session_expires"`
	ProbeMethods              []string `yaml:"probe_methods" doc:"Requests to probe a leg with, in this order; one that a leg refuses is not tried there again. update has no body, reinvite repeats the SDP that the leg saw last, options does not refresh, options_stale uses an old CSeq and leaves all numbers as they are." one:"update|reinvite|options|options_stale"`
	Alive                     string   `yaml:"alive" doc:"What proves that a leg lives. uas_response: any answer that shows the dialog exists; 2xx_only: nothing but 2xx, as VOS3000 has it." one:"uas_response|2xx_only"`
	ProbeLegs                 string   `yaml:"probe_legs" doc:"Legs that are probed: both, a (the caller's) or b (the callee's)." one:"both|a|b"`
	ProbeJitter               int      `yaml:"probe_jitter" doc:"Random part of the time between two probes, added or taken off." unit:"percent" min:"0" max:"50"`
	ProbeRateMax              int      `yaml:"probe_rate_max" doc:"Probes of all calls together. Those that come later for it are no reason to end a call." unit:"per second" min:"1" max:"1000000"`
	OnSEExpiry                string   `yaml:"on_se_expiry" doc:"What happens 5 s after Session-Expires ran out without a refresh. probe: both legs are asked; drop_state: the call is forgotten without BYE, as RFC 4028 8.3 has it; bye: the call ends." one:"probe|drop_state|bye"`
	On408                     string   `yaml:"on_408" doc:"A probe that is answered with 408. retry: it is sent again until session_ttl is over, as one without any answer always is; end: the call ends at once." one:"retry|end"`
	ReinviteWebRTC            bool     `yaml:"reinvite_webrtc" doc:"Probe WebRTC legs with re-INVITE too, which may restart their ICE and DTLS."`
	NoInjectIfIdentity4474    bool     `yaml:"no_inject_if_identity4474" doc:"Never probe calls with an Identity header field of RFC 4474, which signs the CSeq."`
	MaxRingDuration           Duration `yaml:"max_ring_duration" doc:"Longest time from INVITE to answer, provisional responses or not." min:"0.001" safe:"30" max:"3600" zero:"transaction.timer_c alone"`
	AckTimeout                Duration `yaml:"ack_timeout" doc:"Time from the answer after which a call without ACK is probed and, if dead, ended; at least 64*transaction.t1." min:"0.001" safe:"32" max:"3600" zero:"64*transaction.t1 + 5 s"`
	MaxEarlyPerInvite         int      `yaml:"max_early_per_invite" doc:"Early dialogs that are kept for one INVITE." min:"1" max:"64"`
	RestoreCSeqBump           int      `yaml:"restore_cseq_bump" doc:"How far the CSeq numbers of a call that is or was probed jump ahead when state_file brings it back: over those that were used after its last write." min:"1" max:"100000"`
}

// ProbeInterval is the time from a proof of life to the next probe, before jitter; 0 means that nothing is probed. Where
// a whole segment would end on the deadline, the probe goes out two transactions (128*T1) before it, or after a quarter
// of the time. The package timers goes by the same rule.
func (t Timers) ProbeInterval(t1 Duration) Duration {
	if t.SessionTTL == 0 {
		return 0
	}
	life := t.SessionTTL - t.SessionTimeoutEarlyHangup
	if i := t.segment(); i < life {
		return i
	}
	return max(life-128*t1, life/4)
}

// segment is one part of the session's life.
func (t Timers) segment() Duration { return t.SessionTTL / Duration(max(t.SessionUpdateSegment, 1)) }

// AckWait is the time after which the ACK of an answer is missing.
func (t Timers) AckWait(t1 Duration) Duration {
	if t.AckTimeout > 0 {
		return t.AckTimeout
	}
	return 64*t1 + 5*second // RFC 3261 13.3.1.4, and a margin of our own
}

// Mode says what a protection does with what it finds.
type Mode string

// The modes, as they are after loading. In the file yes, true and on mean Enforce, no and false mean Off.
const (
	Enforce Mode = "enforce"
	Observe Mode = "observe" // log, but stop nothing
	Off     Mode = "off"
)

// Security says what is stopped. A source is one IPv4 address or one IPv6 /64.
type Security struct {
	TrustLoopback            bool            `yaml:"trust_loopback" doc:"Loopback addresses are trusted: never banned."`
	Trusted                  []netip.Prefix  `yaml:"trusted" doc:"Addresses and networks (CIDR) that are never banned. Listeners, advertised addresses and backends are trusted by themselves." zero:"nobody else"`
	DoSBanEnable             Mode            `yaml:"dos_ban_enable" doc:"Ban sources that send too many messages. observe: log them, ban nobody."`
	DoSBanTime               Duration        `yaml:"dos_ban_time" doc:"How long a source that sends too many messages is banned." min:"0.001" safe:"10" max:"2592000"`
	DoSReqsDensityPerUnit    int             `yaml:"dos_reqs_density_per_unit" doc:"Messages that a source may send inside any dos_sampling_time_unit; the next one bans it. Requests with their repetitions, what is no SIP, and replies to nothing count." min:"1" max:"100000"`
	DoSSamplingTimeUnit      Duration        `yaml:"dos_sampling_time_unit" doc:"Length of the sliding window in which messages are counted." min:"0.001" safe:"1" max:"3600"`
	DoSKnownFactor           int             `yaml:"dos_known_factor" doc:"How many times more a source may send that has a registration, a call, or a correct password in the last hour." min:"1" max:"1000"`
	DoSNewSourcesPerSecond   int             `yaml:"dos_new_sources_per_second" doc:"UDP sources nobody has heard of for a while that are taken at once; while there are more, the first message of each is dropped, and its repetition passes. So forged addresses cost no transaction." unit:"per second" min:"10" max:"1000000" zero:"all are taken"`
	DoSUnprovenBanTime       Duration        `yaml:"dos_unproven_ban_time" doc:"First ban of a UDP source that never showed that it receives answers, so that its address may be forged; doubles with each repetition up to dos_ban_time." min:"0.001" safe:"1" max:"2592000" zero:"the same as dos_ban_time"`
	FailedAuthBanEnable      Mode            `yaml:"failed_auth_ban_enable" doc:"Ban users and sources with wrong passwords, as the answers of the backends tell. observe: log them, ban nobody."`
	FailedAuthAttempts       int             `yaml:"failed_auth_attempts" doc:"Wrong passwords in a row after which a user is banned." min:"1" max:"1000"`
	FailedAuthBanTime        Duration        `yaml:"failed_auth_ban_time" doc:"How long a user or a source with wrong passwords is banned." min:"0.001" safe:"10" max:"2592000"`
	FailedAuthBanKey         string          `yaml:"failed_auth_ban_key" doc:"What failed_auth_attempts bans. user: user@domain from everywhere; user_source: user@domain from that source; source: the source, for all its users, once it showed that it receives answers." one:"user|user_source|source"`
	FailedAuthBanReply       string          `yaml:"failed_auth_ban_reply" doc:"What a banned user gets: 403 Try again later, or nothing." one:"403|drop"`
	FailedAuthSourceAttempts int             `yaml:"failed_auth_source_attempts" doc:"Wrong passwords within 60 s, of any users, after which a source is banned that showed that it receives answers; over UDP, any other one has to answer a challenge of the edge's own first." min:"2" max:"10000" zero:"no such ban"`
	EnumerationUsers         int             `yaml:"enumeration_users" doc:"Different users with wrong passwords within 60 s after which such a source is banned." min:"2" max:"1000" zero:"no such ban"`
	LoopEnable               Mode            `yaml:"loop_enable" doc:"Answer new calls with 482 that go from one user to another too often. observe: log them, let them pass."`
	LoopFromToPerSecond      int             `yaml:"loop_from_to_per_second" doc:"New calls with the same From and To inside any second, from one source or from all trusted ones; the next one is refused. Repetitions, forks and the retry with credentials count once." min:"1" max:"1000"`
	LoopKey                  string          `yaml:"loop_key" doc:"What makes two calls the same. user: the user parts of From and To; uri: user and host." one:"user|uri"`
	LoopExempt               []string        `yaml:"loop_exempt" doc:"Users of From or To whose calls are no loops however many there are, such as a voicemail number, or callers who hide theirs; one that ends in * is a prefix." zero:"nobody"`
	SanityEnable             Mode            `yaml:"sanity_enable" doc:"Refuse messages with broken or absurd header fields before the PBX reads them. observe: log them, let them pass."`
	BlockUserAgents          BlockUserAgents `yaml:"block_useragents" doc:"Requests of scanners, known by their User-Agent or their From and To."`
	OptionsFromUnknown       string          `yaml:"options_from_unknown" doc:"An OPTIONS to this edge from a source without a registration or call: answer, or say nothing so that scanners find nothing." one:"answer|drop"`
	StripHeaders             []string        `yaml:"strip_headers" doc:"Header fields that the PBX trusts, removed from every message that does not come from a backend." zero:"nothing is removed"`
	KernelOffload            string          `yaml:"kernel_offload" doc:"auto: the kernel drops what banned sources send, by nftables and socket filters, where it is permitted. off: the edge alone." one:"auto|off" apply:"restart"`
}

// BlockUserAgents says whose requests are not served at all.
type BlockUserAgents struct {
	Enable      Mode     `yaml:"enable" doc:"Stop requests of scanners. observe: log them, let them pass."`
	Action      string   `yaml:"action" doc:"What they get. drop: no answer; reject: 403." one:"drop|reject"`
	Mode        string   `yaml:"mode" doc:"Which requests. blacklist: those that match ua_patterns or the list of known scanners; whitelist: all that do not match ua_patterns." one:"blacklist|whitelist"`
	BlockAbsent bool     `yaml:"block_absent" doc:"Requests without User-Agent too."`
	BlockEmpty  bool     `yaml:"block_empty" doc:"Requests with an empty User-Agent too."`
	UAPatterns  []string `yaml:"ua_patterns" doc:"Parts of a User-Agent, letter case ignored; with = before it, all of it. They are added to the list of known scanners." zero:"the known scanners alone"`
}

// Transaction holds the timers of RFC 3261 section 17 and of fail-over.
type Transaction struct {
	T1              Duration `yaml:"t1" doc:"Estimate of the round-trip time; first retransmission interval over UDP." min:"0.001" safe:"0.1" max:"10"`
	T2              Duration `yaml:"t2" doc:"Longest retransmission interval of non-INVITE requests and INVITE responses." min:"0.001" safe:"1" max:"60"`
	T4              Duration `yaml:"t4" doc:"Longest time a message stays in the network." min:"0.001" safe:"1" max:"60"`
	TimerB          Duration `yaml:"timer_b" doc:"Time-out of a transaction without any final response (timers B, F and H); 64*T1 by RFC 3261." min:"0.001" safe:"4" max:"180"`
	TimerC          Duration `yaml:"timer_c" doc:"Longest time a call may ring without a new provisional response; RFC 3261 16.6 asks for 180 s or more." min:"0.001" safe:"180" max:"3600"`
	InviteFailover  Duration `yaml:"invite_failover" doc:"Time without any answer to an INVITE after which the next backend is tried." min:"0.001" safe:"0.5" max:"180"`
	RequestFailover Duration `yaml:"request_failover" doc:"The same for every other method." min:"0.001" safe:"0.5" max:"180"`
}

// Limits are the bounds of tables, queues, messages and connections.
type Limits struct {
	MaxTransactions         int      `yaml:"max_transactions" doc:"Transactions at the same time; above it new requests get 503." min:"100" max:"10000000" apply:"restart"`
	TransactionMemory       int      `yaml:"transaction_memory" doc:"Messages stored for transactions; above it new requests get 503." unit:"bytes" min:"1048576" max:"68719476736" apply:"restart"`
	MaxDialogs              int      `yaml:"max_dialogs" doc:"Dialogs of calls at the same time, ringing ones too; above it a new call gets 503." min:"100" max:"10000000" apply:"restart"`
	MaxBindings             int      `yaml:"max_bindings" doc:"Registered contacts that are followed at the same time; above it a registration passes, but calls to it depend on what the registrar kept." min:"100" max:"10000000" apply:"restart"`
	MaxSources              int      `yaml:"max_sources" doc:"Source addresses whose messages are counted at the same time; above it those seen least make room." min:"1000" max:"10000000" apply:"restart"`
	MaxBans                 int      `yaml:"max_bans" doc:"Bans at the same time; above it those that stop least make room." min:"100" max:"2000000" apply:"restart"`
	MaxConnections          int      `yaml:"max_connections" doc:"TCP, TLS and WebSocket connections at the same time; above it new ones are refused." min:"1" max:"1000000" apply:"restart"`
	MaxConnectionsPerSource int      `yaml:"max_connections_per_source" doc:"The same for one source address, which may also open no more new ones inside 10 s." min:"1" max:"1000000" apply:"restart"`
	AcceptRate              int      `yaml:"accept_rate" doc:"Connections that are accepted a second; more wait in the kernel, as after a restart when every phone comes back." unit:"per second" min:"1" max:"1000000" apply:"restart"`
	MaxMessage              int      `yaml:"max_message" doc:"Longest message; a longer one gets 513, and its connection is closed." unit:"bytes" min:"1500" max:"65535" apply:"restart"`
	HandshakeTimeout        Duration `yaml:"handshake_timeout" doc:"Time for a TLS handshake, and for a WebSocket upgrade." min:"0.01" safe:"1" max:"120" apply:"restart"`
	MessageTimeout          Duration `yaml:"message_timeout" doc:"Time from the first byte of a message on a stream to its last." min:"0.01" safe:"1" max:"300" apply:"restart"`
	IdleTimeout             Duration `yaml:"idle_timeout" doc:"A connection without traffic is closed after this time, over TCP and TLS after 30 s if its client has said nothing yet; keep it above the registration interval." min:"0.01" safe:"60" max:"86400" apply:"restart"`
	KeepaliveIdle           Duration `yaml:"keepalive_idle" doc:"A connection on which nothing came for this time is probed by the kernel (TCP keep-alive), and closed when three probes in a row, 5 s apart, find nobody." min:"1" safe:"5" max:"7200" apply:"restart"`
	UnackedTimeout          Duration `yaml:"unacked_timeout" doc:"A connection whose peer does not acknowledge for this time what was sent to it is closed (TCP_USER_TIMEOUT); so long a call to a phone that fell silent may take to fail." min:"1" safe:"5" max:"300" apply:"restart"`
	WriteTimeout            Duration `yaml:"write_timeout" doc:"A connection whose peer takes nothing for this time is closed." min:"0.01" safe:"1" max:"300" apply:"restart"`
	WriteQueue              int      `yaml:"write_queue" doc:"What may wait to be written to one connection; above it the connection is closed." unit:"bytes" min:"65536" max:"67108864" apply:"restart"`
	ReceiveBuffer           int      `yaml:"receive_buffer" doc:"Kernel receive buffer of each UDP socket (SO_RCVBUF)." unit:"bytes" min:"65536" max:"1073741824" apply:"restart"`
	QueueDelay              Duration `yaml:"queue_delay" doc:"Time in the kernel's queue above which new REGISTER and OPTIONS, later new INVITEs, are refused with 503." min:"0.001" safe:"0.02" max:"10" zero:"no self-protection"`
	Emergency               []string `yaml:"emergency" doc:"Request-URI users and urn:service names whose calls no limit refuses."`
}

// Resolver is how names are looked up.
type Resolver struct {
	Servers     []string `yaml:"servers" doc:"Name servers, ip or ip:port." zero:"those of /etc/resolv.conf" apply:"restart"`
	HostsFile   string   `yaml:"hosts_file" doc:"File with fixed addresses, looked at before DNS." zero:"none" apply:"restart"`
	Timeout     Duration `yaml:"timeout" doc:"Time for one query to one server." min:"0.01" safe:"0.1" max:"30" apply:"restart"`
	MinTTL      Duration `yaml:"min_ttl" doc:"Shortest time an answer is kept." min:"0.01" safe:"1" max:"3600" apply:"restart"`
	MaxTTL      Duration `yaml:"max_ttl" doc:"Longest time an answer is kept." min:"0.01" safe:"1" max:"86400" apply:"restart"`
	NegativeTTL Duration `yaml:"negative_ttl" doc:"Time a failed lookup is kept." min:"0.01" safe:"1" max:"3600" apply:"restart"`
	CacheSize   int      `yaml:"cache_size" doc:"Answers kept." min:"16" max:"1000000" apply:"restart"`
	MaxPending  int      `yaml:"max_pending" doc:"Lookups under way at the same time; above it a request gets 503." min:"1" max:"100000" apply:"restart"`
}

// Admin is the administration socket.
type Admin struct {
	Socket string `yaml:"socket" doc:"Path of the unix socket for sipward calls, registrations, backends, bans and explain. Where the default cannot be made, it is sipward.sock in $XDG_RUNTIME_DIR." zero:"no socket" apply:"restart"`
}

const second = Duration(time.Second)

// Default returns the configuration that an empty file means. It has no pool, so it is not sound by itself.
func Default() *Config {
	return &Config{
		Listen: []Listener{
			{Address: "udp:0.0.0.0:5060", Proto: "udp", Bind: netip.AddrPortFrom(netip.IPv4Unspecified(), 5060)},
			{Address: "tcp:0.0.0.0:5060", Proto: "tcp", Bind: netip.AddrPortFrom(netip.IPv4Unspecified(), 5060)},
		},
		Log:          Log{Format: "kamailio", Level: "notice", Output: "stdout", Requests: true, Replies: true},
		CDR:          CDR{Output: "none", Format: "json"},
		StopTimeout:  30 * second,
		Registration: Registration{Mode: "auto", ClosedGrace: 5 * second, Ping: "options", PingInterval: 20 * second, STUN: true},
		Timers: Timers{
			SessionTTL: 600 * second, SessionUpdateSegment: 2, NoTimerCallDuration: 7200 * second, MinSE: 90 * second,
			InsertSE: "if_uac_supports", RejectSmallSE: true, Detect: "any", ProbeMethods: []string{"update", "reinvite", "options"},
			Alive: "uas_response", ProbeLegs: "both", ProbeJitter: 10, ProbeRateMax: 2000, OnSEExpiry: "probe", On408: "retry",
			NoInjectIfIdentity4474: true, MaxRingDuration: 600 * second, MaxEarlyPerInvite: 16,
			RestoreCSeqBump: 1000,
		},
		Security: Security{
			TrustLoopback: true,
			DoSBanEnable:  Enforce, DoSBanTime: 3600 * second, DoSReqsDensityPerUnit: 50, DoSSamplingTimeUnit: 2 * second, DoSKnownFactor: 10, DoSNewSourcesPerSecond: 1000,
			FailedAuthBanEnable: Enforce, FailedAuthAttempts: 3, FailedAuthBanTime: 3600 * second, FailedAuthBanKey: "user",
			FailedAuthBanReply: "403", FailedAuthSourceAttempts: 20, EnumerationUsers: 5,
			LoopEnable: Enforce, LoopFromToPerSecond: 3, LoopKey: "user", LoopExempt: []string{"anonymous"}, SanityEnable: Enforce,
			BlockUserAgents:    BlockUserAgents{Enable: Enforce, Action: "drop", Mode: "blacklist"},
			OptionsFromUnknown: "answer", StripHeaders: []string{"X-AUTH-IP", "X-AUTH-PORT"}, KernelOffload: "auto",
		},
		Transaction: Transaction{
			// RFC 3261 table 4, and fail-over times of our own.
			T1: second / 2, T2: 4 * second, T4: 5 * second, TimerB: 32 * second, TimerC: 180 * second,
			InviteFailover: 2 * second, RequestFailover: 4 * second,
		},
		Limits: Limits{
			MaxTransactions: 200000, TransactionMemory: 512 << 20, MaxDialogs: 200000, MaxBindings: 200000,
			MaxSources: 1000000, MaxBans: 200000,
			MaxConnections: 10000, MaxConnectionsPerSource: 256, AcceptRate: 1000, MaxMessage: 65535,
			KeepaliveIdle: 20 * second, UnackedTimeout: 10 * second,
			HandshakeTimeout: 10 * second, MessageTimeout: 15 * second, IdleTimeout: 3900 * second, WriteTimeout: 10 * second,
			WriteQueue: 1 << 20, ReceiveBuffer: 8 << 20, QueueDelay: second / 5, Emergency: []string{"sos"},
		},
		Resolver: Resolver{
			HostsFile: "/etc/hosts", Timeout: 2 * second, MinTTL: 5 * second, MaxTTL: 3600 * second, NegativeTTL: 10 * second,
			CacheSize: 4096, MaxPending: 256,
		},
		Admin: Admin{Socket: "/run/sipward/admin.sock"},
	}
}

// DefaultPool returns the pool that an empty map under `pools:` means; it has no backend yet.
func DefaultPool() Pool {
	return Pool{
		Policy:           "hash",
		Probe:            Probe{Method: "OPTIONS", Interval: 10 * second, Timeout: 3 * second, DownAfter: 2, UpAfter: 2, Passive: true},
		FailoverCodes:    []int{503},
		AuthFailureCodes: []int{401, 403, 407},
		SlowStart:        30 * second,
	}
}

// DefaultBackend returns the backend that an address alone means.
func DefaultBackend() Backend { return Backend{Weight: 1, State: "up"} }
