// Package store keeps what must outlive the process in one file: a short state for each call and each binding
// of a phone, and a secret. What a state means is its owner's business.
//
// Put and Delete note in memory what is to be written; the last word on an id counts. A goroutine writes it every 250 ms,
// all in one transaction that is on the disk when it ends (bbolt: a file is whole after a crash at any moment). What
// comes and goes within that time never reaches the disk, and a crash costs at most the changes of that time, and of the
// write under way. Nobody ever waits for the disk but who calls Flush or Close.
//
// What the disk refuses waits and is tried again. What waits is bounded; above the bound changes are lost and counted.
//
// One process at a time can have the file.
package store
