package eventlog

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/sipward/sipward/config"
	"github.com/sipward/sipward/proxy/outfile"
)

// Options are what a log needs besides its configuration.
type Options struct {
	Script string    // name in the lines, after the level; empty: sipward
	Host   string    // host name in the prefix; empty: the system's
	PID    int       // process id in the prefix; 0: this process's
	Stdout io.Writer // what the output stdout means; nil: os.Stdout
	Stderr io.Writer // what the output stderr means; nil: os.Stderr
	Buffer int       // bytes that may wait to be written; 0: 1 MiB. Twice this much memory is taken
}

// Log takes events from any goroutine. Its methods never block on the output, except Flush and Close, which wait for
// at most two seconds.
type Log struct {
	script   string
	ident    string // " host sipward[pid]: "
	settings atomic.Pointer[settings]
	stamp    atomic.Pointer[stamp]
	writer   *outfile.Writer
	op       zerolog.Logger
	events   zerolog.Logger // requests and replies in the format json

	change sync.Mutex // one Configure or SetLevel at a time
}

// settings are what a reload may change; immutable.
type settings struct {
	log    config.Log
	level  level
	isJSON bool
}

// level is the rank of a line; larger is less important.
type level uint8

const (
	levelError level = iota
	levelWarning
	levelNotice
	levelInfo
	levelDebug
)

var levelNames = [...]string{levelError: "error", levelWarning: "warning", levelNotice: "notice", levelInfo: "info", levelDebug: "debug"}

func parseLevel(name string) (level, error) {
	for i, n := range levelNames {
		if n == name {
			return level(i), nil
		}
	}
	return 0, fmt.Errorf("log level %q is not one of error, warning, notice, info, debug", name)
}

// Open opens the output and starts the goroutine that writes; Close ends it. An empty level, format or output in c
// means the default.
func Open(c config.Log, o Options) (*Log, error) {
	if o.Script == "" {
		o.Script = "sipward"
	}
	if o.Host == "" {
		if o.Host, _ = os.Hostname(); o.Host == "" {
			o.Host = "-"
		}
	}
	if o.PID == 0 {
		o.PID = os.Getpid()
	}
	s, err := newSettings(c)
	if err != nil {
		return nil, err
	}
	l := &Log{
		script: string(appendToken(nil, []byte(o.Script))),
		ident:  fmt.Sprintf(" %s sipward[%d]: ", appendToken(nil, []byte(o.Host)), o.PID),
	}
	l.settings.Store(s)
	l.writer, err = outfile.Open(s.log.Output, outfile.Options{Stdout: o.Stdout, Stderr: o.Stderr, Buffer: o.Buffer, Lost: l.droppedLine})
	if err != nil {
		return nil, fmt.Errorf("log output: %w", err)
	}
	l.op = zerolog.New(operational{l})
	l.events = zerolog.New(l.writer)
	return l, nil
}

func newSettings(c config.Log) (*settings, error) {
	d := config.Default().Log
	if c.Format == "" {
		c.Format = d.Format
	}
	if c.Level == "" {
		c.Level = d.Level
	}
	if c.Output == "" {
		c.Output = d.Output
	}
	rank, err := parseLevel(c.Level)
	if err != nil {
		return nil, err
	}
	if c.Format != "kamailio" && c.Format != "json" {
		return nil, fmt.Errorf("log format %q is neither kamailio nor json", c.Format)
	}
	return &settings{log: c, level: rank, isJSON: c.Format == "json"}, nil
}

// SetLevel changes the level of the lines that follow.
func (l *Log) SetLevel(name string) error {
	l.change.Lock()
	defer l.change.Unlock()
	c := l.settings.Load().log
	c.Level = name
	s, err := newSettings(c)
	if err != nil {
		return err
	}
	l.settings.Store(s)
	return nil
}

// Configure takes a new configuration over, all of it or, with an error, nothing. Lines that are waiting go to the new
// output.
func (l *Log) Configure(c config.Log) error {
	l.change.Lock()
	defer l.change.Unlock()
	s, err := newSettings(c)
	if err != nil {
		return err
	}
	if s.log.Output != l.settings.Load().log.Output {
		if err := l.writer.Redirect(s.log.Output); err != nil {
			return fmt.Errorf("log output: %w", err)
		}
	}
	l.settings.Store(s)
	return nil
}

