package transport

import (
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"
)

// Numbers we chose.
const (
	// certificatePoll is how often the files are looked at. Looking is right whatever way they are replaced in: written
	// anew, renamed over, behind a symbolic link (certbot) or behind a link in their path (Kubernetes).
	certificatePoll = 10 * time.Second
	// settled is the age from which on a file cannot be written once more without a new time of modification: file
	// systems keep these times in steps, of which the coarsest are 2 s.
	settled = 2 * time.Second
	// A certificate that nobody renewed is spoken of from expiresSoon before its end on, once in expiryEvery.
	expiresSoon = 14 * 24 * time.Hour
	expiryEvery = 24 * time.Hour
)

// ReloadCertificates reads the certificates, keys and client authorities of all tls and wss listeners anew. New
// connections use what is sound of it, running ones go on; of what is not the old one stays, and an error says why.
func (l *Layer) ReloadCertificates() []error {
	var failed []error
	for _, listener := range l.Listeners() {
		news, errs := listener.reload(time.Now(), true)
		l.tell(news, nil)
		failed = append(failed, errs...)
	}
	return failed
}

// watchCertificates looks at the files at each tick, until Close.
func (l *Layer) watchCertificates(tick <-chan time.Time) {
	for {
		select {
		case <-l.done:
			return
		case now := <-tick:
			l.lookAtCertificates(now)
		}
	}
}

func (l *Layer) lookAtCertificates(now time.Time) {
	for _, listener := range l.Listeners() {
		l.tell(listener.reload(now, false))
		l.tell(nil, listener.expiring(now))
	}
}

// watchesCertificates reports whether there is anything to look at.
func (l *Layer) watchesCertificates() bool {
	return slices.ContainsFunc(l.Listeners(), func(o *Listener) bool { return len(o.credentials) > 0 })
}

// tell passes lines on. No lock is held.
func (l *Layer) tell(news []string, failed []error) {
	for _, line := range news {
		l.options.OnReload("%s", line)
	}
	for _, err := range failed {
		l.options.OnProblem("%v", err)
	}
}

// reload takes over what is new, all of it or only what seems to have changed, and returns what there is to say. When
// only changes are looked for, a failure is worth a line if it is there the second time, and one line only: certificate
// and key are two files, written one after the other.
func (l *Listener) reload(now time.Time, all bool) (news []string, failed []error) {
	l.reloading.Lock()
	defer l.reloading.Unlock()
	isChanged := false
	for _, c := range l.credentials {
		if !all && !c.isBroken && !c.hasChanged() {
			continue
		}
		wasBroken := c.isBroken
		isNew, err := c.read()
		switch {
		case err != nil:
			text := err.Error()
			if all || wasBroken && c.told != text {
				failed = append(failed, fmt.Errorf("%s: %w; the old one stays in use", l.name(), err))
				c.told = text
			}
			continue
		case isNew:
			isChanged = true
			news = append(news, fmt.Sprintf("%s of %s reloaded%s", c.name(), l.name(), c.validity()))
		case c.told != "":
			news = append(news, fmt.Sprintf("%s of %s is what it was before again%s", c.name(), l.name(), c.validity()))
		}
		c.told = ""
		if isNew && !all {
			c.warned = time.Time{}
		}
		if all {
			c.warned = now // whoever reads the configuration has said it
		}
	}
	if isChanged {
		l.takeCredentials()
	}
	return news, failed
}

// expiring names the certificates that are near their end or over it.
func (l *Listener) expiring(now time.Time) []error {
	l.reloading.Lock()
	defer l.reloading.Unlock()
	var ending []error
	for _, c := range l.credentials {
		if c.pair == nil || c.until.Sub(now) > expiresSoon || now.Sub(c.warned) < expiryEvery {
			continue
		}
		c.warned = now
		verb := "expires"
		if c.until.Before(now) {
			verb = "expired"
		}
		ending = append(ending, fmt.Errorf("%s of %s %s on %s: renew it, the new file is taken over by itself",
			c.name(), l.name(), verb, c.until.UTC().Format(time.DateOnly)))
	}
	return ending
}

func (l *Listener) name() string { return fmt.Sprintf("%s %s", l.spec.Proto, l.bound) }

func (c *credential) name() string { return c.files[0].setting + " " + c.files[0].path }

func (c *credential) validity() string {
	if c.pair == nil {
		return ""
	}
	return ", valid until " + c.until.UTC().Format("2006-01-02 15:04 MST")
}

// look returns what identifies the present contents of the files. Links are followed.
func (c *credential) look() []fs.FileInfo {
	seen := make([]fs.FileInfo, len(c.files))
	for i, f := range c.files {
		if info, err := os.Stat(f.path); err == nil {
			seen[i] = info
		}
	}
	return seen
}

// hasChanged reports whether a file differs, or may, from what was read last.
func (c *credential) hasChanged() bool {
	for i, is := range c.look() {
		was := c.seen[i]
		switch {
		case is == nil && was == nil:
		case is == nil || was == nil || !os.SameFile(is, was) || is.Size() != was.Size() || !is.ModTime().Equal(was.ModTime()):
			return true
		case c.readAt.Sub(was.ModTime()) < settled:
			return true
		}
	}
	return false
}
