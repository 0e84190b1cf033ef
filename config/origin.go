package config

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// checkOrigins makes sure that each origin can be what a browser sends in Origin (RFC 6454 section 6.1): one that cannot
// would shut every page out.
func (l *loader) checkOrigins(one *Listener, key string) {
	if len(one.Origins) > 0 && !one.Web() {
		l.errorf(key+".origins", "belongs to ws and wss listeners, and this one is %s", one.Proto)
		return
	}
	for i, origin := range one.Origins {
		at := fmt.Sprintf("%s.origins[%d]", key, i)
		if l.isBroken(at) {
			continue
		}
		if err := checkOrigin(origin); err != nil {
			l.errorf(at, "%v", err)
		}
	}
}

func checkOrigin(origin string) error {
	const want = "want scheme://host or scheme://host:port, for example https://phone.example.org"
	if strings.Contains(origin, "*") {
		return fmt.Errorf("%s: there are no wildcards; name each origin, or none to take every one", quote(origin))
	}
	u, err := url.Parse(origin)
	if err != nil || len(origin) > 256 || u.Scheme == "" || u.Host == "" || strings.ContainsFunc(origin, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("%s, not %s", want, quote(origin))
	}
	bare := u.Scheme + "://" + u.Host
	switch {
	case u.User != nil:
		return fmt.Errorf("%s, not %s", want, quote(origin))
	case !strings.EqualFold(origin, bare):
		return fmt.Errorf("an origin has no path and no query, not even a slash (did you mean %q?)", bare)
	case slices.Contains([]string{"ws", "wss", "sip", "sips"}, u.Scheme):
		return fmt.Errorf("the origin is where the page comes from, its scheme is http or https, not %s", u.Scheme)
	case strings.HasSuffix(u.Host, ":"):
		return fmt.Errorf("%s, not %s", want, quote(origin))
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return fmt.Errorf("want a port from 1 to 65535, not %s", quote(p))
		}
	}
	// Apps have schemes and hosts of their own, such as app://-; only those of the web follow its rules.
	if h := u.Hostname(); (u.Scheme == "http" || u.Scheme == "https") && !isHostName(h) && !isAddress(h) {
		return fmt.Errorf("%s, not %s", want, quote(origin))
	}
	return nil
}