// Reopen opens the output file anew, for after logrotate has renamed it. With an error the old file stays in use.
// For stdout and stderr it does nothing.
func (l *Log) Reopen() error {
	l.change.Lock()
	defer l.change.Unlock()
	if err := l.writer.Redirect(l.settings.Load().log.Output); err != nil {
		return fmt.Errorf("log output: %w", err)
	}
	return nil
}

// Flush waits until all lines so far are written, but not longer than two seconds. It is for stops and crash reports.
func (l *Log) Flush() { l.writer.Flush() }

// Close flushes, ends the goroutine and closes the file. Lines that come later are dropped. It may be called again.
func (l *Log) Close() error {
	if err := l.writer.Close(); err != nil {
		return fmt.Errorf("log: %w", err)
	}
	return nil
}

// Dropped counts the lines that were lost because the output was too slow, failed or was closed.
func (l *Log) Dropped() uint64 { return l.writer.Dropped() }

// Op returns the logger of operational lines. Its fields become key=value in the format kamailio. Log, which has no
// level in zerolog, writes a notice. A fatal line is flushed before zerolog ends the process.
func (l *Log) Op() *zerolog.Logger { return &l.op }

// Request is a new request from either side, before anything was decided about it.
type Request struct {
	Method, RURI, From, To, CallID, UA []byte // as received; From and To are the URIs
	Src                                netip.AddrPort
	Local                              netip.AddrPort // own address that received it
	UAIP                               netip.Addr     // of the user agent; the zero value means that of Src
}

// Relay is a request on its way to its target.
type Relay struct {
	Method, RURI, From, To, CallID []byte // as sent
	Backend                        string // name of the backend; empty where the target is none
	Dst                            netip.AddrPort
}

// Reply is a response that is passed on.
type Reply struct {
	Status                 int
	Reason, Method, CallID []byte
	Src                    netip.AddrPort
	Side                   string // Inbound or Outbound
}

// End is the end of a call that was answered or not.
type End struct {
	Reason           string        // of a closed list; the same as in the call record
	Duration         time.Duration // since the answer, 0 without one
	From, To, CallID []byte        // of the INVITE; From and To are the URIs
	By               string        // caller, callee, edge or none
	Mode             string        // R, P or N; empty before the answer
}

// line is a scratch buffer for one line; pooled, for it would escape.
type line struct{ b []byte }

var lines = sync.Pool{New: func() any { return &line{b: make([]byte, 0, 2048)} }}

func (s *settings) writesRequests() bool { return s.log.Requests && s.level >= levelNotice }
func (s *settings) writesReplies() bool  { return s.log.Replies && s.level >= levelNotice }

// Request writes the line of a new request. Nothing of r is kept.
func (l *Log) Request(r *Request) {
	s := l.settings.Load()
	if !s.writesRequests() {
		return
	}
	agent := r.UAIP
	if !agent.IsValid() {
		agent = r.Src.Addr()
	}
	if s.isJSON {
		l.requestJSON(r, agent)
		return
	}
	p := lines.Get().(*line)
	defer lines.Put(p)
	b := l.begins(p.b[:0], "NOTICE: ", "New request on ")
	b = append(b, l.script...)
	b = append(b, " - M="...)
	b = appendToken(b, r.Method)
	b = appendParties(b, r.RURI, r.From, r.To)
	b = append(b, " IP="...)
	b = appendAddrPort(b, r.Src)
	b = append(b, " ("...)
	b = appendAddrPort(b, r.Local)
	b = append(b, ") ID="...)
	b = appendToken(b, r.CallID)
	b = append(b, " UAIP="...)
	b = appendAddr(b, agent)
	b = append(b, " UA='"...)
	b = appendText(b, r.UA)
	p.b = append(b, "'\n"...)
	_, _ = l.writer.Write(p.b)
}

