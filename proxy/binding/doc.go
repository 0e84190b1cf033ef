// Package binding is what the edge knows of registered phones.
package binding
