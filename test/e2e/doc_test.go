// Package e2e tries the built sipward binary from outside: with SIPp, sipsak and baresip, with
// user agents built on sipgo, and byte by byte. test/README.md says what each test proves.
//
// The edge and everybody outside are on 127.0.0.1, the PBX nodes on 127.0.0.2 and 127.0.0.3: the
// edge tells a node from a client by its address.
package e2e