// Relay writes the line of a request that is sent on. Nothing of r is kept.
func (l *Log) Relay(r *Relay) {
	s := l.settings.Load()
	if !s.writesRequests() {
		return
	}
	if s.isJSON {
		l.relayJSON(r)
		return
	}
	p := lines.Get().(*line)
	defer lines.Put(p)
	b := l.begins(p.b[:0], "NOTICE: ", "Relaying request - M=")
	b = appendToken(b, r.Method)
	b = appendParties(b, r.RURI, r.From, r.To)
	b = append(b, " D="...)
	b = appendToken(b, r.Backend)
	b = append(b, ':')
	b = appendAddrPort(b, r.Dst)
	l.ends(p, b, r.CallID)
}

// Reply writes the line of a response. Nothing of r is kept.
func (l *Log) Reply(r *Reply) {
	s := l.settings.Load()
	if !s.writesReplies() {
		return
	}
	if s.isJSON {
		l.replyJSON(r)
		return
	}
	p := lines.Get().(*line)
	defer lines.Put(p)
	b := l.begins(p.b[:0], "NOTICE: ", "Reply from ")
	b = appendToken(b, r.Side)
	b = append(b, " - S="...)
	b = strconv.AppendInt(b, int64(r.Status), 10)
	b = append(b, " - "...)
	b = appendReason(b, r.Reason)
	b = append(b, " M="...)
	b = appendToken(b, r.Method)
	b = append(b, " IP="...)
	b = appendAddrPort(b, r.Src)
	l.ends(p, b, r.CallID)
}

// Ended writes the line of a call's end. Nothing of e is kept. It is a notice that the switches of requests and replies
// do not touch.
func (l *Log) Ended(e *End) {
	s := l.settings.Load()
	if s.level < levelNotice {
		return
	}
	if s.isJSON {
		l.endedJSON(e)
		return
	}
	p := lines.Get().(*line)
	defer lines.Put(p)
	b := l.begins(p.b[:0], "NOTICE: ", "Call ended - C=")
	b = appendToken(b, e.Reason)
	b = append(b, " D="...)
	b = appendSeconds(b, e.Duration)
	b = append(b, " F="...)
	b = appendToken(b, e.From)
	b = append(b, " T="...)
	b = appendToken(b, e.To)
	l.ends(p, b, e.CallID)
}

// appendSeconds appends a duration in seconds with three decimals.
func appendSeconds(b []byte, d time.Duration) []byte {
	return strconv.AppendFloat(b, max(0, d).Truncate(time.Millisecond).Seconds(), 'f', 3, 64)
}

// stamp is the text of a second; immutable.
type stamp struct {
	second int64 // Unix time
	text   string
}

// ends writes a line whose last field is the Call-ID.
func (l *Log) ends(p *line, b, callID []byte) {
	p.b = append(appendToken(append(b, " ID="...), callID), '\n')
	_, _ = l.writer.Write(p.b)
}

// begins appends what each line of the format kamailio begins with: the time, host, process, level, script and the
// first words of its text.
func (l *Log) begins(b []byte, level, text string) []byte {
	now := time.Now()
	s := l.stamp.Load()
	if second := now.Unix(); s == nil || s.second != second {
		s = &stamp{second, now.Format(time.Stamp)}
		l.stamp.Store(s)
	}
	b = append(b, s.text...)
	b = append(b, l.ident...)
	b = append(b, level...)
	b = append(b, l.script...)
	return append(append(b, ": "...), text...)
}

func appendParties(b, ruri, from, to []byte) []byte {
	b = append(b, " R="...)
	b = appendToken(b, ruri)
	b = append(b, " F="...)
	b = appendToken(b, from)
	b = append(b, " T="...)
	return appendToken(b, to)
}

// droppedLine is the line that tells of lost ones, in the format of the moment.
func (l *Log) droppedLine(b []byte, now time.Time, n uint64) []byte {
	if l.settings.Load().isJSON {
		b = now.AppendFormat(append(b, `{"time":"`...), timeFormat)
		b = append(b, `","level":"warning","event":"dropped","count":`...)
		b = strconv.AppendUint(b, n, 10)
		return append(b, `,"message":"log lines dropped"}`+"\n"...)
	}
	b = append(now.AppendFormat(b, time.Stamp), l.ident...)
	b = append(append(append(b, "WARNING: "...), l.script...), ": log lines dropped count="...)
	return append(strconv.AppendUint(b, n, 10), '\n')
}
