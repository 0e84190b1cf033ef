// Package resolve locates SIP servers (RFC 3263).
package resolve
