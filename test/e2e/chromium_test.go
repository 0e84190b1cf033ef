package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// chromium is a headless browser, steered by the DevTools protocol over a pipe.
type chromium struct {
	t       *testing.T
	cmd     *exec.Cmd
	profile string
	stderr  bytes.Buffer  // to be read once the process is gone
	gone    chan struct{} // closed when the process has ended and everything it said is read

	writing sync.Mutex
	pipe    *os.File

	mu      sync.Mutex // guards what follows
	last    int
	answers map[int]chan devtools
	tabs    map[string]*tab // by session
	dead    bool
}

// devtools is any message of the protocol.
type devtools struct {
	ID      int             `json:"id,omitempty"`
	Session string          `json:"sessionId,omitempty"`
	Method  string          `json:"method,omitempty"`
	Params  json.RawMessage `json:"params,omitempty"`
	Result  json.RawMessage `json:"result,omitempty"`
	Error   *struct {
		Message string `json:"message"`
	} `json:"error,omitempty"`
}

// startChromium starts a browser that trusts the certificate with that pin (base64 of the SHA-256 of its public key)
// for every name, and gives pages a microphone that beeps.
func startChromium(t *testing.T, pin string) *chromium {
	t.Helper()
	// Not t.TempDir: helpers of a killed browser may still write while it is removed.
	profile, err := os.MkdirTemp("", "sipward-chromium-")
	if err != nil {
		t.Fatal(err)
	}
	c := &chromium{t: t, profile: profile, gone: make(chan struct{}), answers: make(map[int]chan devtools), tabs: make(map[string]*tab)}
	c.cmd = exec.Command(need(t, "chromium"), "--headless=new", "--remote-debugging-pipe", "--user-data-dir="+profile,
		"--no-first-run", "--no-default-browser-check", "--no-proxy-server", "--disable-gpu", "--disable-quic", "--disable-sync", "--disable-extensions",
		"--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--disable-breakpad", "--mute-audio",
		"--ignore-certificate-errors-spki-list="+pin,
		"--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
		// Candidates of two tabs must meet on this host: no mDNS names, and loopback counts.
		"--disable-features=WebRtcHideLocalIpsWithMdns", "--allow-loopback-in-peer-connection",
		"--no-sandbox", // root has none, nor has a container, and the pages are ours
		"about:blank")
	c.cmd.Env = append(os.Environ(), "HOME="+profile, "XDG_CONFIG_HOME="+profile, "XDG_CACHE_HOME="+profile)
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that its helpers can be ended with it
	c.cmd.Stderr = &c.stderr
	c.cmd.WaitDelay = 10 * time.Second // helpers hold its standard error
	theirs, ours := pipe(t)
	back, answers := pipe(t)
	c.pipe = ours
	c.cmd.ExtraFiles = []*os.File{theirs, answers} // file descriptors 3 and 4
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = theirs.Close() // the child has its own
	_ = answers.Close()
	go c.listen(back)
	t.Cleanup(c.quit)
	c.do(t, "", "Target.setDiscoverTargets", map[string]any{"discover": false}, nil) // answers when it is up
	return c
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	return r, w
}

// listen reads to the end of the browser.
func (c *chromium) listen(back *os.File) {
	defer close(c.gone)
	in := bufio.NewReaderSize(back, 1<<16)
	for {
		text, err := in.ReadBytes(0)
		if err != nil {
			break
		}
		var m devtools
		if json.Unmarshal(text[:len(text)-1], &m) == nil {
			c.heard(m)
		}
	}
	_ = back.Close() // only read from
	_ = c.cmd.Wait() // how it ended is not asked
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead = true
	for _, answer := range c.answers {
		close(answer)
	}
	clear(c.answers)
}

func (c *chromium) heard(m devtools) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.ID != 0 {
		if answer := c.answers[m.ID]; answer != nil {
			answer <- m // has room for one, and there is one
			delete(c.answers, m.ID)
		}
		return
	}
	if p := c.tabs[m.Session]; p != nil {
		p.heard(m)
	}
}

