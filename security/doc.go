// Package security decides what is stopped, and never stops the wrong one.
package security
