// Package dialog follows calls: which dialogs an INVITE made, what each of their
// two legs believes, and when they must end. It decides and returns what is to be
// done; it sends nothing, logs nothing and knows no socket.
package dialog