// browserTime is how long the browser may take for anything; it matters only when a test fails.
const browserTime = 20 * time.Second

// do calls a method of the protocol; what it returns goes into result, unless that is nil.
func (c *chromium) do(t *testing.T, session, method string, params, result any) {
	t.Helper()
	if err := c.try(within(t, browserTime), session, method, params, result); err != nil {
		t.Fatal(err)
	}
}

var errBrowserGone = errors.New("the browser is gone")

func (c *chromium) try(ctx context.Context, session, method string, params, result any) error {
	raw, err := json.Marshal(params)
	if err != nil {
		return err
	}
	answer := make(chan devtools, 1)
	c.mu.Lock()
	if c.dead {
		c.mu.Unlock()
		return fmt.Errorf("%s: %w\n%s", method, errBrowserGone, c.stderr.String())
	}
	c.last++
	id := c.last
	c.answers[id] = answer
	c.mu.Unlock()
	text, err := json.Marshal(devtools{ID: id, Session: session, Method: method, Params: raw})
	if err != nil {
		return err
	}
	c.writing.Lock()
	_, err = c.pipe.Write(append(text, 0))
	c.writing.Unlock()
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	select {
	case m, ok := <-answer:
		if !ok {
			return fmt.Errorf("%s: %w", method, errBrowserGone)
		}
		if m.Error != nil {
			return fmt.Errorf("%s: %s", method, m.Error.Message)
		}
		if result == nil {
			return nil
		}
		return json.Unmarshal(m.Result, result)
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", method, ctx.Err())
	}
}

// kill ends the browser without a chance to say goodbye to anybody.
func (c *chromium) kill() {
	c.t.Helper()
	if err := syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL); err != nil {
		c.t.Fatal(err)
	}
	<-c.gone
}

// quit ends the browser and removes its traces.
func (c *chromium) quit() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := c.try(ctx, "", "Browser.close", struct{}{}, nil); err == nil {
		select {
		case <-c.gone:
		case <-ctx.Done():
		}
	}
	_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL) // what is left of it, if anything
	<-c.gone
	_ = c.pipe.Close() // nobody reads it
	for range 50 {
		if os.RemoveAll(c.profile) == nil {
			return
		}
		time.Sleep(20 * time.Millisecond) // a helper was writing
	}
	c.t.Errorf("%s is left behind", c.profile)
}

// tab is one page of a browser.
type tab struct {
	browser *chromium
	t       *testing.T
	target  string
	session string

	mu             sync.Mutex // guards what follows
	sent, received []string   // WebSocket messages
	said           []string   // on the console
}

// open opens a page and waits until it is loaded.
func (c *chromium) open(t *testing.T, url string) *tab {
	t.Helper()
	p := &tab{browser: c, t: t}
	var target struct {
		TargetID string `json:"targetId"`
	}
	c.do(t, "", "Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	p.target = target.TargetID
	var session struct {
		SessionID string `json:"sessionId"`
	}
	c.do(t, "", "Target.attachToTarget", map[string]any{"targetId": p.target, "flatten": true}, &session)
	p.session = session.SessionID
	c.mu.Lock()
	c.tabs[p.session] = p
	c.mu.Unlock()
	for _, domain := range []string{"Page", "Runtime", "Network"} {
		c.do(t, p.session, domain+".enable", struct{}{}, nil)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(p.story())
		}
	})
	p.load(url)
	return p
}

// in lets another test, a part of the one that opened the tab, go on with it.
func (p *tab) in(t *testing.T) {
	was := p.t
	p.t = t
	t.Cleanup(func() { p.t = was })
}

// load shows another document in the tab, or the same one anew.
func (p *tab) load(url string) {
	p.t.Helper()
	p.browser.do(p.t, p.session, "Page.navigate", map[string]any{"url": url}, nil)
	p.eval(`new Promise(done => document.readyState === 'complete' ? done() : addEventListener('load', () => done()))`, nil)
}

// eval evaluates an expression in the page, waits for it if it is a promise, and stores its value.
func (p *tab) eval(expression string, value any) {
	p.t.Helper()
	var out struct {
		Result struct {
			Value json.RawMessage `json:"value"`
		} `json:"result"`
		ExceptionDetails *struct {
			Text      string `json:"text"`
			Exception struct {
				Description string `json:"description"`
			} `json:"exception"`
		} `json:"exceptionDetails"`
	}
	params := map[string]any{"expression": expression, "awaitPromise": true, "returnByValue": true, "userGesture": true}
	if err := p.browser.try(within(p.t, browserTime), p.session, "Runtime.evaluate", params, &out); err != nil {
		p.t.Fatalf("%s: %v", expression, err)
	}
	if e := out.ExceptionDetails; e != nil {
		p.t.Fatalf("%s: %s %s", expression, e.Text, e.Exception.Description)
	}
	if value == nil {
		return
	}
	if err := json.Unmarshal(out.Result.Value, value); err != nil {
		p.t.Fatalf("%s: %v", expression, err)
	}
}

// close closes the tab as its user does.
func (p *tab) close() {
	p.t.Helper()
	p.browser.do(p.t, "", "Target.closeTarget", map[string]any{"targetId": p.target}, nil)
}

// crash ends the page's process.
func (p *tab) crash() {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), browserTime)
	defer cancel()
	// The one that should answer is gone.
	go func() { _ = p.browser.try(ctx, p.session, "Page.crash", struct{}{}, nil) }()
}

func (p *tab) heard(m devtools) {
	var event struct {
		Response struct {
			PayloadData string `json:"payloadData"`
		} `json:"response"`
		Args []struct {
			Value       any    `json:"value"`
			Description string `json:"description"`
		} `json:"args"`
		ErrorMessage string `json:"errorMessage"`
	}
	if json.Unmarshal(m.Params, &event) != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch m.Method {
	case "Network.webSocketFrameSent":
		p.sent = append(p.sent, event.Response.PayloadData)
	case "Network.webSocketFrameReceived":
		p.received = append(p.received, event.Response.PayloadData)
	case "Network.webSocketFrameError":
		p.said = append(p.said, event.ErrorMessage)
	case "Runtime.consoleAPICalled", "Runtime.exceptionThrown":
		p.said = append(p.said, string(m.Params))
	}
}

// story is what the page did, for the report of a failed test.
func (p *tab) story() string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var log struct {
		Result struct {
			Value string `json:"value"`
		} `json:"result"`
	}
	params := map[string]any{"expression": "JSON.stringify(phone.log)", "returnByValue": true}
	if err := p.browser.try(ctx, p.session, "Runtime.evaluate", params, &log); err != nil {
		log.Result.Value = err.Error()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return fmt.Sprintf("%s\nconsole: %s\nsent:\n%s\nreceived:\n%s", log.Result.Value, strings.Join(p.said, "\n"),
		strings.Join(p.sent, "\n"), strings.Join(p.received, "\n"))
}

// npmCI installs the packages that the lock file in dir names, and checks them against it.
func npmCI(t *testing.T, dir string) (modules string) {
	t.Helper()
	into := t.TempDir()
	for _, name := range []string{"package.json", "package-lock.json"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(into, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(within(t, 3*time.Minute), need(t, "npm"), "ci", "--ignore-scripts", "--no-bin-links", "--no-audit", "--no-fund", "--prefer-offline")
	cmd.Dir = into
	if out, err := cmd.CombinedOutput(); err != nil {
		if os.Getenv("CI") == "" {
			t.Skipf("npm ci: %v\n%s", err, out)
		}
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	return filepath.Join(into, "node_modules")
}
